"""What all address spaces of one machine share: sysctls, promises, MAP_CONTIG's policy."""

from typing import TYPE_CHECKING, Final

from contigmm.abi import PAGE_SIZE, RLIM_INFINITY, RLIMIT_NUMBERS, TASK_SIZE
from contigmm.mm.files import SharedAnonymous
from contigmm.mm.limits import Overcommit
from contigmm.mm.policy import ContigPolicy, policies
from contigmm.mm.ports import HugePort

if TYPE_CHECKING:
    from collections.abc import Mapping

    from contigmm.mm.files import Backing, Inode
    from contigmm.mm.mm_struct import Rlimits
    from contigmm.mm.ports import MemoryPort

#: arch/x86/mm/mmap.c, v6.12: mmap_base keeps at least this far from the top of the stack.
SIZE_128M: Final = 128 << 20
_PMD_ORDER: Final = 9
TASK_UNMAPPED_BASE: Final = (TASK_SIZE // 3 + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1)


def mmap_base_for(stack_soft: int, *, stack_guard_gap: int) -> int:
    """Where the search for free space begins, without randomisation.

    mmap_base() and stack_maxrandom_size(), arch/x86/mm/mmap.c, v6.12: the gap holds the stack's
    limit and its guard, and is clamped to [128 MiB, 5/6 of the address space].
    """
    gap = stack_soft
    pad = stack_guard_gap
    if gap + pad > gap and gap + pad <= RLIM_INFINITY:
        gap += pad
    gap = max(SIZE_128M, min(gap, TASK_SIZE // 6 * 5))
    return (TASK_SIZE - gap + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1)


def default_rlimits() -> "Rlimits":
    """Limits of a fresh process: INIT_RLIMITS, asm-generic/resource.h, v6.12."""
    rlimits = dict.fromkeys(RLIMIT_NUMBERS.values(), (RLIM_INFINITY, RLIM_INFINITY))
    rlimits[RLIMIT_NUMBERS["STACK"]] = (8 << 20, RLIM_INFINITY)
    rlimits[RLIMIT_NUMBERS["MEMLOCK"]] = (8 << 20, 8 << 20)
    rlimits[RLIMIT_NUMBERS["CORE"]] = (0, RLIM_INFINITY)
    rlimits[RLIMIT_NUMBERS["NOFILE"]] = (1024, 4096)
    return rlimits


#: What may be written to /proc/sys/vm, by the largest value: mm/util.c, mm/mmap.c, v6.18.
_SYSCTLS: Final = {
    "max_map_count": (1 << 31) - 1,
    "mmap_min_addr": (1 << 47) - 1,
    "overcommit_kbytes": (1 << 64) - 1,
    "overcommit_memory": 2,
    "overcommit_ratio": (1 << 31) - 1,
}


class MmConfig:
    """Settings of one machine's memory management, and its promises."""

    __slots__ = (
        "contig", "dac_mmap_min_addr", "directory", "huge", "hugetlb_free", "max_map_count",
        "memory", "mmap_base", "mmap_legacy_base", "mmap_min_addr", "nodes", "overcommit",
        "stack_guard_gap", "thp_always", "thp_madvise", "thp_shmem",
    )  # fmt: skip

    def __init__(
        self,
        memory: "MemoryPort",
        *,
        profile: str = "contig",
        total_ram_pages: int,
    ) -> None:
        self.memory = memory
        #: The same memory where it has huge pages and lazy freeing, else None.
        self.huge: HugePort | None = memory if isinstance(memory, HugePort) else None
        self.overcommit = Overcommit(total_ram_pages)
        self.contig: ContigPolicy = policies(profile)
        self.max_map_count = 65530  # DEFAULT_MAX_MAP_COUNT, include/linux/mm.h, v6.12
        self.stack_guard_gap = 256 * PAGE_SIZE  # mm/mmap.c, v6.12
        self.mmap_min_addr = 0x10000  # CONFIG_LSM_MMAP_MIN_ADDR
        self.dac_mmap_min_addr = 0x1000  # vm.mmap_min_addr
        self.mmap_base = mmap_base_for(8 << 20, stack_guard_gap=self.stack_guard_gap)
        self.mmap_legacy_base = TASK_UNMAPPED_BASE
        self.thp_always = False
        self.thp_madvise = True  # CONFIG_TRANSPARENT_HUGEPAGE_MADVISE
        self.thp_shmem = "never"  # which pages of shared memory are huge: shmem_enabled
        self.nodes = 1  # mask of the nodes that have memory
        self.hugetlb_free = 0  # free 2 MiB pages in the pool
        self.directory: dict[str, Inode] = {}  # files that open(2) made, by path

    def set_thp(
        self,
        enabled: str,
        *,
        defrag: str = "madvise",
        shmem: str = "never",
        use_zero_page: bool = True,
        orders: "Mapping[int, str] | None" = None,
    ) -> None:
        """Write to /sys/kernel/mm/transparent_hugepage.

        ``enabled`` is always, madvise or never; ``shmem`` is always, within_size, advise, never,
        deny or force, for pages of 2 MiB of memfds and shared anonymous memory; ``orders`` has the
        words of hugepages-*/enabled (these and inherit) by log2 of pages: by default those of
        2 MiB inherit, the others never.

        Raises:
            ValueError: no such word.
        """
        words = {_PMD_ORDER: "inherit", **(orders or {})}
        if wrong := sorted(set(words.values()) - {"always", "madvise", "inherit", "never"}):
            raise ValueError(f"transparent_hugepage/hugepages-*/enabled has no value {wrong[0]!r}")
        masks = {
            name: sum(1 << order for order, word in words.items() if word == name)
            for name in ("always", "madvise", "inherit")
        }
        if self.huge is not None:
            self.huge.thp_configure(
                enabled=enabled,
                defrag=defrag,
                shmem=shmem,
                use_zero_page=use_zero_page,
                **masks,
            )
        own = words[_PMD_ORDER]
        effective = enabled if own == "inherit" else own
        self.thp_always = effective == "always"
        self.thp_madvise = effective == "madvise"
        self.thp_shmem = shmem

    def set_sysctl(self, name: str, value: int | str) -> None:
        """Write to a file of /proc/sys/vm; one that no rule here asks for is passed over.

        Raises:
            ValueError: no such value.
        """
        if name not in _SYSCTLS:
            return
        number = int(value) if str(value).isdecimal() else -1
        if not 0 <= number <= _SYSCTLS[name]:
            raise ValueError(f"vm.{name} cannot be {value!r}: 0 to {_SYSCTLS[name]}")
        if name == "overcommit_memory":
            self.overcommit.mode = number
        elif name == "overcommit_ratio":
            self.overcommit.ratio = number
        elif name == "overcommit_kbytes":
            self.overcommit.kbytes = number
        elif name == "mmap_min_addr":
            self.dac_mmap_min_addr = number
        else:
            self.max_map_count = number

    def last_unmapped(self, file: "Backing") -> None:
        """Nobody maps ``file`` any more: end it if nobody has it open and no directory names it.

        iput_final() and shmem_evict_inode(), v6.12.
        """
        if not file.is_nameless or file.inode.nr_open:
            return
        if isinstance(file, SharedAnonymous):
            self.overcommit.committed -= file.charged
            file.charged = 0
        self.memory.file_drop(file.inode.core_id)
