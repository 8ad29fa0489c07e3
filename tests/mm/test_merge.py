"""When VMAs become one and when they stay two: mm/vma.c."""

import pytest

from contigmm import abi
from contigmm.abi import MADV_GUARD_INSTALL, MADV_GUARD_REMOVE, MAP_STACK, PROT_READ
from contigmm.mm.flags import VM_MAYBE_GUARD
from contigmm.mm.task import Task
from contigmm.syscalls.exit import exit as exit_task
from contigmm.syscalls.files import ftruncate
from contigmm.syscalls.fork import fork
from contigmm.syscalls.madvise import madvise
from contigmm.syscalls.memfd_create import memfd_create
from contigmm.syscalls.mlock import mlock
from contigmm.syscalls.mmap import mmap
from contigmm.syscalls.mprotect import mprotect
from contigmm.syscalls.mremap import mremap
from contigmm.syscalls.munlock import munlock
from contigmm.syscalls.munmap import munmap
from contigmm.syscalls.touch import touch_write

B, P = 0x1000_0000, 4096
RW = 3
FIXED_PRIVATE = 0x32
FIXED_SHARED = 0x31


def spans(task: Task) -> list[tuple[int, int]]:
    """VMAs in pages from B."""
    return [((v.vm_start - B) // P, (v.vm_end - B) // P) for v in task.mm.all_vmas()]


def map_pages(task: Task, first: int, nr: int, prot: int = RW, flags: int = FIXED_PRIVATE) -> None:
    assert mmap(task, B + first * P, nr * P, prot, flags) == B + first * P


def test_neighbours_that_were_never_written_merge_on_both_sides(task):
    map_pages(task, 0, 2)
    map_pages(task, 4, 2)
    map_pages(task, 2, 2)
    assert spans(task) == [(0, 6)]


def test_islands_written_apart_merge_with_the_left_bridge_only(task):
    map_pages(task, 0, 2)
    map_pages(task, 4, 2)
    touch_write(task, B, 2)
    touch_write(task, B + 4 * P, 2)
    map_pages(task, 2, 2)
    assert spans(task) == [(0, 4), (4, 6)]


def test_a_round_trip_of_mprotect_does_not_unite_two_identities(task):
    for first in (0, 4):
        map_pages(task, first, 2)
        touch_write(task, B + first * P, 2)
    map_pages(task, 2, 2)
    mprotect(task, B + 4 * P, 2 * P, PROT_READ)
    mprotect(task, B + 4 * P, 2 * P, RW)
    assert spans(task) == [(0, 4), (4, 6)]


def test_written_neighbours_that_may_merge_later_share_an_identity(task):
    map_pages(task, 0, 2)
    map_pages(task, 2, 2, prot=7)
    touch_write(task, B, 1)
    touch_write(task, B + 2 * P, 1)
    mprotect(task, B + 2 * P, 2 * P, RW)
    assert spans(task) == [(0, 4)]


def test_other_permissions_or_flags_keep_vmas_apart(task):
    map_pages(task, 0, 1)
    map_pages(task, 1, 1, prot=PROT_READ)
    map_pages(task, 2, 1, flags=FIXED_PRIVATE | MAP_STACK)
    assert spans(task) == [(0, 1), (1, 2), (2, 3)]


def test_two_shared_anonymous_mappings_have_two_objects_and_never_merge(task):
    map_pages(task, 0, 1, flags=FIXED_SHARED)
    map_pages(task, 1, 1, flags=FIXED_SHARED)
    assert spans(task) == [(0, 1), (1, 2)]


def test_a_round_trip_of_mprotect_merges_again_after_faults(task):
    map_pages(task, 0, 6)
    touch_write(task, B, 6)
    mprotect(task, B + 2 * P, 2 * P, PROT_READ)
    assert spans(task) == [(0, 2), (2, 4), (4, 6)]
    mprotect(task, B + 2 * P, 2 * P, RW)
    assert spans(task) == [(0, 6)]


def test_a_boundary_moves_when_a_part_joins_its_neighbour(task):
    map_pages(task, 0, 2)
    map_pages(task, 2, 2, prot=PROT_READ)
    mprotect(task, B + P, P, PROT_READ)
    assert spans(task) == [(0, 1), (1, 4)]
    mprotect(task, B + P, 2 * P, RW)
    assert spans(task) == [(0, 3), (3, 4)]


def test_locking_and_unlocking_splits_and_merges_again(task):
    map_pages(task, 0, 6)
    mlock(task, B + P, P)
    assert spans(task) == [(0, 1), (1, 2), (2, 6)]
    munlock(task, B + P, P)
    assert spans(task) == [(0, 6)]


def test_inherited_memory_does_not_merge_with_what_the_child_maps(make_task):
    parent = make_task()
    map_pages(parent, 0, 2)
    touch_write(parent, B, 2)
    child = fork(parent, pid=2, index=make_task.index())
    map_pages(child, 2, 2)
    assert spans(child) == [(0, 2), (2, 4)]
    map_pages(parent, 2, 2)
    assert spans(parent) == [(0, 4)]


def test_inherited_memory_does_not_spread_over_what_was_never_written(make_task):
    parent = make_task()
    map_pages(parent, 0, 2, prot=7)
    map_pages(parent, 2, 2)
    touch_write(parent, B, 2)
    child = fork(parent, pid=2, index=make_task.index())
    for one in (child, parent):
        mprotect(one, B, 2 * P, RW)
    assert spans(child) == [(0, 2), (2, 4)]
    assert spans(parent) == [(0, 4)]


def test_a_fork_takes_over_the_oldest_identity_that_nobody_uses_and_one_child_has(make_task):
    """anon_vma_clone(): a root counts itself as a child, and pieces keep what they have."""
    generations = [make_task()]
    map_pages(generations[0], 0, 3)
    touch_write(generations[0], B, 3)
    for pid in (2, 3, 4):
        generations.append(fork(generations[-1], pid=pid, index=make_task.index()))
    own = [one.mm.find_vma(B).anon_vma for one in generations]
    assert len(set(own)) == 4, "each is in use when the next is made"
    for one in generations[:3]:
        exit_task(one)
    youngest = generations[3]
    mprotect(youngest, B + P, P, PROT_READ)
    assert {vma.anon_vma for vma in youngest.mm.all_vmas()} == {own[3]}
    last = fork(youngest, pid=5, index=make_task.index())
    first, second, third = (vma.anon_vma for vma in last.mm.all_vmas())
    assert (first, second) == (own[1], own[2])
    assert third not in own


def test_a_split_piece_of_inherited_memory_merges_back(make_task):
    parent = make_task()
    map_pages(parent, 0, 6)
    touch_write(parent, B, 6)
    child = fork(parent, pid=2, index=make_task.index())
    mprotect(child, B + 2 * P, P, PROT_READ)
    mprotect(child, B + 2 * P, P, RW)
    assert spans(child) == [(0, 6)]


def test_the_guard_flag_spreads_by_merging_instead_of_preventing_it(task):
    map_pages(task, 0, 2)
    madvise(task, B, P, MADV_GUARD_INSTALL)
    madvise(task, B, P, MADV_GUARD_REMOVE)
    map_pages(task, 2, 2)
    assert spans(task) == [(0, 4)]
    assert task.mm.all_vmas()[0].vm_flags & 0x800


def test_memory_moved_before_its_first_write_takes_its_new_place(task):
    map_pages(task, 0, 2)
    map_pages(task, 100, 2)
    mremap(task, B, 2 * P, 2 * P, 3, B + 102 * P)
    assert spans(task) == [(100, 104)]


def test_memory_moved_after_its_first_write_keeps_its_old_one(task):
    map_pages(task, 0, 2)
    touch_write(task, B, 2)
    map_pages(task, 100, 2)
    mremap(task, B, 2 * P, 2 * P, 3, B + 102 * P)
    assert spans(task) == [(100, 102), (102, 104)]


def test_a_hole_makes_two_vmas_of_one(task):
    map_pages(task, 0, 6)
    munmap(task, B + 2 * P, P)
    assert spans(task) == [(0, 2), (3, 6)]
    assert task.mm.map_count == 2


def memfd(task, pages: int) -> int:
    fd = memfd_create(task, 0, b"file")
    ftruncate(task, fd, pages * P)
    return fd


@pytest.mark.parametrize("order", [(0, 2), (2, 0)], ids=["upwards", "downwards"])
def test_adjoining_pages_of_a_file_do_not_merge_over_a_hole(task, order):
    fd = memfd(task, 4)
    for first in order:
        mmap(task, B + 2 * first * P, 2 * P, RW, FIXED_SHARED & ~abi.MAP_ANONYMOUS, fd, first * P)
    assert task.mm.map_count == 2
    mprotect(task, B + 4 * P, 2 * P, PROT_READ)
    mprotect(task, B + 4 * P, 2 * P, RW)
    mprotect(task, B, 2 * P, PROT_READ)
    mprotect(task, B, 2 * P, RW)
    assert task.mm.map_count == 2


def test_merged_neighbours_count_once_in_their_identity(task):
    mmap(task, B, P, RW, FIXED_PRIVATE)
    touch_write(task, B, 1, P, 1)
    mmap(task, B + P, P, RW | abi.PROT_EXEC, FIXED_PRIVATE)
    touch_write(task, B + P, 1, P, 1)
    family = task.mm.vma_lookup(B).anon_vma
    assert family is task.mm.vma_lookup(B + P).anon_vma
    assert (family.num_active_vmas, family.nr_vmas) == (2, 2)
    mprotect(task, B + P, P, RW)
    assert task.mm.map_count == 1
    assert (family.num_active_vmas, family.nr_vmas) == (1, 1)


def test_the_guard_flag_comes_from_merged_neighbours_only(task):
    mmap(task, B, P, RW, FIXED_PRIVATE)
    mmap(task, B + P, P, PROT_READ, FIXED_PRIVATE)
    mmap(task, B + 2 * P, P, RW | abi.PROT_EXEC, FIXED_PRIVATE)
    madvise(task, B + 2 * P, P, MADV_GUARD_INSTALL)
    mprotect(task, B + P, P, RW)
    assert task.mm.map_count == 2
    assert not task.mm.vma_lookup(B).vm_flags & VM_MAYBE_GUARD
