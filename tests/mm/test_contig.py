"""MAP_CONTIG in its three profiles: one bit, three policies."""

import pytest

from contigmm.abi import (
    EAGAIN,
    EFAULT,
    EINVAL,
    ENOMEM,
    EPERM,
    MAP_CONTIG,
    RLIMIT_MEMLOCK,
)
from contigmm.description import PageClass
from contigmm.errors import MemoryFault, Reason, SyscallError
from contigmm.mm.flags import VM_SYNC, vm_flags_letters
from contigmm.syscalls.fork import fork
from contigmm.syscalls.madvise import madvise
from contigmm.syscalls.mmap import mmap
from contigmm.syscalls.mprotect import mprotect
from contigmm.syscalls.mremap import mremap
from contigmm.syscalls.munmap import munmap
from contigmm.syscalls.touch import touch_read, touch_write

B, P, RW = 0x1000_0000, 4096, 3
PRIVATE = 0x22 | MAP_CONTIG
MEMLOCK = {RLIMIT_MEMLOCK: 64 << 20}


def refusal(call, *args) -> tuple[int, Reason]:
    with pytest.raises(SyscallError) as caught:
        call(*args)
    return caught.value.errno, caught.value.reason


def pfns(task, addr, nr):
    words = task.mm.memory.pagemap(mm=task.mm.id, vpn=addr >> 12, nr=nr)
    return [int(word) & (1 << 55) - 1 for word in words]


@pytest.mark.parametrize("profile", ["contig", "rfc2017"])
@pytest.mark.parametrize("make_task", ["core"], indirect=True)
def test_the_pages_are_next_to_each_other(make_task, profile):
    task = make_task(profile, MEMLOCK)
    addr = mmap(task, 0, 100 * P, RW, PRIVATE)
    frames = pfns(task, addr, 100)
    assert frames == list(range(frames[0], frames[0] + 100))
    assert touch_read(task, addr, 100) == (100, 0)
    munmap(task, addr, 100 * P)
    task.mm.memory.check()


def test_linux_reads_the_bit_as_map_sync(make_task):
    task = make_task("linux")
    addr = mmap(task, 0, P, RW, PRIVATE)
    vma = task.mm.vma_lookup(addr)
    assert vma.run is None
    assert "sf" in vm_flags_letters(vma.vm_flags).split()


@pytest.mark.parametrize("profile", ["contig", "rfc2017"])
def test_only_anonymous_memory_may_be_contiguous(make_task, profile):
    task = make_task(profile, MEMLOCK)
    task.files[5] = _memfd(task)
    wanted = (EINVAL, Reason.CONTIG_NOT_ANONYMOUS)
    assert refusal(mmap, task, 0, P, RW, 1 | MAP_CONTIG, 5) == wanted


def _memfd(task):
    from contigmm.mm.files import Inode, MemFd

    core_id = task.mm.memory.file_create(shmem=True, size=P)
    return MemFd("/memfd:x (deleted)", Inode(core_id, P, 0))


@pytest.mark.parametrize("profile", ["contig", "rfc2017"])
def test_limits_stand_before_the_allocation(make_task, profile):
    task = make_task(profile, {RLIMIT_MEMLOCK: 4 * P})
    assert refusal(mmap, task, 0, 5 * P, RW, PRIVATE) == (EAGAIN, Reason.MEMLOCK_LIMIT)
    nobody = make_task(profile, {RLIMIT_MEMLOCK: 0})
    assert refusal(mmap, nobody, 0, P, RW, PRIVATE) == (EPERM, Reason.MAY_NOT_LOCK)


def test_the_rfc_checks_its_limit_and_never_charges_it(make_task):
    task = make_task("rfc2017", {RLIMIT_MEMLOCK: 4 * P})
    for _ in range(3):
        mmap(task, 0, 4 * P, RW, PRIVATE)
    assert task.mm.locked_vm == 0
    vma = task.mm.all_vmas()[0]
    assert vma.vm_flags & VM_SYNC
    assert "lo" not in vm_flags_letters(vma.vm_flags).split()


