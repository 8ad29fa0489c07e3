"""The small machine of a scenario: tasks, a driver, memory to look at."""

import json
from dataclasses import dataclass, field
from typing import Final

from contigmm.abi import PAGE_SHIFT, RLIMIT_MEMLOCK
from contigmm.description import PageClass
from contigmm.mm.config import MmConfig, default_rlimits
from contigmm.mm.files import Backing, Inode
from contigmm.mm.task import Task
from contigmm.phys import Memory, VmaIndex

#: Frames of each of the two nodes: 64 MiB.
NODE_FRAMES: Final = 16 << 10
_PFN_MASK: Final = (1 << 55) - 1
_PRESENT: Final = 1 << 63


@dataclass(slots=True)
class BenchMachine:
    """Two nodes of 64 MiB and one CPU, under one policy of MAP_CONTIG."""

    profile: str
    memory: Memory = field(init=False)
    config: MmConfig = field(init=False)

    def __post_init__(self) -> None:
        zones = [
            {
                "node": node,
                "kind": "Normal",
                "start_pfn": node * NODE_FRAMES,
                "spanned": NODE_FRAMES,
                "managed": NODE_FRAMES,
            }
            for node in range(2)
        ]
        self.memory = Memory.boot(json.dumps({"seed": 1, "nr_cpus": 1, "zones": zones}))
        self.config = MmConfig(self.memory, profile=self.profile, total_ram_pages=2 * NODE_FRAMES)
        self.config.nodes = 0b11

    def task(self, *, memlock_pages: int = NODE_FRAMES, pid: int = 1) -> Task:
        """Make a task of user 1000 on node 0 that may lock ``memlock_pages``."""
        rlimits = default_rlimits()
        limit = memlock_pages << PAGE_SHIFT
        rlimits[RLIMIT_MEMLOCK] = (limit, limit)
        return Task(self.config, VmaIndex(), pid=pid, uid=1000, rlimits=rlimits)

    def index(self) -> VmaIndex:
        """Make an index for a forked child."""
        return VmaIndex()

    def unowned(self) -> int:
        """Count the frames that nobody uses, on free lists and on lists of a CPU."""
        classes = self.memory.frame_classes()
        return int(((classes == PageClass.FREE) | (classes == PageClass.PCP)).sum())


def frames(task: Task, addr: int, nr: int) -> list[int]:
    """Return the frames of ``nr`` pages; -1 where none is present."""
    words = task.mm.memory.pagemap(mm=task.mm.id, vpn=addr >> PAGE_SHIFT, nr=nr)
    return [int(word) & _PFN_MASK if int(word) & _PRESENT else -1 for word in words]


def are_contiguous(pfns: list[int]) -> bool:
    """Are they all there, and each the one after the last?"""
    return pfns[0] >= 0 and pfns == list(range(pfns[0], pfns[0] + len(pfns)))


class FailingDriver(Backing):
    """A device whose mmap operation notes its own buffer in the VMA, and then fails."""

    __slots__ = ("mmap_errno", "private_pfn")
    kind = "device"

    def __init__(self, private_pfn: int, mmap_errno: int) -> None:
        super().__init__("/dev/failing", Inode(0, 1 << 30))
        self.private_pfn = private_pfn
        self.mmap_errno = mmap_errno
