"""What the RFC of October 2017 does wrong, as scenarios that run under any policy.

A scenario drives system calls and looks at what they left: it never asks which policy it runs
under. Under ``rfc2017`` it finds the defect; with the policy swapped it does not. Defects are
numbered as in docs/rfc-defects.md.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from contigmm.abi import (
    EIO,
    MADV_DONTNEED,
    MAP_ANONYMOUS,
    MAP_CONTIG,
    MAP_FIXED,
    MAP_HUGETLB,
    MAP_NORESERVE,
    MAP_PRIVATE,
    MAP_SHARED,
    MAP_SHARED_VALIDATE,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    PAGE_SHIFT,
    PAGE_SIZE,
    PROT_NONE,
    PROT_READ,
    PROT_WRITE,
)
from contigmm.description import PageClass
from contigmm.errors import SyscallError
from contigmm.mm.fault import prealloc_pfn
from contigmm.mm.task import Task
from contigmm.study.bench_machine import BenchMachine, FailingDriver, are_contiguous, frames
from contigmm.syscalls.exit import exit as exit_task
from contigmm.syscalls.fork import fork
from contigmm.syscalls.madvise import madvise
from contigmm.syscalls.mmap import mmap
from contigmm.syscalls.move_pages import move_pages
from contigmm.syscalls.mprotect import mprotect
from contigmm.syscalls.mremap import mremap
from contigmm.syscalls.munmap import munmap
from contigmm.syscalls.touch import load, store, touch_write

RW: Final = PROT_READ | PROT_WRITE
CONTIG: Final = MAP_PRIVATE | MAP_ANONYMOUS | MAP_CONTIG
P: Final = PAGE_SIZE
#: More frames than page tables alone bring to a CPU's list: one batch of it.
_SINGLES: Final = 64
#: Bytes that nobody else writes: where one is read, its writer's memory is being read.
_OWN, _OTHER = b"\x11", b"\x77"


@dataclass(slots=True, frozen=True)
class Evidence:
    """What a scenario found. ``amount`` is 0 where all was well."""

    amount: int
    unit: str
    sentence: str


@dataclass(slots=True, frozen=True)
class Scenario:
    """One defect: where it comes from, what it takes, and how it shows."""

    defect: str
    name: str
    base: str  # which kernel's rule lets it through
    stub: str  # what stands in for a part that the simulator has not
    kind: str  # content, frames, limit, errno, contiguity or accounting
    run: Callable[[BenchMachine], Evidence]
    under: str = "rfc2017"


def _errno_of(call: Callable[[], object]) -> int:
    try:
        call()
    except SyscallError as refusal:
        return refusal.errno
    return 0


def limit_is_checked_and_never_charged(machine: BenchMachine) -> Evidence:
    """Map the limit's worth again and again."""
    task = machine.task(memlock_pages=4)
    held = 0
    for _ in range(8):
        if _errno_of(lambda: mmap(task, 0, 4 * P, RW, CONTIG)):
            break
        held += 4
    amount = max(0, held - 4)
    return Evidence(amount, "pages", f"{held} pages held under a RLIMIT_MEMLOCK of 4 pages")


def locked_is_not_pinned(machine: BenchMachine) -> Evidence:
    """Ask for every second page on the other node."""
    task = machine.task()
    addr = mmap(task, 0, 8 * P, RW, CONTIG)
    pages = [addr + at * P for at in range(0, 8, 2)]
    move_pages(task, task, pages, [1] * len(pages), 2)
    after = frames(task, addr, 8)
    moved = 0 if are_contiguous(after) else len(pages)
    return Evidence(moved, "pages", f"{moved} of 8 pages were migrated away from their run")