def test_contig_charges_task_and_user_until_the_pages_go(make_task):
    task = make_task("contig", {RLIMIT_MEMLOCK: 6 * P}, uid=1000)
    addr = mmap(task, 0, 4 * P, RW, PRIVATE)
    contig = task.mm.config.contig
    assert (task.mm.locked_vm, task.mm.pinned_vm, contig.user_pages[1000]) == (4, 4, 4)
    assert refusal(mmap, task, 0, 4 * P, RW, PRIVATE) == (EAGAIN, Reason.MEMLOCK_LIMIT)
    munmap(task, addr + P, P)
    assert (task.mm.locked_vm, task.mm.pinned_vm, contig.user_pages[1000]) == (3, 3, 3)
    contig.user_limit_pages = 4
    other = make_task("contig", MEMLOCK, uid=1000)
    assert refusal(mmap, other, 0, 2 * P, RW, PRIVATE) == (EAGAIN, Reason.CONTIG_USER_LIMIT)


@pytest.mark.parametrize("make_task", ["core"], indirect=True)
def test_the_rfc_refuses_more_than_the_largest_order_by_name(make_task):
    task = make_task("rfc2017", MEMLOCK)
    wanted = (ENOMEM, Reason.CONTIG_ABOVE_MAX_ORDER)
    assert refusal(mmap, task, 0, (4 << 20) + P, RW, PRIVATE) == wanted


@pytest.mark.parametrize("make_task", ["core"], indirect=True)
@pytest.mark.parametrize("nr", [1025, 2048, 5000, 16384])
def test_a_run_beyond_the_largest_order(make_task, nr):
    task = make_task("contig", MEMLOCK)
    memory = task.mm.memory
    mmap(task, B, 1 << 20, RW, 0x32)
    touch_write(task, B, 256)
    addr = mmap(task, 0, nr * P, RW, PRIVATE)
    frames = pfns(task, addr, nr)
    assert frames == list(range(frames[0], frames[0] + nr))
    assert touch_read(task, addr, nr) == (nr, 0)
    assert (task.mm.locked_vm, task.mm.pinned_vm) == (nr, nr)
    memory.check()
    munmap(task, addr + 1000 * P, 20 * P)  # a part of it goes, frame by frame
    gone = memory.frame_classes()[frames[1000] : frames[1020]]
    assert set(gone) <= {PageClass.FREE, PageClass.PCP}
    assert pfns(task, addr + 1020 * P, 1) == [frames[1020]]
    munmap(task, addr, nr * P)
    memory.check()
    assert PageClass.ANON not in set(memory.frame_classes()[frames[0] : frames[-1] + 1])
    assert (task.mm.locked_vm, task.mm.pinned_vm) == (0, 0)


@pytest.mark.parametrize("make_task", ["core"], indirect=True)
def test_what_stands_in_a_range_moves_and_keeps_its_bytes(make_task):
    task = make_task("contig", MEMLOCK)
    nr = 192 * 256
    mmap(task, B, nr * P, RW, 0x32)
    touch_write(task, B, nr, value=1)
    for page in range(0, nr, 3):  # so that nowhere 8 MiB are free
        munmap(task, B + page * P, P)
    before = pfns(task, B, nr)
    addr = mmap(task, 0, 8 << 20, RW, PRIVATE)
    first = pfns(task, addr, 1)[0]
    moved = [page for page in range(nr) if before[page] in range(first, first + 2048)]
    assert len([page for page in moved if page % 3]) > 1000
    after = pfns(task, B, nr)
    assert not set(after) & set(range(first, first + 2048))
    for page in range(1, nr, 3):
        assert touch_read(task, B + page * P, 1) == (1, (1 + page) % 256)
    task.mm.memory.check()


