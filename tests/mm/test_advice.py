"""Rules of single kinds of memory: droppable pages and huge pages of a pool."""

import pytest

from contigmm.abi import (
    EACCES,
    MADV_PAGEOUT,
    MADV_REMOVE,
    MAP_ANONYMOUS,
    MAP_DROPPABLE,
    MAP_HUGETLB,
    MAP_NORESERVE,
    MAP_PRIVATE,
    PMD_SIZE,
)
from contigmm.errors import Reason, SyscallError
from contigmm.mm.flags import VM_LOCKED
from contigmm.syscalls.madvise import madvise
from contigmm.syscalls.mlockall import mlockall
from contigmm.syscalls.mmap import mmap
from contigmm.syscalls.touch import touch_read, touch_write

P, RW = 4096, 3
MCL_FUTURE = 2
PRIVATE_HUGE = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE


def test_paging_out_drops_droppable_pages_though_they_were_written(task):
    anonymous = mmap(task, 0, 4 * P, RW, MAP_PRIVATE | MAP_ANONYMOUS)
    droppable = mmap(task, 0, 4 * P, RW, MAP_DROPPABLE | MAP_ANONYMOUS)
    for addr in (anonymous, droppable):
        touch_write(task, addr, 4, P, 7)
        madvise(task, addr, 4 * P, MADV_PAGEOUT)
    assert task.mm.memory.rss(task.mm.id)[0] == 4
    assert touch_read(task, droppable, 4, P) == (4, 0)
    assert touch_read(task, anonymous, 4, P) == (4, 10)


def test_huge_pages_of_a_pool_are_not_marked_locked_by_what_locks_the_future(task):
    mlockall(task, MCL_FUTURE)
    addr = mmap(task, 0, PMD_SIZE, RW, PRIVATE_HUGE)
    assert not task.mm.vma_lookup(addr).vm_flags & VM_LOCKED
    small = mmap(task, 0, P, RW, MAP_PRIVATE | MAP_ANONYMOUS)
    assert task.mm.vma_lookup(small).vm_flags & VM_LOCKED


def test_a_hole_is_not_made_through_a_private_mapping_of_huge_pages(task):
    addr = mmap(task, 0, PMD_SIZE, RW, PRIVATE_HUGE)
    with pytest.raises(SyscallError) as caught:
        madvise(task, addr, PMD_SIZE, MADV_REMOVE)
    assert (caught.value.errno, caught.value.reason) == (EACCES, Reason.PRIVATE_MAPPING)
