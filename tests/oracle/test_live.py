"""Is it Linux, here and now? The same calls to the simulator and to the kernel that runs this test.

Each case is judged by what both return and by the mappings they leave in a window of addresses that
nothing else uses. Elsewhere than on Linux 6.18 for x86-64 there is nothing to ask.
"""

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from contigmm import abi
from contigmm.errors import SyscallError
from contigmm.mm.config import MmConfig
from contigmm.mm.task import Task
from contigmm.phys import Memory, VmaIndex
from contigmm.syscalls.madvise import madvise
from contigmm.syscalls.mempolicy import get_mempolicy, mbind, set_mempolicy
from contigmm.syscalls.mlock import mlock
from contigmm.syscalls.mmap import mmap
from contigmm.syscalls.move_pages import check_flags, move_pages
from contigmm.syscalls.mprotect import mprotect
from contigmm.syscalls.mremap import mremap
from contigmm.syscalls.mseal import mseal
from contigmm.syscalls.munlock import munlock
from contigmm.syscalls.munmap import munmap
from contigmm.syscalls.touch import touch_read, touch_write
from contigmm.validate.oracle_views import snapshot

CHILD = Path(__file__).with_name("live_child.py")
THP = Path("/sys/kernel/mm/transparent_hugepage")
FRAMES = 1 << 16
CALLS = {
    "mmap": mmap, "mprotect": mprotect, "munmap": munmap, "mremap": mremap, "madvise": madvise,
    "mlock": mlock, "munlock": munlock, "mseal": mseal,
}  # fmt: skip
POLICIES = {
    "mbind": mbind, "set_mempolicy": set_mempolicy, "get_mempolicy": get_mempolicy,
}  # fmt: skip
P, H = 4096, 2 << 20
A = 0x10_0000_0000
RW, FIXED = 3, 0x32
MOVE = abi.MREMAP_MAYMOVE | abi.MREMAP_FIXED
HUGE = [["mmap", A, 2 * H, RW, FIXED, -1, 0], ["madvise", A, 2 * H, abi.MADV_HUGEPAGE]]
SMALL = [["mmap", A, 16 * P, RW, FIXED, -1, 0]]


def advise(advice, addr=A, length=H):
    return ["madvise", addr, length, advice]