def dropped_pages_come_back_as_anothers(machine: BenchMachine) -> Evidence:
    """Drop the run's pages, let another task have the frames, and fault again."""
    task, other = machine.task(), machine.task(pid=2)
    addr = mmap(task, 0, 8 * P, RW, CONTIG)
    store(task, addr, _OWN)
    if _errno_of(lambda: madvise(task, addr, 8 * P, MADV_DONTNEED)):
        return Evidence(0, "bytes", "MADV_DONTNEED was refused")
    for _ in range(8):  # such pages come from the list that the dropped ones went to
        theirs = mmap(other, 0, P, RW, CONTIG)
        store(other, theirs, _OTHER)
    _write_elsewhere(task, addr, 8)
    seen = sum(load(task, addr + page * P, 1) == _OTHER for page in range(8))
    return Evidence(seen, "bytes", f"{seen} of 8 pages hold the byte that another task wrote")


def _write_elsewhere(task: Task, addr: int, nr: int) -> None:
    """Write the last byte of each of ``nr`` pages: a write fault that leaves the first byte."""
    for page in range(nr):
        store(task, addr + page * P + P - 1, _OWN)


def _leak(machine: BenchMachine, prot: int, flags: int, nr: int) -> Evidence:
    before = machine.unowned()
    task = machine.task()
    addr = mmap(task, 0, nr * P, prot, flags)
    munmap(task, addr, nr * P)
    exit_task(task)
    lost = before - machine.unowned()
    return Evidence(lost, "frames", f"{lost} frames belong to nobody after munmap and exit")


def never_faulted_pages_leak(machine: BenchMachine) -> Evidence:
    """Map without access, so that nothing is populated, and unmap."""
    return _leak(machine, PROT_NONE, CONTIG, 16)


def shared_run_is_replaced_by_shmem_and_leaks(machine: BenchMachine) -> Evidence:
    """Map shared: shmem brings pages of its own."""
    return _leak(machine, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_CONTIG, 16)


def halves_of_a_split_share_frames(machine: BenchMachine) -> Evidence:
    """Split a run before it is faulted in, and write through both halves."""
    task = machine.task()
    addr = mmap(task, 0, 8 * P, PROT_NONE, CONTIG)
    mprotect(task, addr + 4 * P, 4 * P, RW)
    touch_write(task, addr + 4 * P, 4, P, _OTHER[0])
    mprotect(task, addr, 4 * P, RW)
    for page in range(4):
        store(task, addr + page * P, _OWN)
    seen = sum(load(task, addr + (4 + page) * P, 1) == _OWN for page in range(4))
    return Evidence(seen, "bytes", f"{seen} bytes of the lower half are read in the upper half")


def failed_driver_loses_its_buffer(machine: BenchMachine) -> Evidence:
    """Map a device whose mmap fails after it has noted its buffer in the VMA."""
    task = machine.task()
    buffer = machine.memory.rfc_alloc(length_pages=4, cpu=0)
    task.files[3] = FailingDriver(buffer, EIO)
    before = machine.unowned()
    errno = _errno_of(lambda: mmap(task, 0, 4 * P, RW, MAP_SHARED, 3))
    freed = machine.unowned() - before
    return Evidence(freed, "frames", f"errno {errno}: {freed} frames of the driver's were freed")


def failed_fixed_mapping_leaves_a_hole(machine: BenchMachine) -> Evidence:
    """Map over something with MAP_FIXED more than can be had."""
    task = machine.task()
    at = mmap(task, 0, 8 << 20, RW, MAP_PRIVATE | MAP_ANONYMOUS)
    errno = _errno_of(lambda: mmap(task, at, 8 << 20, RW, CONTIG | MAP_FIXED))
    lost = 0 if task.mm.vma_lookup(at) is not None else (8 << 20) >> PAGE_SHIFT
    return Evidence(lost, "pages", f"errno {errno}, and {lost} pages of the old mapping are gone")


def tail_is_freed_page_by_page(machine: BenchMachine) -> Evidence:
    """Ask for a page more than a power of two, and look where the rest of the block lies."""
    task = machine.task()
    before = machine.memory.frame_classes()
    mmap(task, 0, 257 * P, RW, CONTIG)
    after = machine.memory.frame_classes()
    single = int(((after == PageClass.PCP) & (before != PageClass.PCP)).sum())
    amount = single if single >= _SINGLES else 0
    return Evidence(
        amount, "frames", f"{single} frames of the tail lie on a CPU's list, one by one"
    )


