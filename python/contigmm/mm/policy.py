"""What bit 0x80000 of mmap(2)'s flags means: the one place where the profiles differ.

``linux``: MAP_SYNC, nothing contiguous. ``rfc2017``: the RFC as posted on 2017-10-12 with its
defects. ``contig``: MAP_CONTIG finished, on top of Linux 6.18. Everything else asks the policy.
"""

from typing import TYPE_CHECKING, Final, Protocol

from contigmm.abi import (
    EAGAIN,
    EINVAL,
    ENOMEM,
    EPERM,
    MAP_ANONYMOUS,
    MAP_CONTIG,
    MAP_DROPPABLE,
    MAP_GROWSDOWN,
    MAP_HUGETLB,
    MAP_LOCKED,
    MAP_NORESERVE,
    MAP_POPULATE,
    MAP_PRIVATE,
    MAP_SHARED_VALIDATE,
    MAP_TYPE,
    PAGE_SHIFT,
    RLIMIT_MEMLOCK,
)
from contigmm.description import MAX_NR_FRAMES
from contigmm.errors import Reason, SyscallError
from contigmm.mm.causes import no_memory
from contigmm.mm.flags import VM_CONTIG, VM_DONTCOPY, VM_DONTEXPAND, VM_LOCKED, VM_SYNC, VmFlags
from contigmm.mm.vma import vma_pages
from contigmm.phys import CoreError, InvariantError

if TYPE_CHECKING:
    from contigmm.mm.files import Backing
    from contigmm.mm.mm_struct import MmStruct
    from contigmm.mm.task import Task
    from contigmm.mm.vma import VmArea


#: A run that physical memory keeps no account of: those of rfc2017.
NO_CORE_RUN: Final = -1


class Run:
    """Frames next to each other that one mmap asked for. Frames go page by page, the run last."""

    __slots__ = ("base_pfn", "core_run", "nr", "owner_uid", "pieces_merge")

    def __init__(
        self, core_run: int, base_pfn: int, nr: int, owner_uid: int, *, pieces_merge: bool
    ) -> None:
        self.core_run = core_run  # id in physical memory, NO_CORE_RUN if that knows of none
        self.base_pfn = base_pfn
        self.nr = nr  # pages asked for
        self.owner_uid = owner_uid
        self.pieces_merge = pieces_merge  # a piece knows its place, and finds its neighbour again

    def maps_name(self) -> str:
        """Name in /proc/PID/maps; the RFC gave none."""
        return f"[contig:{self.core_run}]" if self.core_run != NO_CORE_RUN else ""


class ContigPolicy(Protocol):
    """How one profile answers MAP_CONTIG."""

    name: str
    #: VM_* bit of a VMA that is backed by a run; 0 if there are none.
    bit: VmFlags
    #: Take the frames before anything old is unmapped?
    allocates_first: bool
    #: VM_* bits that make MADV_DONTNEED and its like refuse, beside VM_LOCKED and VM_PFNMAP.
    keeps_pages: VmFlags

    def flag_bits(self, task: "Task", flags: int) -> tuple[int, VmFlags]:
        """Return ``flags`` with what the bit implies, and the VM_* bits it gives."""

    def allocate(self, task: "Task", nr: int) -> Run:
        """Take ``nr`` pages next to each other."""

    def abandon(self, task: "Task", run: Run) -> None:
        """Give back a run that no VMA came to hold."""

    def driver_failed(self, task: "Task", file: "Backing", nr: int) -> None:
        """Undo a VMA of ``nr`` pages whose driver refused, when ``file`` is not contiguous."""

    def hold(self, task: "Task", mm: "MmStruct", vma: "VmArea") -> None:
        """Count a VMA that has just been given (a piece of) a run."""

    def release(self, task: "Task", mm: "MmStruct", vma: "VmArea") -> None:
        """Let go of the piece that an unmapped VMA held."""

    def duplicate(self, mm: "MmStruct", copy: "VmArea") -> None:
        """Count a VMA that mremap(2) made of another, before that one goes."""

    def fork(self, child: "Task", mm: "MmStruct", copy: "VmArea") -> None:
        """Settle what a child's copy of a contiguous VMA is."""


def _not_contiguous() -> InvariantError:
    return InvariantError("a VMA of profile linux is backed by a contiguous run")


