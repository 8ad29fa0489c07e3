"""Address spaces of logged processes: built from a maps block, or learned while the log is read."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from contigmm.abi import PAGE_SHIFT, PAGE_SIZE
from contigmm.hosts.maps_blocks import MapsLine
from contigmm.mm.files import Backing, Ext4File, Inode, MemFd, SpecialMapping
from contigmm.mm.flags import (
    VM_ACCOUNT,
    VM_DONTDUMP,
    VM_DONTEXPAND,
    VM_EXEC,
    VM_GROWSDOWN,
    VM_IO,
    VM_MAY_ALL,
    VM_MAYSHARE,
    VM_PFNMAP,
    VM_READ,
    VM_SHARED,
    VM_WRITE,
    VmFlags,
)
from contigmm.mm.task import Task
from contigmm.mm.vma import may_share_perms
from contigmm.phys import VmaIndex
from contigmm.validate.strace_writes import SupposedWrites

if TYPE_CHECKING:
    from contigmm.mm.config import MmConfig
    from contigmm.mm.mm_struct import MmStruct
    from contigmm.mm.vma import VmArea

#: Longest mapping of one file; its real size is not in any log.
_UNKNOWN_SIZE: Final = 1 << 40
_SHMEM_PATHS: Final = ("/memfd:", "/dev/shm/", "/dev/zero", "/SYSV")
# arch/x86/entry/vdso/vma.c, v6.18: _install_special_mapping() of [vdso] and of the data pages.
_VDSO_FLAGS: Final = VM_READ | VM_EXEC | VM_MAY_ALL | VM_DONTEXPAND
_VVAR_FLAGS: Final = VM_READ | 0x10 | VM_IO | VM_DONTDUMP | VM_PFNMAP | VM_DONTEXPAND


@dataclass(slots=True)
class Space:
    """An address space, and what the log has told about it so far.

    ``is_complete`` says that all its mappings are known: it began with a maps block. In one that
    is not, mappings are assumed where a call that succeeded needs them.
    """

    task: Task
    is_complete: bool
    knows_base: bool = False
    knows_brk: bool = False
    in_mid_life: bool = False  # it may have anything anywhere: no chosen address can be judged
    pids: set[int] = field(default_factory=set)
    files: dict[int, Backing] = field(default_factory=dict)
    writes: SupposedWrites = field(default_factory=SupposedWrites)


@dataclass(slots=True, frozen=True)
class DescriptorUse:
    """What one mmap says about its descriptor. ``addr`` and ``offset`` are in bytes."""

    fd: int
    path: str
    addr: int
    offset: int
    is_fixed: bool


class Files:
    """The objects behind descriptors and paths of one log.

    A log of memory calls shows descriptors only, unless strace was told ``-y``. A mapping of offset
    0 is taken for a file just opened. One of another offset belongs to the file that the
    descriptor had last, but a fixed one only where it meets a mapping of that file: programs are
    mapped whole first and then piece by piece.
    """

    def __init__(self) -> None:
        self._by_path: dict[str, Backing] = {}
        self.unnamed: set[int] = set()  # core ids of the files without a path

    def of_path(self, config: "MmConfig", path: str) -> Backing:
        """Return the file of a path; one path is one file."""
        path = path.removesuffix(" (deleted)")
        file = self._by_path.get(path)
        if file is None:
            file = self._by_path[path] = _open(config, path)
        return file

    def of_descriptor(self, space: Space, use: DescriptorUse) -> Backing:
        """Return the file behind a descriptor at one mmap."""
        config = space.task.mm.config
        last = space.files.get(use.fd)
        if use.path:
            file = self.of_path(config, use.path)
        elif last is None or use.offset == 0 or (use.is_fixed and not _meets(space, use, last)):
            file = _open(config, "")
            self.unnamed.add(file.inode.core_id)
        else:
            file = last
        space.files[use.fd] = file
        return file

    def is_unnamed(self, file: Backing | None) -> bool:
        """Is it a file whose path the log does not tell?"""
        return file is not None and file.inode.core_id in self.unnamed


def _meets(space: Space, use: DescriptorUse, file: Backing) -> bool:
    """Is ``file`` mapped where the mapping begins, or right before?"""
    mm = space.task.mm
    return any(
        vma is not None and vma.file is file
        for vma in (mm.vma_lookup(use.addr), mm.vma_lookup(use.addr - 1))
    )


def _open(config: "MmConfig", path: str) -> Backing:
    shmem = path.startswith(_SHMEM_PATHS)
    inode = Inode(config.memory.file_create(shmem=shmem, size=_UNKNOWN_SIZE), _UNKNOWN_SIZE)
    return MemFd(path, inode) if shmem else Ext4File(path, inode)


def unknown_space(config: "MmConfig", pid: int, *, in_mid_life: bool) -> Space:
    """Make the space of a process of which nothing is known yet."""
    task = Task(config, VmaIndex(), pid=pid)
    return Space(task, is_complete=False, in_mid_life=in_mid_life, pids={pid})


def space_from_maps(
    config: "MmConfig", pid: int, maps: list[MapsLine], files: Files, start_brk: int | None
) -> Space:
    """Build the space that a maps block shows, as execve left it.

    The search for free space begins where the highest mapping below the stack ends: execve maps
    the interpreter, or the vDSO, there first (fs/binfmt_elf.c:load_elf_binary(), v6.18).
    """
    task = Task(config, VmaIndex(), pid=pid)
    mm = task.mm
    space = Space(task, is_complete=True, knows_base=True, knows_brk=True, pids={pid})
    stack = next((line.start for line in maps if line.name == "[stack]"), 1 << 47)
    for line in maps:
        _map(mm, line, files)
        if line.name == "[stack]":
            mm.start_stack = line.end - 8
        if line.end <= stack:
            mm.mmap_base = line.end
    if start_brk is None:
        program = [line.end for line in maps if line.name == maps[0].name] if maps else [0]
        start_brk = program[-1]
    mm.start_brk = mm.brk = start_brk
    return space


def _map(mm: "MmStruct", line: MapsLine, files: Files) -> None:
    file: Backing | None = None
    vm_flags = _flags_of(line)
    pgoff = line.start >> PAGE_SHIFT
    if line.name.startswith("[v"):
        vm_flags = _VDSO_FLAGS if line.name == "[vdso]" else _VVAR_FLAGS
        file, pgoff = SpecialMapping(line.name, Inode(0, 0)), 0
    elif line.name.startswith("/"):
        file, pgoff = files.of_path(mm.config, line.name), line.offset >> PAGE_SHIFT
    vma = mm.new_vma(line.start, line.end, VmFlags(vm_flags), pgoff, file)
    mm.link(vma)
    mm.account(vm_flags, (line.end - line.start) >> PAGE_SHIFT)
    mm.config.overcommit.committed += (
        (line.end - line.start) >> PAGE_SHIFT if vm_flags & VM_ACCOUNT else 0
    )


def _flags_of(line: MapsLine) -> int:
    vm_flags: int = VM_MAY_ALL
    for letter, bit in zip(line.perms, (VM_READ, VM_WRITE, VM_EXEC), strict=False):
        vm_flags |= bit if letter != "-" else 0
    if line.perms[3] == "s":
        vm_flags |= VM_SHARED | VM_MAYSHARE
    elif vm_flags & VM_WRITE:
        vm_flags |= VM_ACCOUNT
    if line.name == "[stack]":
        vm_flags |= VM_GROWSDOWN
    return vm_flags


def assume_mapped(mm: "MmStruct", start: int, end: int) -> int:
    """Map what must have been there: fill the holes of a range; return the pages filled."""
    filled = 0
    at = start & -PAGE_SIZE
    end = (end + PAGE_SIZE - 1) & -PAGE_SIZE
    while at < end:
        vma = mm.find_vma(at)
        stop = end if vma is None else min(vma.vm_start, end)
        if at < stop:
            line = MapsLine(at, stop, "rw-p", 0, "")
            _map(mm, line, Files())
            filled += (stop - at) >> PAGE_SHIFT
        at = end if vma is None else max(stop, vma.vm_end)
    return filled


def maps_of(mm: "MmStruct") -> list[tuple[MapsLine, "VmArea"]]:
    """Return what /proc/PID/maps shows, with the VMA of each line."""
    lines = []
    for vma in mm.all_vmas():
        flags = vma.vm_flags
        perms = "".join(
            letter if flags & bit else "-"
            for letter, bit in zip("rwx", (VM_READ, VM_WRITE, VM_EXEC), strict=True)
        )
        has_offset = vma.file is not None and not vma.file.is_special
        offset = vma.vm_pgoff << PAGE_SHIFT if has_offset else 0
        perms += may_share_perms(flags)
        line = MapsLine(vma.vm_start, vma.vm_end, perms, offset, mm.name_of(vma))
        lines.append((line, vma))
    return lines
