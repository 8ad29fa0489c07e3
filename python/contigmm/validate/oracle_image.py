"""From the state in which a recorded program began to a task in that state.

The recorder writes down its own image: VMAs, their flags, what is resident and where the heap and
the search for free space begin. That is rebuilt by the same operations that any process uses.
"""

from typing import TYPE_CHECKING, Any, Final

from contigmm.abi import (
    ADDR_COMPAT_LAYOUT,
    PAGE_SHIFT,
    PAGE_SIZE,
    READ_IMPLIES_EXEC,
    RLIMIT_NUMBERS,
)
from contigmm.mm.config import MmConfig, default_rlimits
from contigmm.mm.fault import anon_vma_prepare
from contigmm.mm.files import Backing, Ext4File, Inode, MemFd, Pipe, SpecialMapping
from contigmm.mm.flags import VM_GROWSDOWN, VM_IO, VM_WRITE, vm_flags_from_letters
from contigmm.mm.populate import fault_in
from contigmm.mm.task import Task

if TYPE_CHECKING:
    from collections.abc import Callable

    from contigmm.mm.mm_struct import MmStruct
    from contigmm.mm.ports import MemoryPort, VmaIndexPort

#: First descriptor of a program's files.
FILE_FD0: Final = 40
_ROOT_CAPS: Final = frozenset({"CAP_IPC_LOCK", "CAP_SYS_ADMIN", "CAP_SYS_RAWIO"})
#: Pages of the kernel's data that a task outside any time namespace cannot have.
_ABSENT: Final = {"[vvar]": frozenset({1, 3}), "[vvar_vclock]": frozenset({1})}
_LAYOUT: Final = ("start_code", "end_code", "start_data", "end_data", "start_brk", "start_stack")


def make_config(setup: dict[str, Any], memory: "MemoryPort") -> MmConfig:
    """Settings of the machine on which the program was recorded."""
    env = setup["env"]
    config = MmConfig(memory, profile="linux", total_ram_pages=env["total_ram_pages"])
    config.set_thp(
        env["thp"],
        shmem=env.get("thp_shmem", "never"),
        use_zero_page=bool(env.get("use_zero_page", 1)),
    )
    config.overcommit.mode = env.get("overcommit_memory", 0)
    config.overcommit.total_swap_pages = env.get("total_swap_pages", 0)
    config.max_map_count = env.get("max_map_count", config.max_map_count)
    config.dac_mmap_min_addr = env.get("mmap_min_addr", config.dac_mmap_min_addr)
    config.stack_guard_gap = env.get("stack_guard_gap_pages", 256) * PAGE_SIZE
    config.hugetlb_free = env.get("hugepages_2M", 0)
    return config


def make_task(
    program: dict[str, Any], memory: "MemoryPort", index: "Callable[[], VmaIndexPort]"
) -> Task:
    """Build the task as it was before operation 0."""
    setup, init = program["setup"], program["init"]
    config = make_config(setup, memory)
    rlimits = default_rlimits()
    for name, (soft, hard) in setup.get("rlimits", {}).items():
        rlimits[RLIMIT_NUMBERS[name.upper()]] = (soft, hard)
    uid = setup.get("uid", 0)
    caps = _ROOT_CAPS if uid == 0 else frozenset[str]()
    if not setup.get("cap_ipc_lock", uid == 0):
        caps -= {"CAP_IPC_LOCK"}
    # exec of a 64-bit program forgets it: arch/x86/kernel/process_64.c:set_personality_64bit()
    persona = setup.get("persona", 0) & ~READ_IMPLIES_EXEC
    task = Task(config, index(), uid=uid, caps=caps, rlimits=rlimits, persona=persona)
    mm = task.mm
    mm.topdown = not persona & ADDR_COMPAT_LAYOUT
    if init.get("mmap_base") is not None:
        mm.mmap_base = init["mmap_base"]
    for name in _LAYOUT:
        setattr(mm, name, init["layout"][name])
    mm.brk = init["brk"]
    _make_image(task, init)
    _open_files(task, setup.get("files", []))
    return task


