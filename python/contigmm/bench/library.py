"""What the library costs: system calls of a process, page tables and zeroing included.

Input: ``spec:medium`` (4 GiB, freshly booted), profile ``contig``. Each subject has a process
of its own, with ``vmas`` VMAs beside the one measured. What ends in ``_page`` is of one page, in a
range of 64 MiB.
"""

from collections.abc import Callable
from typing import Final

from contigmm.abi import (
    MADV_DONTNEED,
    MADV_POPULATE_WRITE,
    MAP_ANONYMOUS,
    MAP_CONTIG,
    MAP_POPULATE,
    MAP_PRIVATE,
    PROT_READ,
    PROT_WRITE,
)
from contigmm.bench.measure import Subject
from contigmm.sim.machine import Machine
from contigmm.sim.process import Process

KIB_64: Final = 64 << 10
MIB_4: Final = 4 << 20
MIB_64: Final = 64 << 20
PAGE: Final = 4096
_RW: Final = PROT_READ | PROT_WRITE
_PRIVATE: Final = MAP_PRIVATE | MAP_ANONYMOUS
_NO_LIMIT: Final = {"MEMLOCK": (1 << 62, 1 << 62)}
_PFN_MASK: Final = (1 << 55) - 1
_FAULTS: Final = 1024
_VMAS: Final = 1000
_MANY_VMAS: Final = 100_000
_FORK_PAGES: Final = 33  # a VMA; in half of them all are resident: 500 times 33 pages are 64 MiB


def subjects(machine: Machine) -> list[Subject]:
    """Everything that is measured on ``machine``."""
    return [
        _pair(machine, "mmap_munmap_64k", KIB_64, _PRIVATE, number=500),
        _pair(machine, "contig_64k", KIB_64, _PRIVATE | MAP_CONTIG, number=500),
        _pair(machine, "contig_4m", MIB_4, _PRIVATE | MAP_CONTIG, number=20),
        _fault(machine, "fault"),
        _fork(machine),
        _pair(machine, "populate_4m", MIB_4, _PRIVATE | MAP_POPULATE, number=20),
        *_pages(machine),
        _pair(machine, "mmap_munmap_64k_100k", KIB_64, _PRIVATE, number=500, vmas=_MANY_VMAS),
        _fault(machine, "fault_100k", vmas=_MANY_VMAS),
    ]


def _spawn(
    machine: Machine, name: str, *, pages: int = 1, vmas: int = _VMAS
) -> tuple[Process, int]:
    """A process with ``vmas`` VMAs of ``pages`` pages that cannot merge, and where they begin.

    The lowest is read-only, so that what is mapped below it does not merge with it either.
    """
    process = machine.spawn(name, rlimits=_NO_LIMIT)
    step = pages * PAGE
    base = process.mmap(0, vmas * step, PROT_READ, _PRIVATE)
    for at in range(base + step, base + vmas * step, 2 * step):
        process.mprotect(at, step, _RW)
    return process, base


def _pair(
    machine: Machine, name: str, length: int, flags: int, *, number: int, vmas: int = _VMAS
) -> Subject:
    process, _ = _spawn(machine, name, vmas=vmas)

    def work() -> None:
        process.munmap(process.mmap(0, length, _RW, flags), length)

    def check() -> None:
        if flags & MAP_CONTIG:
            _check_contiguous(process, length)

    return Subject(name, work, number, vmas=vmas, before=check)


def _check_contiguous(process: Process, length: int) -> None:
    """Untimed: the pages are there, next to each other, and zero."""
    addr = process.mmap(0, length, _RW, _PRIVATE | MAP_CONTIG)
    pfns = process.pagemap(addr, length) & _PFN_MASK
    if not (pfns[0] and (pfns[1:] == pfns[:-1] + 1).all()):
        raise RuntimeError("MAP_CONTIG did not map contiguous frames")
    if process.read(addr, length).strip(b"\0"):
        raise RuntimeError("MAP_CONTIG did not map zeroed frames")
    process.write(addr, b"\1" * length)  # so that the next check sees whether they are zeroed
    process.munmap(addr, length)


def _fault(machine: Machine, name: str, *, vmas: int = _VMAS) -> Subject:
    """One write to a page that is absent, in a mapping of 4 MiB."""
    process, _ = _spawn(machine, name, vmas=vmas)
    place = [0]

    def before() -> None:
        place[0] = process.mmap(0, _FAULTS * PAGE, _RW, _PRIVATE)

    def work() -> None:
        process.touch(place[0], 1)
        place[0] += PAGE

    def after() -> None:
        process.munmap(place[0] - _FAULTS * PAGE, _FAULTS * PAGE)

    return Subject(name, work, _FAULTS, vmas=vmas, before=before, after=after)


def _pages(machine: Machine) -> list[Subject]:
    """Populating a range, and zapping it: what is left when mapping and unmapping are not timed."""
    process, _ = _spawn(machine, "pages")
    addr = process.mmap(0, MIB_64, _RW, _PRIVATE)
    return page_subjects("", lambda advice: process.madvise(addr, MIB_64, advice), vmas=_VMAS)


def page_subjects(prefix: str, advise: Callable[[int], object], *, vmas: int = 1) -> list[Subject]:
    """The two subjects of one page, for whoever carries out advice on 64 MiB."""

    def populate() -> None:
        advise(MADV_POPULATE_WRITE)

    def zap() -> None:
        advise(MADV_DONTNEED)

    units = MIB_64 // PAGE
    return [
        Subject(f"{prefix}populate_page", populate, 1, vmas=vmas, units=units, before=zap),
        Subject(f"{prefix}zap_page", zap, 1, vmas=vmas, units=units, before=populate),
    ]


def _fork(machine: Machine) -> Subject:
    """A fork of 1,000 VMAs with 64 MiB resident, and the child's exit: per half of the pair."""
    step = _FORK_PAGES * PAGE
    process, base = _spawn(machine, "fork", pages=_FORK_PAGES)
    for at in range(base + step, base + _VMAS * step, 2 * step):
        process.touch(at, step)

    def work() -> None:
        process.fork().exit()

    return Subject("fork_1000_vmas", work, 2, vmas=_VMAS)
