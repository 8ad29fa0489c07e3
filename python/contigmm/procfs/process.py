"""/proc/PID/maps, smaps, status and statm, byte for byte as Linux v6.18 prints them.

fs/proc/task_mmu.c: show_map_vma(), show_smap(), task_mem(); fs/proc/array.c: proc_pid_statm().
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

# fs/proc/task_mmu.c:show_map_vma(), v6.18: seq_setwidth(m, 25 + sizeof(void *) * 6 - 1).
_NAME_COLUMN: Final = 25 + 8 * 6 - 1

SMAPS_NUMBERS: Final = (
    "Rss",
    "Pss",
    "Pss_Dirty",
    "Shared_Clean",
    "Shared_Dirty",
    "Private_Clean",
    "Private_Dirty",
    "Referenced",
    "Anonymous",
    "KSM",
    "LazyFree",
    "AnonHugePages",
    "ShmemPmdMapped",
    "FilePmdMapped",
    "Shared_Hugetlb",
    "Private_Hugetlb",
    "Swap",
    "SwapPss",
    "Locked",
)
"""Lines of smaps that count kB, in the kernel's order."""

STATUS_NUMBERS: Final = (
    "VmPeak",
    "VmSize",
    "VmLck",
    "VmPin",
    "VmHWM",
    "VmRSS",
    "RssAnon",
    "RssFile",
    "RssShmem",
    "VmData",
    "VmStk",
    "VmExe",
    "VmLib",
    "VmPTE",
    "VmSwap",
    "HugetlbPages",
)
"""Lines of status that count kB, in the kernel's order."""


@dataclass(slots=True, frozen=True)
class MapsRow:
    """One line of maps. Addresses and the offset are in bytes."""

    start: int
    end: int
    perms: str
    offset: int
    major: int
    minor: int
    inode: int
    name: str


@dataclass(slots=True, frozen=True)
class SmapsRow:
    """One VMA of smaps: its line of maps and what follows, numbers in kB."""

    maps: MapsRow
    numbers: Mapping[str, int]  # SMAPS_NUMBERS; what is missing is 0
    thp_eligible: bool
    vm_flags: str  # two letters a flag, separated by spaces
    page_kb: int = 4


def maps_line(row: MapsRow) -> str:
    """One line of /proc/PID/maps, its end included: show_map_vma()."""
    line = (
        f"{row.start:08x}-{row.end:08x} {row.perms} {row.offset:08x} "
        f"{row.major:02x}:{row.minor:02x} {row.inode} "
    )
    return f"{line:<{_NAME_COLUMN}} {row.name}\n" if row.name else f"{line}\n"


def maps_text(rows: Iterable[MapsRow]) -> str:
    """Text of /proc/PID/maps."""
    return "".join(map(maps_line, rows))


def smaps_text(rows: Iterable[SmapsRow]) -> str:
    """Text of /proc/PID/smaps."""
    return "".join(
        "".join(
            (
                maps_line(row.maps),
                _kb("Size", (row.maps.end - row.maps.start) >> 10),
                _kb("KernelPageSize", row.page_kb),
                _kb("MMUPageSize", row.page_kb),
                *(_kb(name, row.numbers.get(name, 0)) for name in SMAPS_NUMBERS),
                f"THPeligible:    {int(row.thp_eligible):8d}\n",
                f"VmFlags: {row.vm_flags} \n",
            )
        )
        for row in rows
    )


def smaps_rollup_text(rows: Sequence[MapsRow], numbers: Mapping[str, int]) -> str:
    """Text of /proc/PID/smaps_rollup: show_smaps_rollup(). ``numbers`` as :data:`SMAPS_NUMBERS`.

    Besides, ``Pss_Anon``, ``Pss_File`` and ``Pss_Shmem``.
    """
    start, end = (rows[0].start, rows[-1].end) if rows else (0, 0)
    labels = list(SMAPS_NUMBERS)
    at = labels.index("Pss_Dirty") + 1
    labels[at:at] = ["Pss_Anon", "Pss_File", "Pss_Shmem"]
    whole = MapsRow(start, end, "---p", 0, 0, 0, 0, "[rollup]")
    return maps_line(whole) + "".join(_kb(name, numbers.get(name, 0)) for name in labels)


def status_text(numbers: Mapping[str, int]) -> str:
    """Memory lines of /proc/PID/status: task_mem(). What is missing is 0."""
    return "".join(f"{name}:\t{numbers.get(name, 0):8d} kB\n" for name in STATUS_NUMBERS)


def statm_text(*, size: int, resident: int, shared: int, text: int, data: int) -> str:
    """Text of /proc/PID/statm, in pages: proc_pid_statm()."""
    return f"{size} {resident} {shared} {text} 0 {data} 0\n"


def _kb(name: str, kb: int) -> str:
    # The one label that fills its column has a space of its own.
    label = "Private_Hugetlb: " if name == "Private_Hugetlb" else f"{name + ':':<16s}"
    return f"{label}{kb:{24 - len(label)}d} kB\n"
