"""Where mappings go when nobody says where: mm/mmap.c, mm/shmem.c, and the order of refusals."""

import pytest

from contigmm import abi
from contigmm.errors import Reason, SyscallError
from contigmm.mm.unmapped_area import get_unmapped_area
from contigmm.syscalls.files import ftruncate
from contigmm.syscalls.memfd_create import memfd_create
from contigmm.syscalls.mmap import mmap

P, M2 = 4096, 2 << 20
FIXED, SHARED, LOW = 0x32, 0x21, 0x21 | abi.MAP_32BIT
LOW_START, LOW_END = 0x4000_0000, 0x8000_0000
"""The window of MAP_32BIT."""


def refusal(call, *args) -> tuple[int, Reason]:
    with pytest.raises(SyscallError) as caught:
        call(*args)
    return caught.value.errno, caught.value.reason


def fill(task, start: int, end: int) -> None:
    assert mmap(task, start, end - start, 0, FIXED) == start


@pytest.fixture
def huge(task):
    task.mm.config.thp_shmem = "always"
    return task


def test_all_of_user_space_may_be_named(make_task):
    task = make_task(caps=frozenset({"CAP_SYS_RAWIO"}))
    assert get_unmapped_area(task, None, 0, abi.TASK_SIZE, 0, abi.MAP_FIXED) == 0
    beyond = refusal(get_unmapped_area, task, None, 0, abi.TASK_SIZE + P, 0, abi.MAP_FIXED)
    assert beyond == (abi.ENOMEM, Reason.BEYOND_TASK_SIZE)


def test_of_a_fixed_address_the_end_is_looked_at_first_and_the_start_last(task):
    off_and_beyond = abi.TASK_SIZE - P + 1
    for addr, expected in (
        (off_and_beyond, (abi.ENOMEM, Reason.BEYOND_TASK_SIZE)),
        (0x801, (abi.EINVAL, Reason.ADDRESS_UNALIGNED)),
        (0, (abi.EPERM, Reason.ADDRESS_BELOW_MIN)),
    ):
        refused = refusal(get_unmapped_area, task, None, addr, P, 0, abi.MAP_FIXED)
        assert refused == expected
    lowest = task.mm.config.dac_mmap_min_addr
    assert get_unmapped_area(task, None, lowest, P, 0, abi.MAP_FIXED) == lowest


def test_the_guard_of_a_stack_below_the_base_stays_free(task):
    stack = task.mm.mmap_base - (16 << 20)
    mmap(task, stack, P, 3, FIXED | abi.MAP_GROWSDOWN)
    guard = task.mm.config.stack_guard_gap
    length = (16 << 20) + P
    first = mmap(task, 0, length, 3, 0x22)
    assert first == stack - guard - length
    assert mmap(task, 0, length, 3, 0x22) == first - length
    assert mmap(task, 0, P, 3, 0x22) == task.mm.mmap_base - P


def test_an_empty_space_is_filled_from_below_where_it_was_asked_for(task):
    task.mm.topdown = False
    assert mmap(task, 0, P, 3, 0x22) == task.mm.mmap_legacy_base


@pytest.mark.parametrize("topdown", [True, False])
def test_a_hint_is_taken_where_it_fits(task, topdown):
    mm = task.mm
    mm.topdown = topdown
    base, anon = 0x1000_0000, 0x22
    assert mmap(task, base + 4 * P, P, 3, anon) == base + 4 * P, "nothing is above"
    assert mmap(task, base, 4 * P, 3, anon) == base, "it ends where another begins"
    elsewhere = mm.mmap_base - 2 * P if topdown else mm.mmap_legacy_base
    assert mmap(task, base + 3 * P, 2 * P, 3, anon) == elsewhere, "it is taken"
    assert mmap(task, base - 2 * P, 3 * P, 0, anon) != base - 2 * P, "a page is taken"
    last = abi.TASK_SIZE - P
    assert mmap(task, last, P, 3, anon) == last


def test_huge_pages_take_a_hint_that_is_above_everything(task):
    huge = abi.MAP_HUGETLB | abi.MAP_NORESERVE | 0x22
    assert mmap(task, 0x4000_0000, M2, 3, huge) == 0x4000_0000
    assert mmap(task, 0x4000_0000 - P, M2, 3, huge) != 0x4000_0000


def test_private_memory_is_placed_on_a_boundary_if_it_is_whole_huge_pages_without_a_hint(task):
    base, anon = task.mm.mmap_base, 0x22
    assert base % M2
    assert mmap(task, 0, M2 + P, 3, anon) == base - M2 - P
    mmap(task, 0x1000_0000, P, 3, anon)
    assert mmap(task, 0x1000_0000, M2, 3, anon) == base - 2 * M2 - P, "the hint is taken"
    assert mmap(task, 0, M2, 3, anon) % M2 == 0


@pytest.mark.parametrize("length", [P, 64 * P])
def test_a_hint_in_the_low_window_may_end_where_the_window_does(task, length):
    last = LOW_END - length
    low = 0x22 | abi.MAP_32BIT
    assert mmap(task, last, length, 3, low) == last
    assert mmap(task, last, length, 3, low) == LOW_START, "it is taken"
    assert mmap(task, LOW_END, length, 3, low) == LOW_START + length, "outside"


def test_shared_memory_is_placed_on_a_boundary_of_huge_pages(huge):
    assert huge.mm.mmap_base % M2
    assert mmap(huge, 0, M2, 3, SHARED) % M2 == 0


def test_shared_memory_that_lies_well_already_stays(huge):
    top = huge.mm.mmap_base & -M2
    fill(huge, top, huge.mm.mmap_base)
    fill(huge, top - 2 * M2, top - M2)
    assert mmap(huge, 0, M2, 3, SHARED) == top - M2


@pytest.mark.parametrize(("length", "aligned"), [(3 << 20, True), ((3 << 20) - 2 * P, False)])
def test_a_part_of_an_object_is_placed_well_if_it_holds_a_huge_page(huge, length, aligned):
    fd = memfd_create(huge, 0, b"object")
    ftruncate(huge, fd, 8 << 20)
    offset = 1 << 20
    at = mmap(huge, 0, length, 3, abi.MAP_SHARED, fd, offset)
    assert (at % M2 == offset) is aligned


@pytest.mark.parametrize("room", [M2, M2 - P])
def test_shared_memory_without_room_for_a_boundary_takes_what_there_is(huge, room):
    hole = LOW_START + (64 << 20) + P
    fill(huge, LOW_START, hole)
    fill(huge, hole + room, LOW_END)
    if room == M2:
        assert mmap(huge, 0, M2, 3, LOW) == hole
    else:
        assert refusal(mmap, huge, 0, M2, 3, LOW) == (abi.ENOMEM, Reason.NO_GAP)
