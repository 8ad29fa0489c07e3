"""A task: who asks. Its address space, its limits, its capabilities, its open files."""

from typing import TYPE_CHECKING

from contigmm.mm.config import default_rlimits
from contigmm.mm.file_table import FileTable
from contigmm.mm.mm_struct import MmStruct

if TYPE_CHECKING:
    from contigmm.mm.config import MmConfig
    from contigmm.mm.mm_struct import Rlimits
    from contigmm.mm.ports import VmaIndexPort
    from contigmm.mm.vma import Mempolicy


class Task:
    """``struct task_struct`` as far as memory goes. The first argument of every system call."""

    __slots__ = (
        "caps",
        "cpu",
        "files",
        "mempolicy",
        "mm",
        "node",
        "persona",
        "pid",
        "rlimits",
        "tgid",
        "uid",
    )

    def __init__(
        self,
        config: "MmConfig",
        index: "VmaIndexPort",
        *,
        pid: int = 1,
        uid: int = 0,
        caps: frozenset[str] = frozenset(),
        rlimits: "Rlimits | None" = None,
        cpu: int = 0,
        node: int = 0,
        persona: int = 0,
        mm: MmStruct | None = None,
    ) -> None:
        self.pid = pid
        self.tgid = pid  # pid of the thread group's first task
        self.uid = uid
        self.caps = caps
        self.rlimits: Rlimits = default_rlimits() if rlimits is None else rlimits
        self.cpu = cpu
        self.node = node
        self.persona = persona
        self.files = FileTable(config)
        self.mempolicy: Mempolicy | None = None
        self.mm = MmStruct(config.memory, config, index, self.rlimits) if mm is None else mm

    def vm_enough_memory(self, pages: int) -> bool:
        """Promise ``pages`` to this task's address space if they may be promised."""
        mm = self.mm
        return mm.config.overcommit.charge(mm, pages, is_admin="CAP_SYS_ADMIN" in self.caps)