def _make_image(task: Task, init: dict[str, Any]) -> None:
    mm = task.mm
    program = Ext4File("/mmrun", _filled_inode(task, 16))
    for line, fields in zip(init["maps"], init["smaps"], strict=True):
        span, _, offset, *name = line.split(" ", 3)
        start, end = (int(part, 16) for part in span.split("-"))
        vm_flags = vm_flags_from_letters(fields["VmFlags"])
        file: Backing | None = None
        pgoff = start >> PAGE_SHIFT
        if name and name[0] == "/mmrun":
            file, pgoff = program, int(offset, 16) >> PAGE_SHIFT
        elif name and name[0].startswith("[v"):
            has_pages = not vm_flags & VM_IO
            nr = (end - start) >> PAGE_SHIFT if has_pages else 0
            inode = _filled_inode(task, nr) if nr else Inode(0, 0)
            file, pgoff = SpecialMapping(name[0], inode, _ABSENT.get(name[0], frozenset())), 0
        vma = mm.new_vma(start, end, vm_flags, pgoff, file)
        mm.link(vma)
        mm.account(vm_flags, (end - start) >> PAGE_SHIFT)
        if vm_flags & VM_WRITE and file is None:
            anon_vma_prepare(mm, vma)
        _make_resident(task, mm, start, end, fields.get("Rss", 0) << 10)


def _filled_inode(task: Task, pages: int) -> Inode:
    """Make a file whose pages are all cached; an ELF file, as far as anybody can tell."""
    memory = task.mm.memory
    size = pages << PAGE_SHIFT
    inode = Inode(memory.file_create(shmem=False, size=size), size, owner_uid=0)
    for offset, byte in enumerate(b"\x7fELF"):
        memory.file_write(inode.core_id, offset=offset, value=byte)
    memory.cache_insert(inode.core_id, index=0, nr=pages)
    return inode


def _make_resident(task: Task, mm: "MmStruct", start: int, end: int, rss: int) -> None:
    """Fault in what was resident: of a stack its top, of all else its beginning."""
    if not rss:
        return
    vma = mm.vma_lookup(start)
    assert vma is not None, "linked a moment ago"
    low = end - rss if vma.vm_flags & VM_GROWSDOWN else start
    fault_in(task, vma, low, low + rss, write=bool(vma.vm_flags & VM_WRITE))


def _open_files(task: Task, files: list[dict[str, Any]]) -> None:
    """Open the program's files; page i of file k holds the byte (16k + i + 1) & 255."""
    memory = task.mm.memory
    for fd in range(3):  # the recorder's standard input, output and error
        task.files[fd] = Pipe(readable=fd == 0)
    for slot, spec in enumerate(files):
        is_memfd = spec["kind"] == "memfd"
        size = spec["size"]
        core_id = _patterned(memory, slot, size, shmem=is_memfd)
        inode = Inode(core_id, size, seals=0, owner_uid=None if is_memfd else 0)
        if is_memfd:
            file: Backing = MemFd(f"/memfd:f{slot} (deleted)", inode)
        else:
            file = Ext4File(f"/file{slot}", inode)
        task.files[FILE_FD0 + slot] = file
        file.mode_write = not (spec.get("mode") == "ro" and not is_memfd)


def _patterned(memory: "MemoryPort", slot: int, size: int, *, shmem: bool) -> int:
    """Make a file as the recorder wrote it, all of it cached; behind its end there are zeros."""
    pages = (size + PAGE_SIZE - 1) >> PAGE_SHIFT
    fill = (16 * slot + 1) & 255
    core_id = memory.file_create(shmem=shmem, size=size, fill=fill)
    memory.cache_insert(core_id, index=0, nr=pages)
    return core_id
