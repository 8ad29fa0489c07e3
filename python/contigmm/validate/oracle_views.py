"""What a recorded program sees of itself, in the oracle's words: maps, smaps, status."""

from typing import TYPE_CHECKING, Any

from contigmm.abi import PAGE_SHIFT
from contigmm.mm.flags import VM_EXEC, VM_LOCKED, VM_READ, VM_WRITE, vm_flags_letters
from contigmm.mm.vma import may_share_perms

if TYPE_CHECKING:
    from contigmm.mm.mm_struct import MmStruct
    from contigmm.mm.task import Task
    from contigmm.mm.vma import VmArea

_STATUS = (
    "VmSize", "VmLck", "VmPin", "VmRSS", "RssAnon", "RssFile", "RssShmem", "VmData", "VmStk",
)  # fmt: skip

_USAGE = {
    "Rss": "rss", "Anonymous": "anonymous", "AnonHugePages": "anonymous_thp",
    "ShmemPmdMapped": "shmem_thp",
}  # fmt: skip


def _maps_line(mm: "MmStruct", vma: "VmArea") -> str:
    vm_flags = vma.vm_flags
    perms = (
        ("r" if vm_flags & VM_READ else "-")
        + ("w" if vm_flags & VM_WRITE else "-")
        + ("x" if vm_flags & VM_EXEC else "-")
        + may_share_perms(vm_flags)
    )
    has_offset = vma.file is not None and not vma.file.is_special
    offset = vma.vm_pgoff << PAGE_SHIFT if has_offset else 0
    line = f"{vma.vm_start:x}-{vma.vm_end:x} {perms} {offset:x}"
    name = mm.name_of(vma)
    return f"{line} {name}" if name else line


def _smaps_entry(mm: "MmStruct", vma: "VmArea") -> dict[str, Any]:
    usage = mm.memory.usage(
        mm=mm.id,
        vpn=vma.vm_start >> PAGE_SHIFT,
        nr=(vma.vm_end - vma.vm_start) >> PAGE_SHIFT,
    )
    kib = {name: usage[key] >> 10 for name, key in _USAGE.items()}
    if vma.vm_flags & VM_LOCKED:
        kib["Locked"] = usage["pss"] >> 10
    entry: dict[str, Any] = {name: value for name, value in kib.items() if value}
    entry["VmFlags"] = vm_flags_letters(vma.vm_flags)
    return entry


def snapshot(task: "Task", what: "list[str]") -> dict[str, Any]:
    """Take the asked views: a subset of maps, smaps (which brings maps along) and status."""
    mm = task.mm
    vmas = mm.all_vmas()
    answer: dict[str, Any] = {}
    if "maps" in what or "smaps" in what:
        answer["maps"] = [_maps_line(mm, vma) for vma in vmas]
    if "smaps" in what:
        answer["smaps"] = [_smaps_entry(mm, vma) for vma in vmas]
    if "status" in what:
        status = mm.status()
        answer["status"] = {name: status[name] for name in _STATUS}
    return answer