class LinuxSync:
    """v4.15 and later: the bit is MAP_SYNC, on any mapping."""

    name = "linux"
    bit = VmFlags(0)
    allocates_first = False
    keeps_pages = VmFlags(0)

    def flag_bits(self, task: "Task", flags: int) -> tuple[int, VmFlags]:
        """calc_vm_flag_bits(), include/linux/mman.h, v6.12."""
        return flags, VM_SYNC

    def allocate(self, task: "Task", nr: int) -> Run:
        """Never asked: no VMA of this profile is contiguous."""
        raise _not_contiguous()

    def abandon(self, task: "Task", run: Run) -> None:
        """Never asked."""
        raise _not_contiguous()

    def driver_failed(self, task: "Task", file: "Backing", nr: int) -> None:
        """unmap_region() has nothing to do, mm/vma.c, v6.18: what a driver noted is its own."""

    def hold(self, task: "Task", mm: "MmStruct", vma: "VmArea") -> None:
        """Never asked."""
        raise _not_contiguous()

    def release(self, task: "Task", mm: "MmStruct", vma: "VmArea") -> None:
        """Never asked."""
        raise _not_contiguous()

    def duplicate(self, mm: "MmStruct", copy: "VmArea") -> None:
        """Never asked."""
        raise _not_contiguous()

    def fork(self, child: "Task", mm: "MmStruct", copy: "VmArea") -> None:
        """Never asked."""
        raise _not_contiguous()


class Rfc2017:
    """RFC PATCH 3/3, 2017-10-12, step by step; what it forgot, it forgets here too."""

    name = "rfc2017"
    bit = VM_SYNC  # RFC 1/3: VM_CONTIG was 0x00800000, the bit that VM_SYNC took
    allocates_first = False
    keeps_pages = VmFlags(0)

    def flag_bits(self, task: "Task", flags: int) -> tuple[int, VmFlags]:
        """do_mmap() of the RFC: anonymous only; implies populate and lock.

        Raises:
            SyscallError: EINVAL, not anonymous.
        """
        if not flags & MAP_ANONYMOUS:
            raise SyscallError(EINVAL, Reason.CONTIG_NOT_ANONYMOUS)
        bits = VmFlags(VM_SYNC | VM_LOCKED | VM_DONTEXPAND)
        return flags | MAP_POPULATE | MAP_LOCKED, bits

    def allocate(self, task: "Task", nr: int) -> Run:
        """__alloc_vma_contig_range() of the RFC: one buddy block, split, tail freed.

        Raises:
            SyscallError: ENOMEM, above MAX_ORDER or no such block.
        """
        memory = task.mm.memory
        _check_countable(nr, Reason.CONTIG_ABOVE_MAX_ORDER)
        try:
            base = memory.rfc_alloc(length_pages=nr, cpu=task.cpu, node=task.node)
        except CoreError as refusal:
            raise no_memory(refusal.cause) from None
        return Run(NO_CORE_RUN, base, nr, task.uid, pieces_merge=False)

    def abandon(self, task: "Task", run: Run) -> None:
        """__free_vma_contig_range() of the RFC: every page is put."""
        task.mm.memory.rfc_free(base=run.base_pfn, nr=run.nr, cpu=task.cpu)

    def driver_failed(self, task: "Task", file: "Backing", nr: int) -> None:
        """``free_vma:`` of RFC 3/3 puts what vm_private_data points to, whoever set it."""
        if file.private_pfn >= 0:
            task.mm.memory.rfc_free(base=file.private_pfn, nr=nr, cpu=task.cpu)

    def hold(self, task: "Task", mm: "MmStruct", vma: "VmArea") -> None:
        """Nothing was charged."""

    def duplicate(self, mm: "MmStruct", copy: "VmArea") -> None:
        """The pointer is copied, and that is all."""

    def release(self, task: "Task", mm: "MmStruct", vma: "VmArea") -> None:
        """remove_vma() of the RFC forgets the pointer; zapping put what was mapped."""

    def fork(self, child: "Task", mm: "MmStruct", copy: "VmArea") -> None:
        """dup_mmap() of RFC 1/3: the child's copy is ordinary, but still may not expand."""
        copy.vm_flags = VmFlags(copy.vm_flags & ~VM_SYNC)
        copy.run = None


def _check_countable(nr: int, reason: Reason) -> None:
    """Refuse more frames than any machine has: the core counts them in 32 bits.

    Raises:
        SyscallError: ENOMEM.
    """
    if nr > MAX_NR_FRAMES:
        raise SyscallError(ENOMEM, reason)


_CONTRADICTORY: Final = MAP_HUGETLB | MAP_GROWSDOWN | MAP_NORESERVE