def no_more_than_the_largest_block(machine: BenchMachine) -> Evidence:
    """Ask an empty machine for one page more than 4 MiB."""
    task = machine.task()
    errno = _errno_of(lambda: mmap(task, 0, (4 << 20) + P, RW, CONTIG))
    return Evidence(errno, "errno", f"4 MiB and a page of 64 MiB free: errno {errno}")


def parent_loses_contiguity_by_fork(machine: BenchMachine) -> Evidence:
    """Fork, and let the parent write first."""
    task = machine.task()
    addr = mmap(task, 0, 8 * P, RW, CONTIG)
    device = frames(task, addr, 8)
    fork(task, pid=2, index=machine.index())
    touch_write(task, addr, 8)
    after = frames(task, addr, 8)
    moved = sum(old != new for old, new in zip(device, after, strict=True))
    return Evidence(moved, "pages", f"{moved} of 8 pages of the parent left the device's frames")


def loser_of_a_fault_race_frees_a_mapped_page(machine: BenchMachine) -> Evidence:
    """Let two faults at each address go step by step, in an order drawn from a seed."""
    draw = random.Random(2017)
    task = machine.task()
    addr = mmap(task, 0, 8 * P, PROT_NONE, CONTIG)
    mprotect(task, addr, 8 * P, RW)
    stray: list[int] = []
    for page in range(8):
        faults = [_fault(machine, task, addr + page * P, stray) for _ in range(2)]
        while faults:
            chosen = draw.choice(faults)
            if next(chosen, None) is None:
                faults.remove(chosen)
    return Evidence(len(stray), "frames", f"{len(stray)} mapped frames lost a reference not theirs")


def _fault(machine: BenchMachine, task: Task, addr: int, stray: list[int]) -> Iterator[str]:
    """do_anonymous_page() in two steps, mm/memory.c, v4.14: get a page, then look at the entry.

    The loser puts its page: its own if the fault allocated it, the run's if it came from there.
    """
    if frames(task, addr, 1) != [-1]:
        return
    vma = task.mm.vma_lookup(addr)
    assert vma is not None, "mapped a moment ago"
    base = prealloc_pfn(vma)
    page = base + ((addr - vma.vm_start) >> PAGE_SHIFT) if base >= 0 else -1
    yield "has a page"
    if frames(task, addr, 1) == [-1]:
        touch_write(task, addr)
    elif page >= 0 and frames(task, addr, 1) == [page]:
        machine.memory.rfc_free(base=page, nr=1, cpu=task.cpu)
        stray.append(page)


def moved_half_shares_frames(machine: BenchMachine) -> Evidence:
    """Move the upper half of a run elsewhere, and write through both."""
    task = machine.task()
    addr = mmap(task, 0, 8 * P, PROT_NONE, CONTIG)
    place = mmap(task, 0, 4 * P, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS)
    flags = MREMAP_MAYMOVE | MREMAP_FIXED
    if _errno_of(lambda: mremap(task, addr + 4 * P, 4 * P, 4 * P, flags, place)):
        return Evidence(0, "bytes", "the move of a part was refused")
    mprotect(task, place, 4 * P, RW)
    touch_write(task, place, 4, P, _OTHER[0])
    mprotect(task, addr, 4 * P, RW)
    for page in range(4):
        store(task, addr + page * P, _OWN)
    seen = sum(load(task, place + page * P, 1) == _OWN for page in range(4))
    return Evidence(seen, "bytes", f"{seen} bytes of the lower half are read in the moved one")


def taken_frames_are_charged_to_nobody(machine: BenchMachine) -> Evidence:
    """Take frames that no fault maps: faults are where a memory cgroup charges."""
    before = machine.unowned()
    task = machine.task()
    mmap(task, 0, 64 * P, PROT_NONE, CONTIG)
    taken = before - machine.unowned()
    anon, file, shmem, _ = machine.memory.rss(task.mm.id)
    charged = max(anon + file + shmem, task.mm.pinned_vm)
    amount = max(0, 64 - charged)
    return Evidence(amount, "frames", f"{taken} frames taken, {charged} charged or counted pinned")


