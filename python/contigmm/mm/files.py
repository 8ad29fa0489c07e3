"""What can stand behind a mapping: files, shared anonymous objects, the kernel's own pages.

Sizes, seals and modes live here; which pages are cached is physical memory's to know, and it
tells an object's pages apart by ``Inode.core_id``.
"""

from typing import TYPE_CHECKING, Final

from contigmm.abi import F_SEAL_SEAL, PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    from contigmm.mm.mm_struct import MmStruct
    from contigmm.mm.task import Task
    from contigmm.mm.vma import VmArea

# include/linux/fs.h: MAX_LFS_FILESIZE on 64 bits, v6.12
MAX_LFS_FILESIZE: Final = (1 << 63) - 1
# fs/ext4/super.c:ext4_max_size() with extents and 4 KiB blocks, v6.12: 2^32 - 1 blocks
EXT4_MAX_BYTES: Final = ((1 << 32) - 1) * PAGE_SIZE


class Inode:
    """An object with pages: what all open descriptions and mappings of it share."""

    __slots__ = (
        "core_id",
        "i_mmap",
        "nr_open",
        "owner_uid",
        "seals",
        "size",
        "writable_mappings",
    )

    def __init__(
        self, core_id: int, size: int, seals: int = F_SEAL_SEAL, *, owner_uid: int | None = None
    ) -> None:
        self.core_id = core_id  # names its page cache; 0 has none
        self.size = size  # bytes
        self.seals = seals  # F_SEAL_*; only a memfd made so may be sealed
        self.owner_uid = owner_uid  # who may write it besides root; None: everybody, as with shmem
        self.nr_open = 0  # descriptors of it, in all tables
        self.writable_mappings = 0  # i_mmap_writable: VM_SHARED|VM_MAYWRITE mappings
        self.i_mmap: dict[VmArea, MmStruct] = {}  # who maps it; in order of mapping

    def nr_pages(self) -> int:
        """Pages up to the end of the object, a started one included."""
        return (self.size + PAGE_SIZE - 1) >> PAGE_SHIFT


class Backing:
    """``struct file`` as mappings see it; the class attributes say what its kind allows."""

    __slots__ = ("inode", "mode_write", "name")

    kind = "file"
    is_hugetlb = False
    is_special = False  # pages of the kernel: [vdso], [vvar]
    is_shmem = False
    is_nameless = False  # in no directory: ends with its last descriptor and mapping
    thp_aligned = False  # places large mappings on huge-page boundaries
    knows_sync = False  # FOP_MMAP_SYNC: MAP_SHARED_VALIDATE may ask for MAP_SYNC
    supports_sync = True  # does not look at VM_SYNC
    readable = True  # FMODE_READ
    mappable = True  # has a mmap operation
    max_bytes = MAX_LFS_FILESIZE
    mmap_errno = 0  # what its mmap operation fails with; 0: it does not
    private_pfn = -1  # first frame that its mmap operation notes in vm_private_data; -1: none

    def __init__(self, name: str, inode: Inode, *, writable: bool = True) -> None:
        self.name = name  # as /proc/PID/maps prints it
        self.inode = inode
        self.mode_write = writable  # FMODE_WRITE

    def may_be_written_by(self, task: "Task") -> bool:
        """Is it the task's own, or is the task privileged?

        The kernel asks so before it tells which pages are cached, can_do_mincore(), and before it
        drops them, can_do_file_pageout(), v6.18. Nobody may write what is special.
        """
        owner = self.inode.owner_uid
        owns = owner in (None, task.uid) or {"CAP_DAC_OVERRIDE", "CAP_FOWNER"} & task.caps
        return bool(owns) and not self.is_special


class SpecialMapping(Backing):
    """Pages that the kernel maps itself: mm/mmap.c:_install_special_mapping(), v6.12."""

    __slots__ = ("absent",)
    kind = "special"
    is_special = True

    def __init__(self, name: str, inode: Inode, absent: frozenset[int] = frozenset()) -> None:
        super().__init__(name, inode)
        self.absent = absent  # pages that have nothing behind them: SIGBUS


class Pipe(Backing):
    """One end of a pipe: an open file that cannot be mapped."""

    __slots__ = ("readable",)
    kind = "pipe"
    mappable = False

    def __init__(self, *, readable: bool) -> None:
        super().__init__("pipe", Inode(0, 0), writable=not readable)
        self.readable = readable


class SharedAnonymous(Backing):
    """The nameless shmem file behind a shared anonymous mapping: shmem_zero_setup(), v6.12."""

    __slots__ = ("charged",)
    kind = "shared-anonymous"
    is_shmem = True
    is_nameless = True

    def __init__(self, inode: Inode, charged: int) -> None:
        super().__init__("/dev/zero (deleted)", inode)
        self.charged = charged  # pages promised, given back with the last mapping


class HugetlbFile(Backing):
    """An anonymous hugetlbfs file: hugetlb_file_setup(), v6.12."""

    __slots__ = ("page_bytes",)
    kind = "hugetlb"
    is_hugetlb = True

    def __init__(self, inode: Inode, page_bytes: int) -> None:
        super().__init__("/anon_hugepage (deleted)", inode)
        self.page_bytes = page_bytes


class MemFd(Backing):
    """A file of memfd_create(2): shmem with a name and, perhaps, seals."""

    __slots__ = ()
    kind = "memfd"
    is_shmem = True
    is_nameless = True


class Ext4File(Backing):
    """An open file of ext4."""

    __slots__ = ("readable",)
    kind = "ext4"
    thp_aligned = True
    knows_sync = True
    supports_sync = False  # fs/ext4/file.c:ext4_file_mmap_prepare(): no DAX, no VM_SYNC
    max_bytes = EXT4_MAX_BYTES

    def __init__(
        self, name: str, inode: Inode, *, writable: bool = True, readable: bool = True
    ) -> None:
        super().__init__(name, inode, writable=writable)
        self.readable = readable