class Contig:
    """The finished flag: exact length, pinned, charged to task and user, allocated first."""

    name = "contig"
    bit = VM_CONTIG
    allocates_first = True
    keeps_pages = VM_CONTIG

    def __init__(self) -> None:
        self.user_limit_pages = 0  # per uid; 0: none
        self.user_pages: dict[int, int] = {}
        self.required_cap = ""  # capability without which the flag is refused

    def flag_bits(self, task: "Task", flags: int) -> tuple[int, VmFlags]:
        """Check the flags; ours (docs/fidelity.md).

        Raises:
            SyscallError: EINVAL, flags that contradict; EPERM, a capability is missing.
        """
        if not flags & MAP_ANONYMOUS:
            raise SyscallError(EINVAL, Reason.CONTIG_NOT_ANONYMOUS)
        if flags & _CONTRADICTORY or flags & MAP_TYPE == MAP_DROPPABLE:
            raise SyscallError(EINVAL, Reason.CONTIG_CONTRADICTORY_FLAGS)
        if self.required_cap and self.required_cap not in task.caps:
            raise SyscallError(EPERM, Reason.MISSING_CAPABILITY)
        flags |= MAP_POPULATE | MAP_LOCKED
        if flags & MAP_TYPE == MAP_SHARED_VALIDATE:
            flags &= ~2  # asked and answered: from here on it is MAP_SHARED
        bits = VM_CONTIG | VM_DONTEXPAND
        if flags & MAP_TYPE == MAP_PRIVATE:
            bits |= VM_DONTCOPY  # the device's pages stay the parent's alone
        return flags & ~MAP_CONTIG, VmFlags(bits)

    def allocate(self, task: "Task", nr: int) -> Run:
        """Charge task and user, then take exactly ``nr`` frames, zeroed and pinned.

        Up to 4 MiB they come from the buddy allocator, larger runs from a range that is emptied.

        Raises:
            SyscallError: EAGAIN, a limit; ENOMEM, no such run.
        """
        mm = task.mm
        limit = task.rlimits[RLIMIT_MEMLOCK][0] >> PAGE_SHIFT
        if mm.locked_vm + nr > limit and "CAP_IPC_LOCK" not in task.caps:
            raise SyscallError(EAGAIN, Reason.MEMLOCK_LIMIT)
        held = self.user_pages.get(task.uid, 0)
        if self.user_limit_pages and held + nr > self.user_limit_pages:
            raise SyscallError(EAGAIN, Reason.CONTIG_USER_LIMIT)
        _check_countable(nr, Reason.CONTIG_NO_RANGE)
        try:
            core_run, base = mm.memory.run_alloc(nr=nr, cpu=task.cpu, node=task.node)
        except CoreError as refusal:
            raise no_memory(refusal.cause, str(refusal.strerror)) from None
        self.user_pages[task.uid] = held + nr
        return Run(core_run, base, nr, task.uid, pieces_merge=True)

    def abandon(self, task: "Task", run: Run) -> None:
        """Undo :meth:`allocate`."""
        task.mm.memory.run_release(run=run.core_run, offset=0, nr=run.nr, cpu=task.cpu)
        self.user_pages[run.owner_uid] -= run.nr

    def driver_failed(self, task: "Task", file: "Backing", nr: int) -> None:
        """What a driver noted is its own."""

    def hold(self, task: "Task", mm: "MmStruct", vma: "VmArea") -> None:
        """Charge the pages of ``vma`` as locked and pinned."""
        nr = vma_pages(vma)
        mm.locked_vm += nr
        mm.pinned_vm += nr

    def release(self, task: "Task", mm: "MmStruct", vma: "VmArea") -> None:
        """Unpin and free the frames of an unmapped piece."""
        run = vma.run
        if run is None:
            return
        nr = vma_pages(vma)
        mm.locked_vm -= nr
        mm.pinned_vm -= nr
        self.user_pages[run.owner_uid] -= nr
        mm.memory.run_release(run=run.core_run, offset=vma.run_offset, nr=nr, cpu=task.cpu)

    def fork(self, child: "Task", mm: "MmStruct", copy: "VmArea") -> None:
        """A shared run is held once more; a private one is never copied (VM_DONTCOPY is set)."""
        del child
        self.duplicate(mm, copy)

    def duplicate(self, mm: "MmStruct", copy: "VmArea") -> None:
        """Hold, pin and charge the frames of a copied VMA once more."""
        run = copy.run
        if run is None:
            return
        nr = vma_pages(copy)
        mm.memory.run_hold(run=run.core_run, offset=copy.run_offset, nr=nr)
        self.user_pages[run.owner_uid] += nr
        mm.locked_vm += nr
        mm.pinned_vm += nr


def policies(profile: str) -> ContigPolicy:
    """Return the policy of a profile by its name.

    Raises:
        ValueError: no such profile.
    """
    match profile:
        case "contig":
            return Contig()
        case "rfc2017":
            return Rfc2017()
        case "linux":
            return LinuxSync()
    raise ValueError(f"no profile {profile!r}; there are contig, rfc2017 and linux")