@pytest.mark.parametrize("make_task", ["core"], indirect=True)
def test_a_range_that_cannot_be_had_is_refused_by_what_stands_there(make_task):
    unlimited = {RLIMIT_MEMLOCK: 1 << 40}
    task = make_task("contig", unlimited)
    mmap(task, B, P, RW, 0x32)
    touch_write(task, B)  # page tables lie low
    assert refusal(mmap, task, 0, 192 << 20, RW, PRIVATE)[1] == Reason.CONTIG_RANGE_UNMOVABLE
    assert refusal(mmap, task, 0, 512 << 20, RW, PRIVATE)[1] == Reason.CONTIG_NO_RANGE
    task.caps |= {"CAP_IPC_LOCK"}
    assert refusal(mmap, task, 0, 1 << 46, RW, PRIVATE) == (ENOMEM, Reason.CONTIG_NO_RANGE)
    held = mmap(task, 0, 64 << 20, RW, PRIVATE)
    for _ in range(2):
        mmap(task, 0, 64 << 20, RW, PRIVATE)
    with pytest.raises(SyscallError) as caught:
        mmap(task, 0, 64 << 20, RW, PRIVATE)
    assert caught.value.reason == Reason.CONTIG_RANGE_PINNED
    assert caught.value.detail.endswith(f"a pinned page, as at frame {pfns(task, held, 1)[0]}")
    assert task.mm.pinned_vm == 3 * (64 << 20) // P, "what was refused was not charged"
    task.mm.memory.check()