def support_cannot_be_probed(machine: BenchMachine) -> Evidence:
    """Ask by MAP_SHARED_VALIDATE, which is there to tell known flags from unknown ones."""
    task = machine.task()
    flags = MAP_SHARED_VALIDATE | MAP_ANONYMOUS | MAP_CONTIG
    errno = _errno_of(lambda: mmap(task, 0, P, RW, flags))
    return Evidence(errno, "errno", f"the probe answers errno {errno}")


def bit_means_something_else(machine: BenchMachine) -> Evidence:
    """Ask a kernel that gave the bit to MAP_SYNC, on memory that is fragmented."""
    task = machine.task()
    scattered = mmap(task, 0, 64 * P, RW, MAP_PRIVATE | MAP_ANONYMOUS)
    touch_write(task, scattered, 64)
    for page in range(0, 64, 2):
        munmap(task, scattered + page * P, P)
    addr = mmap(task, 0, 16 * P, RW, CONTIG)
    touch_write(task, addr, 16)
    pfns = frames(task, addr, 16)
    pieces = 1 + sum(right != left + 1 for left, right in pairwise(pfns))
    return Evidence(pieces - 1, "cuts", f"mmap succeeds, and 16 pages lie in {pieces} pieces")


def hugetlb_forgets_the_run(machine: BenchMachine) -> Evidence:
    """Ask for huge pages too: hugetlbfs takes the field that names the run."""
    flags = CONTIG | MAP_HUGETLB | MAP_NORESERVE
    if errno := _errno_of(lambda: mmap(machine.task(), 0, 2 << 20, RW, flags)):
        return Evidence(0, "frames", f"the flags together are refused: errno {errno}")
    return _leak(machine, RW, flags, 512)


SCENARIOS: Final = (
    Scenario("D1", "lock-limit", "4.14", "-", "limit", limit_is_checked_and_never_charged),
    Scenario("D2", "locked-not-pinned", "6.18", "-", "contiguity", locked_is_not_pinned),
    Scenario("D3", "dropped-pages", "6.18", "-", "content", dropped_pages_come_back_as_anothers),
    Scenario("D4", "never-faulted", "4.14", "-", "frames", never_faulted_pages_leak),
    Scenario("D5", "shared", "4.14", "-", "frames", shared_run_is_replaced_by_shmem_and_leaks),
    Scenario("D6", "split", "4.14", "-", "content", halves_of_a_split_share_frames),
    Scenario(
        "D7",
        "driver-failure",
        "4.14",
        "a driver whose mmap fails",
        "frames",
        failed_driver_loses_its_buffer,
    ),
    Scenario("D8", "fixed", "4.14", "-", "errno", failed_fixed_mapping_leaves_a_hole),
    Scenario("D9", "tail", "6.18", "-", "frames", tail_is_freed_page_by_page),
    Scenario("D10", "largest-block", "4.14", "-", "errno", no_more_than_the_largest_block),
    Scenario("D11", "fork", "6.18", "-", "contiguity", parent_loses_contiguity_by_fork),
    Scenario(
        "D12",
        "fault-race",
        "4.14",
        "two faults interleaved by a seeded scheduler",
        "frames",
        loser_of_a_fault_race_frees_a_mapped_page,
    ),
    Scenario("D13", "partial-move", "6.18", "-", "content", moved_half_shares_frames),
    Scenario(
        "D14",
        "accounting",
        "4.14",
        "resident and pinned pages for a memory cgroup's counter",
        "accounting",
        taken_frames_are_charged_to_nobody,
    ),
    Scenario("D15", "probe", "6.18", "-", "errno", support_cannot_be_probed),
    Scenario(
        "D16", "bit-taken", "6.18", "-", "contiguity", bit_means_something_else, under="linux"
    ),
    Scenario("D17", "hugetlb", "4.14", "-", "frames", hugetlb_forgets_the_run),
)