CASES = {
    "a write makes a huge page": [*HUGE, ["store", A + 5 * P, 1, 7], ["load", A, 9]],
    "a read maps zeros": [*HUGE, ["load", A, 3], ["look"], ["store", A + P, 1, 1], ["load", A, 3]],
    "half is unmapped": [*HUGE, ["store", A, 512, 1], ["munmap", A, H // 2]],
    "one page is protected": [*HUGE, ["store", A, 3, 1], ["mprotect", A + P, P, 1]],
    "an aligned move": [*HUGE, ["store", A, 3, 1], ["mremap", A, H, H, MOVE, A + 8 * H]],
    "a move by a page": [*HUGE, ["store", A, 3, 1], ["mremap", A, H, H, MOVE, A + 8 * H + P]],
    "zeros leave a folio that is split": [*HUGE, ["store", A, 3, 1], advise(20, A + 8 * P, P)],
    "paging out splits": [*HUGE, ["store", A, 3, 1], advise(21), ["look"], ["load", A, 512]],
    "given up and written again": [
        *HUGE, ["store", A, 9, 1], advise(8), ["store", A, 1, 2], advise(21),
    ],
    "collapse": [
        ["mmap", A, 2 * H, RW, FIXED, -1, 0], ["store", A, 3, 5], advise(25), ["load", A, 4],
    ],
    "collapse of a hole": [
        ["mmap", A, 3 * H, RW, FIXED, -1, 0], ["store", A + H, 3, 5], advise(25, A, 2 * H),
    ],
    "collapse past a guard": [
        ["mmap", A, 3 * H, RW, FIXED, -1, 0], ["store", A, 3, 5], ["store", A + H, 3, 5],
        advise(102, A + 5 * P, P), advise(25, A, 2 * H),
    ],
    "dropped and huge again": [*HUGE, ["store", A, 9, 1], advise(4), ["store", A, 1, 1]],
    "guards in a huge page": [
        *HUGE, ["store", A, 9, 1], advise(102, A + P, P), advise(103, A, H), ["store", A + P, 1, 1],
    ],
    "a lock on a part": [*HUGE, ["mlock", A, 4 * P], ["look"], ["munlock", A, 4 * P]],
    "left by a move, moved and grown again": [
        *SMALL, ["munmap", A + P, P], ["store", A, 1, 1],
        ["mremap", A, 3 * P, 3 * P, MOVE | abi.MREMAP_DONTUNMAP, A + 64 * P], ["look"],
        ["mremap", A + 64 * P, P, P, MOVE | abi.MREMAP_DONTUNMAP, A + 128 * P],
        ["mremap", A + 64 * P, P, 2 * P, abi.MREMAP_MAYMOVE, 0],
    ],
    "policies and their refusals": [
        *SMALL,
        ["mbind", A, 4 * P, 2, 1, 0], ["mbind", A, P, 2, 2, 0],
        ["mbind", A + 1, P, 9, 1, 0],
        ["mbind", A, 64 * P, 2, 1, 0], ["mbind", A, 0, 0x2000, 3, 1], ["mbind", A, P, 3, 1, 16],
        ["mbind", A, 4 * P, 0xC002, 1, 0], ["get_mempolicy", A, 2], ["get_mempolicy", A, 0],
        ["get_mempolicy", 0, 1], ["set_mempolicy", 0x4001, 4], ["set_mempolicy", 3, 1],
        ["get_mempolicy", 0, 4], ["mbind", A + 4 * P, 4 * P, 2, 1, 0],
        ["get_mempolicy", A, 3], ["get_mempolicy", A + 4 * P, 3],
    ],
    "where pages are, and moving them": [
        *SMALL, ["store", A, 2, 1], ["load", A + 4 * P, 1],
        ["move_pages", [A, A + P, A + 4 * P, A + 5 * P, A - P], None, 0],
        ["move_pages", [A, A + 4 * P, A + 5 * P], [0, 0, 0], 2],
        ["move_pages", [A, A + P], [0, 1], 2], ["move_pages", [A], [-1], 4],
        ["move_pages", [A], [0], 1], ["move_pages", [A], [0], 6],
    ],
    "a sealed page that cannot be written": [
        *SMALL, ["mprotect", A, 16 * P, 1], ["mseal", A, 4 * P, 0], advise(4, A, P),
        advise(18, A, P), advise(0, A, P), ["munmap", A, P],
    ],
}  # fmt: skip


def moved(task, pages, nodes, flags):
    """What move_pages(2) returned, and the status of each page behind it."""
    check_flags(task, flags)
    left, status = move_pages(task, task, pages, nodes, flags)
    return [left, *status]


def simulate(operations):
    zone = {"node": 0, "kind": "Normal", "start_pfn": 0, "spanned": FRAMES, "managed": FRAMES}
    memory = Memory.boot(json.dumps({"seed": 1, "nr_cpus": 1, "zones": [zone]}))
    config = MmConfig(memory, profile="linux", total_ram_pages=FRAMES)
    task = Task(config, VmaIndex(), caps=frozenset({"CAP_IPC_LOCK", "CAP_SYS_NICE"}))
    task.mm.mmap_base = 0x7FFF_0000_0000

    def run(name, *arguments):
        if name == "look":
            seen = snapshot(task, ["smaps"])
            rows = zip(seen["maps"], seen["smaps"], strict=True)
            return [[line.rsplit(" ", 1)[0], fields] for line, fields in rows]
        if name == "store":
            return touch_write(task, arguments[0], arguments[1], P, arguments[2])
        if name == "load":
            return [touch_read(task, arguments[0] + P * i, 1, P)[1] for i in range(arguments[1])]
        try:
            if name == "move_pages":
                return moved(task, *arguments)
            if name in POLICIES:
                result = POLICIES[name](task, *arguments)
                return list(result) if isinstance(result, tuple) else result
            return CALLS[name](task, *(word & abi.U64_MAX for word in arguments))
        except SyscallError as refusal:
            return -refusal.errno

    result = [run(*operation) for operation in operations]
    memory.check()
    return result


def plain(results):
    """Snapshots with absent figures as zeros and flags as sets, all else as it is."""
    fields = ("Rss", "AnonHugePages")
    return [
        [
            (line, *(row.get(name, 0) for name in fields), frozenset(flags_of(row)))
            for line, row in result
        ]
        if isinstance(result, list) and result and isinstance(result[0], list)
        else result
        for result in results
    ]


def flags_of(row):
    flags = row["VmFlags"]
    return flags.split() if isinstance(flags, str) else flags


@pytest.fixture(scope="module")
def kernel():
    if platform.machine() != "x86_64" or not platform.release().startswith("6.18."):
        pytest.skip(f"the reference is Linux 6.18 on x86-64, this is {platform.release()}")
    if not THP.exists() or "[madvise]" not in (THP / "enabled").read_text(encoding="ascii"):
        pytest.skip("the cases expect transparent_hugepage/enabled to be madvise")

    def ask(operations):
        done = subprocess.run(
            [sys.executable, str(CHILD)],
            input=json.dumps(operations), capture_output=True, check=True, text=True, timeout=60,
        )  # fmt: skip
        return json.loads(done.stdout)

    return ask


@pytest.mark.parametrize("case", CASES)
def test_the_running_kernel_answers_the_same(kernel, case):
    operations = [*CASES[case], ["look"]]
    assert plain(simulate(operations)) == plain(kernel(operations))