@pytest.mark.parametrize("make_task", ["core"], indirect=True)
def test_a_full_machine_has_nowhere_to_move_a_range_to(make_task):
    task = make_task("contig", {RLIMIT_MEMLOCK: 1 << 40})
    addr = mmap(task, B, 240 << 20, RW, 0x32)
    with pytest.raises(MemoryFault):
        touch_write(task, addr, (256 << 20) // P)
    assert refusal(mmap, task, 0, 32 << 20, RW, PRIVATE)[1] == Reason.CONTIG_RANGE_NO_TARGET
    task.mm.memory.check()


@pytest.mark.parametrize("make_task", ["core"], indirect=True)
@pytest.mark.parametrize(("profile", "left"), [("contig", 1), ("rfc2017", 0)])
def test_a_failed_fixed_mapping_leaves_the_old_one_only_in_contig(make_task, profile, left):
    task = make_task(profile, {RLIMIT_MEMLOCK: 1 << 40})
    mmap(task, B, 96 << 20, RW, 0x32)
    if profile == "contig":
        mmap(task, 1 << 40, 128 << 20, RW, PRIVATE)
    before = task.mm.map_count
    assert refusal(mmap, task, B, 96 << 20, RW, 0x10 | PRIVATE)[0] == ENOMEM
    assert task.mm.map_count == before - 1 + left


def test_split_pieces_find_each_other_again(make_task):
    task = make_task("contig", MEMLOCK)
    addr = mmap(task, 0, 8 * P, RW, PRIVATE)
    mprotect(task, addr + 2 * P, P, 1)
    assert task.mm.map_count == 3
    mprotect(task, addr + 2 * P, P, RW)
    assert task.mm.map_count == 1
    mmap(task, 0, 8 * P, RW, PRIVATE)
    assert task.mm.map_count == 2, "another run, however close"


def protect_and_back(task, first, nr=1) -> None:
    """Change a piece and change it back: it merges with whom it may."""
    mprotect(task, B + first * P, nr * P, 1)
    mprotect(task, B + first * P, nr * P, RW)


def test_pieces_of_two_runs_stay_apart_where_their_offsets_meet(make_task):
    task = make_task("contig", MEMLOCK)
    mmap(task, B, 8 * P, RW, 0x10 | PRIVATE)
    munmap(task, B, 4 * P)
    mmap(task, B, 4 * P, RW, 0x10 | PRIVATE)
    lower, upper = task.mm.all_vmas()
    assert (lower.run_offset + 4, lower.vm_pgoff + 4) == (upper.run_offset, upper.vm_pgoff)
    protect_and_back(task, 0, 4)
    assert task.mm.map_count == 2


def test_pieces_of_one_run_that_do_not_follow_each_other_stay_apart(make_task):
    task = make_task("contig", MEMLOCK)
    mmap(task, B, 4 * P, 0, 0x10 | PRIVATE)  # never written: a move gives it the new place's offset
    munmap(task, B + P, P)
    assert mremap(task, B + 3 * P, P, P, 3, B + P) == B + P
    mprotect(task, B, 3 * P, RW)
    protect_and_back(task, 0)
    assert [vma.run_offset for vma in task.mm.all_vmas()] == [0, 3, 2]


def test_pieces_of_the_rfc_never_merge_wherever_they_are_moved(make_task):
    """D6: no piece knows where in the run it begins, so none knows its neighbour."""
    task = make_task("rfc2017", MEMLOCK)
    mmap(task, B, 4 * P, 0, 0x10 | PRIVATE)
    assert mremap(task, B + 2 * P, 2 * P, 2 * P, 3, B + 12 * P) == B + 12 * P
    assert mremap(task, B, 2 * P, 2 * P, 3, B + 10 * P) == B + 10 * P
    mprotect(task, B + 10 * P, 4 * P, RW)
    assert task.mm.map_count == 2


@pytest.mark.parametrize("make_task", ["core"], indirect=True)
def test_the_upper_piece_of_a_split_run_keeps_its_own_frames(make_task):
    task = make_task("contig", MEMLOCK)
    addr = mmap(task, 0, 8 * P, 0, PRIVATE)  # no access: nothing is mapped yet
    mprotect(task, addr + 4 * P, 4 * P, RW)
    touch_write(task, addr + 4 * P, 4)
    mprotect(task, addr, 4 * P, RW)
    touch_write(task, addr, 4)
    frames = pfns(task, addr, 8)
    assert frames == list(range(frames[0], frames[0] + 8))


@pytest.mark.parametrize("make_task", ["core"], indirect=True)
def test_the_rfc_maps_the_lower_piece_twice(make_task):
    task = make_task("rfc2017", MEMLOCK)
    addr = mmap(task, 0, 8 * P, 0, PRIVATE)
    mprotect(task, addr + 4 * P, 4 * P, RW)
    touch_write(task, addr + 4 * P, 4, value=70)
    mprotect(task, addr, 4 * P, RW)
    touch_write(task, addr, 4, value=10)
    assert touch_read(task, addr + 4 * P) == (1, 10), "the other piece's byte shows through"


@pytest.mark.parametrize("advice", [4, 8, 9, 20, 21, 24, 102])
def test_contig_keeps_its_pages_whatever_is_advised(make_task, advice):
    task = make_task("contig", MEMLOCK)
    addr = mmap(task, 0, 4 * P, RW, PRIVATE)
    assert refusal(madvise, task, addr, P, advice)[0] == EINVAL


def test_a_run_never_grows(make_task):
    task = make_task("contig", MEMLOCK)
    addr = mmap(task, 0, 4 * P, RW, PRIVATE)
    wanted = (EFAULT, Reason.MAPPING_MAY_NOT_EXPAND)
    assert refusal(mremap, task, addr, 4 * P, 5 * P, 1) == wanted


@pytest.mark.parametrize("flag", [0x4_0000, 0x100, 0x4000])
def test_contradictory_flags(make_task, flag):
    task = make_task("contig", MEMLOCK)
    wanted = (EINVAL, Reason.CONTIG_CONTRADICTORY_FLAGS)
    assert refusal(mmap, task, 0, 2 << 20, RW, PRIVATE | flag) == wanted


def test_dumping_may_be_turned_on_again(make_task):
    task = make_task("contig", MEMLOCK)
    addr = mmap(task, 0, 4 * P, RW, PRIVATE)
    assert madvise(task, addr, 4 * P, 17) == 0


@pytest.mark.parametrize("profile", ["contig", "linux", "rfc2017"])
def test_only_contig_answers_the_probe(make_task, profile):
    task = make_task(profile, MEMLOCK)
    shared_validate = 3 | 0x20 | MAP_CONTIG
    if profile == "contig":
        addr = mmap(task, 0, P, RW, shared_validate)
        assert task.mm.vma_lookup(addr).run is not None
    else:
        assert refusal(mmap, task, 0, P, RW, shared_validate)[0] == EINVAL


@pytest.mark.parametrize(("kind", "copied"), [(1, True), (2, False)], ids=["shared", "private"])
def test_a_child_gets_shared_runs_and_no_private_ones(make_task, kind, copied):
    task = make_task("contig", MEMLOCK)
    addr = mmap(task, 0, 4 * P, RW, 0x20 | MAP_CONTIG | kind)
    child = fork(task, pid=2, index=make_task.index())
    assert (child.mm.vma_lookup(addr) is not None) is copied
    if copied:
        assert touch_read(child, addr, 4) == (4, 0)
        assert pfns(child, addr, 4) == pfns(task, addr, 4)
