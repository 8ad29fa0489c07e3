"""Which check says no first, and how: the errno and the Reason of every refusal."""

import pytest

from contigmm.abi import (
    EACCES,
    EAGAIN,
    EBADF,
    EEXIST,
    EFAULT,
    EINVAL,
    ENOMEM,
    EPERM,
    MAP_GROWSDOWN,
    MREMAP_DONTUNMAP,
    MREMAP_MAYMOVE,
    RLIMIT_AS,
    RLIMIT_DATA,
    RLIMIT_MEMLOCK,
    TASK_SIZE,
    U64_MAX,
)
from contigmm.errors import MemoryFault, Reason, SyscallError
from contigmm.mm.flags import VM_DONTEXPAND, VmFlags
from contigmm.syscalls.fork import fork
from contigmm.syscalls.madvise import madvise
from contigmm.syscalls.mlock import mlock, mlock2
from contigmm.syscalls.mlockall import mlockall
from contigmm.syscalls.mmap import mmap
from contigmm.syscalls.mprotect import mprotect
from contigmm.syscalls.mremap import mremap
from contigmm.syscalls.mseal import mseal
from contigmm.syscalls.msync import msync
from contigmm.syscalls.munmap import munmap
from contigmm.syscalls.touch import touch_read, touch_write

B, P, RW = 0x1000_0000, 4096, 3
ANON = 0x22
FIXED = 0x32


def refusal(call, *args, **keywords) -> tuple[int, Reason]:
    with pytest.raises(SyscallError) as caught:
        call(*args, **keywords)
    return caught.value.errno, caught.value.reason


@pytest.mark.parametrize(
    ("args", "errno", "reason"),
    [
        pytest.param((0, 0, RW, ANON), EINVAL, Reason.LENGTH_IS_ZERO, id="length 0"),
        pytest.param((0, U64_MAX, RW, ANON), ENOMEM, Reason.LENGTH_OVERFLOWS, id="wraps to 0"),
        pytest.param((0, P, RW, ANON, -1, 1), EINVAL, Reason.OFFSET_UNALIGNED, id="offset"),
        pytest.param((0, 0, RW, 2, 99), EBADF, Reason.BAD_FILE_DESCRIPTOR, id="fd before length"),
        pytest.param((0, 1 << 47, RW, ANON), ENOMEM, Reason.BEYOND_TASK_SIZE, id="too long"),
        pytest.param((B + 1, P, RW, FIXED), EINVAL, Reason.ADDRESS_UNALIGNED, id="unaligned"),
        pytest.param((TASK_SIZE, P, RW, FIXED), ENOMEM, Reason.BEYOND_TASK_SIZE, id="too high"),
        pytest.param((0, P, RW, 0x20), EINVAL, Reason.BAD_MAP_TYPE, id="no type"),
        pytest.param((0, P, RW, 0x23), EINVAL, Reason.BAD_MAP_TYPE, id="validate anonymous"),
        pytest.param((0, P, RW, 0x121), EINVAL, Reason.FLAGS_CONFLICT, id="shared growsdown"),
        pytest.param((B, P, RW, 0x10_0022), EEXIST, Reason.ALREADY_MAPPED, id="noreplace"),
        pytest.param((0, 1 << 40, RW, ANON), ENOMEM, Reason.OVERCOMMIT, id="more than RAM"),
        pytest.param((0, P, RW, 0x4_0022), ENOMEM, Reason.HUGE_PAGE_POOL_EMPTY, id="hugetlb"),
        pytest.param(
            (0, P, RW, 0x4_0022 | 3 << 26), EINVAL, Reason.NO_SUCH_HUGE_PAGE_SIZE, id="size"
        ),
    ],
)
def test_mmap_refuses(task, args, errno, reason):
    mmap(task, B, P, RW, FIXED)
    assert refusal(mmap, task, *args) == (errno, reason)
    assert task.mm.map_count == 1


def test_mmap_asks_for_the_lock_before_it_looks_at_the_type(make_task):
    task = make_task(limits={RLIMIT_MEMLOCK: P})
    assert refusal(mmap, task, 0, 2 * P, RW, 0x2020) == (EAGAIN, Reason.MEMLOCK_LIMIT)
    nobody = make_task(limits={RLIMIT_MEMLOCK: 0})
    assert refusal(mmap, nobody, 0, P, RW, 0x2020) == (EPERM, Reason.MAY_NOT_LOCK)


def test_page_zero_takes_a_capability(make_task):
    task = make_task()
    assert refusal(mmap, task, 0, P, RW, FIXED) == (EPERM, Reason.ADDRESS_BELOW_MIN)
    root = make_task(caps=frozenset({"CAP_SYS_RAWIO"}))
    assert mmap(root, 0, P, RW, FIXED) == 0


def test_limits_of_address_space_and_data(make_task):
    task = make_task(limits={RLIMIT_AS: 8 * P})
    mmap(task, B, 6 * P, RW, FIXED)
    assert refusal(mmap, task, 0, 3 * P, RW, ANON) == (ENOMEM, Reason.ADDRESS_SPACE_LIMIT)
    assert mmap(task, B, 8 * P, 1, FIXED) == B, "what is replaced does not count"
    task = make_task(limits={RLIMIT_DATA: 4 * P})
    mmap(task, B, 8 * P, 1, FIXED)
    assert refusal(mprotect, task, B, 8 * P, RW) == (ENOMEM, Reason.DATA_LIMIT)


def test_too_many_vmas(task):
    task.mm.config.max_map_count = 3
    mmap(task, B, 6 * P, RW, FIXED)
    mprotect(task, B + P, P, 1)
    assert refusal(munmap, task, B + 4 * P, P) == (ENOMEM, Reason.TOO_MANY_MAPPINGS)
    assert refusal(mprotect, task, B + 4 * P, P, 1) == (ENOMEM, Reason.TOO_MANY_MAPPINGS)
    munmap(task, B + 5 * P, P)
    mmap(task, B + 50 * P, P, RW, FIXED)  # the fourth: mmap compares with >
    assert refusal(mmap, task, B + 60 * P, P, RW, FIXED) == (ENOMEM, Reason.TOO_MANY_MAPPINGS)


def test_mprotect_changes_what_comes_before_a_hole(task):
    mmap(task, B, 2 * P, RW, FIXED)
    mmap(task, B + 3 * P, P, RW, FIXED)
    assert refusal(mprotect, task, B, 4 * P, 1) == (ENOMEM, Reason.NOT_MAPPED)
    assert [vma.vm_flags & 2 for vma in task.mm.all_vmas()] == [0, 2]


def test_munmap_and_mprotect_of_sealed_memory(task):
    mmap(task, B, 4 * P, RW, FIXED)
    mseal(task, B + 2 * P, P, 0)
    assert refusal(munmap, task, B, 4 * P) == (EPERM, Reason.SEALED)
    assert refusal(mprotect, task, B, 4 * P, 1) == (EPERM, Reason.SEALED)
    assert refusal(mremap, task, B + 2 * P, P, 2 * P) == (EPERM, Reason.SEALED)
    assert refusal(mseal, task, B, 6 * P, 0) == (ENOMEM, Reason.NOT_MAPPED)


def test_of_what_mremap_refuses_the_kernels_first_is_told(task):
    mmap(task, B, 2 * P, RW, FIXED)
    vma = task.mm.vma_lookup(B)
    vma.vm_flags = VmFlags(vma.vm_flags | VM_DONTEXPAND)
    too_long = (B, 4 * P, 4 * P, MREMAP_MAYMOVE | MREMAP_DONTUNMAP)
    assert refusal(mremap, task, *too_long) == (EINVAL, Reason.MAPPING_MAY_NOT_EXPAND)
    vma.vm_pgoff = U64_MAX
    grown = (B, 2 * P, 3 * P, MREMAP_MAYMOVE)
    assert refusal(mremap, task, *grown) == (EINVAL, Reason.OFFSET_OVERFLOWS)


def test_mlock_of_inaccessible_memory_fails_but_locks(task):
    mmap(task, B, P, 0, FIXED)
    assert refusal(mlock, task, B, P) == (ENOMEM, Reason.NOT_PERMITTED_BY_MAPPING)
    assert task.mm.locked_vm == 1
    assert refusal(mlock2, task, B, P, 2) == (EINVAL, Reason.UNKNOWN_FLAGS)
    assert refusal(mlockall, task, 4) == (EINVAL, Reason.UNKNOWN_FLAGS)


def test_mlock_counts_what_is_locked_already_once(make_task):
    task = make_task(limits={RLIMIT_MEMLOCK: 4 * P})
    mmap(task, B, 8 * P, RW, FIXED)
    mlock(task, B, 3 * P)
    mlock(task, B, 4 * P)
    assert refusal(mlock, task, B, 5 * P) == (ENOMEM, Reason.MEMLOCK_LIMIT)


def test_mremap_refuses(task):
    mmap(task, B, 4 * P, RW, FIXED)
    assert refusal(mremap, task, B, P, 0) == (EINVAL, Reason.LENGTH_IS_ZERO)
    assert refusal(mremap, task, B, 4 * P, 4 * P, 3, B) == (EINVAL, Reason.RANGES_OVERLAP)
    assert refusal(mremap, task, B, 0, P, 1) == (EINVAL, Reason.PRIVATE_MAPPING)
    assert refusal(mremap, task, B, 8 * P, 9 * P, 1) == (EFAULT, Reason.SPANS_SEVERAL_MAPPINGS)
    assert refusal(mremap, task, B - P, P, 2 * P, 1) == (EFAULT, Reason.NOT_MAPPED)
    mmap(task, B + 4 * P, P, 1, FIXED)
    assert refusal(mremap, task, B, 4 * P, 5 * P) == (ENOMEM, Reason.ALREADY_MAPPED)


def test_madvise_goes_on_over_a_hole_and_tells_at_the_end(task):
    mmap(task, B, P, RW, FIXED)
    mmap(task, B + 2 * P, P, RW, FIXED)
    assert refusal(madvise, task, B, 3 * P, 10) == (ENOMEM, Reason.NOT_MAPPED)
    assert [bool(vma.vm_flags & 0x2_0000) for vma in task.mm.all_vmas()] == [True, True]
    assert refusal(madvise, task, B, P, 99) == (EINVAL, Reason.UNKNOWN_ADVICE)
    assert refusal(msync, task, B, P, 5) == (EINVAL, Reason.FLAGS_CONFLICT)


def test_signals_of_bad_accesses(task):
    mmap(task, B, P, 1, FIXED)
    with pytest.raises(MemoryFault) as caught:
        touch_read(task, B, 2)
    assert (caught.value.signal, caught.value.code, caught.value.done) == (11, 1, 1)
    with pytest.raises(MemoryFault) as caught:
        touch_write(task, B)
    assert (caught.value.signal, caught.value.code) == (11, 2)
    with pytest.raises(MemoryFault) as caught:
        touch_read(task, 1 << 47)
    assert (caught.value.signal, caught.value.code) == (11, 0x80)


def test_a_stack_keeps_its_distance_from_what_lies_below(task):
    gap = task.mm.config.stack_guard_gap
    top = B + 4 * gap
    mmap(task, B, P, RW, FIXED)
    mmap(task, top, P, RW, FIXED | MAP_GROWSDOWN)
    assert touch_write(task, B + P + gap) == 1
    with pytest.raises(MemoryFault) as caught:
        touch_write(task, B + gap)
    assert (caught.value.signal, caught.value.code) == (11, 1)


def test_fork_promises_memory_again(make_task):
    task = make_task()
    pages = task.mm.config.overcommit.total_ram_pages
    mmap(task, 0, pages * P * 3 // 4, RW, ANON)
    mmap(task, 0, pages * P * 3 // 4, RW, ANON)  # merges with the first
    wanted = (ENOMEM, Reason.OVERCOMMIT)
    assert refusal(fork, task, pid=2, index=make_task.index()) == wanted


def test_write_exec_denied(task):
    task.mm.mdwe = 1
    assert refusal(mmap, task, 0, P, 7, ANON) == (EACCES, Reason.WRITE_EXEC_DENIED)
    addr = mmap(task, 0, P, RW, ANON)
    assert refusal(mprotect, task, addr, P, 5) == (EACCES, Reason.WRITE_EXEC_DENIED)
