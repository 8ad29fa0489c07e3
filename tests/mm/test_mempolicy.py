"""Policies of VMAs and tasks: the answers of Linux 6.18 on a machine with one node."""

import json

import pytest

from contigmm.abi import (
    EFAULT,
    EINVAL,
    EIO,
    MAP_CONTIG,
    MAP_HUGETLB,
    MAP_NORESERVE,
    MPOL_BIND,
    MPOL_PREFERRED_MANY,
)
from contigmm.errors import MemoryFault, Reason, SyscallError
from contigmm.mm.config import MmConfig
from contigmm.mm.task import Task
from contigmm.phys import Memory, VmaIndex
from contigmm.syscalls.fork import fork
from contigmm.syscalls.mempolicy import get_mempolicy, mbind, set_mempolicy
from contigmm.syscalls.mmap import mmap
from contigmm.syscalls.move_pages import move_pages
from contigmm.syscalls.munmap import munmap
from contigmm.syscalls.touch import touch_write

B, P = 0x1000_0000, 4096
ONE = 1


def outcome(call, *args) -> int:
    try:
        call(*args)
    except SyscallError as refusal:
        return refusal.errno
    return 0


@pytest.mark.parametrize(
    ("mode", "nodes", "errno"),
    [
        (0, 0, 0), (0, 1, EINVAL), (2, 0, EINVAL), (2, 1, 0), (2, 2, EINVAL), (7, 1, EINVAL),
        (1, 0, 0), (1 | 1 << 15, 0, EINVAL), (4, 1, EINVAL), (4, 0, 0), (2 | 3 << 14, 1, EINVAL),
        (3 | 1 << 13, 1, EINVAL), (2 | 1 << 13, 1, 0), (5 | 1 << 13, 1, 0),
        (4 | 1 << 15, 0, EINVAL),
    ],
)  # fmt: skip
def test_set_mempolicy(task, mode, nodes, errno):
    assert outcome(set_mempolicy, task, mode, nodes) == errno


def test_a_preferred_node_is_kept_and_none_at_all_is_the_local_one(task):
    set_mempolicy(task, 1, ONE)
    assert get_mempolicy(task) == (1, ONE)
    set_mempolicy(task, 1, 0)
    assert get_mempolicy(task) == (4, 0)


def test_only_a_task_that_interleaves_has_a_next_node(task):
    set_mempolicy(task, 2, ONE)
    assert outcome(get_mempolicy, task, 0, 1) == EINVAL
    set_mempolicy(task, 3, ONE)
    assert get_mempolicy(task, 0, 1) == (0, ONE)


@pytest.mark.parametrize(
    ("offset", "length", "mode", "nodes", "flags", "errno"),
    [
        (0, 8 * P, 2, ONE, 0, 0), (1, P, 2, ONE, 0, EINVAL), (0, 0, 2, ONE, 0, 0),
        (0, 0, 9, ONE, 0, EINVAL), (0, P, 2, ONE, 16, EINVAL), (0, P, 0, ONE, 0, EINVAL),
        (0, P, 0, 0, 1, 0), (6 * P, 4 * P, 2, ONE, 0, EFAULT), (6 * P, 4 * P, 0, 0, 0, 0),
        (20 * P, P, 2, ONE, 0, EFAULT), (20 * P, P, 0, 0, 0, EFAULT), (0, P, 2, 2, 0, EINVAL),
        (0, P, 6, ONE, 0, 0), (0, P, 4, 0, 0, 0), (0, 2**64 - 1, 2, ONE, 0, 0),
        (0, 2**64 - P, 2, ONE, 0, EINVAL), (0, P, 2, 0, 0, EINVAL), (-P, 2 * P, 2, ONE, 0, EFAULT),
        (0, P, 2, ONE, 8, EINVAL), (0, P, 2, ONE, 3, 0),
    ],
)  # fmt: skip
def test_mbind(task, offset, length, mode, nodes, flags, errno):
    mmap(task, B, 8 * P, 3, 0x32)
    assert outcome(mbind, task, B + offset, length, mode, nodes, flags) == errno


@pytest.mark.parametrize(
    ("offset", "mode", "flags", "reason"),
    [
        (1, 7 | 3 << 14, 4, Reason.UNKNOWN_FLAGS),
        (1, 3 << 14, 4, Reason.FLAGS_CONFLICT),
        (1, 2, 4 | 8, Reason.UNKNOWN_FLAGS),
        (1, 2, 4, Reason.MISSING_CAPABILITY),
        (1, 2, 2, Reason.ADDRESS_UNALIGNED),
    ],
)
def test_mbind_looks_at_the_mode_then_flags_then_rights_then_the_address(
    task, offset, mode, flags, reason
):
    mmap(task, B, P, 3, 0x32)
    with pytest.raises(SyscallError) as refusal:
        mbind(task, B + offset, P, mode, ONE, flags)
    assert refusal.value.reason is reason


def test_mbind_refuses_a_hole_before_mappings_that_touch(task):
    mmap(task, B, P, 3, 0x32)
    mmap(task, B + 2 * P, P, 3, 0x32)
    mmap(task, B + 3 * P, P, 1, 0x32)
    assert outcome(mbind, task, B, 4 * P, 2, ONE) == EFAULT
    assert outcome(mbind, task, B + 2 * P, 2 * P, 2, ONE) == 0


def test_whoever_may_be_nice_moves_the_pages_of_others(make_task):
    task = make_task(caps=frozenset({"CAP_SYS_NICE"}))
    mmap(task, B, P, 3, 0x32)
    assert outcome(mbind, task, B, P, 2, ONE, 4) == 0


@pytest.mark.parametrize(
    ("addr", "flags", "errno"),
    [
        (0, 0, 0), (B, 0, EINVAL), (0, 8, EINVAL), (B, 8, EINVAL), (B, 2, 0), (B, 2 | 8, EINVAL),
        (B + P, 2, EFAULT), (B, 1, EINVAL), (0, 1, EINVAL), (B, 3, EFAULT), (0, 4, 0),
        (0, 5, EINVAL),
    ],
)  # fmt: skip
def test_get_mempolicy(task, addr, flags, errno):
    mmap(task, B, P, 0, 0x32)
    assert outcome(get_mempolicy, task, addr, flags) == errno


def test_the_node_of_a_page_without_anything_behind_it_cannot_be_told(task):
    mmap(task, B, 2 << 20, 3, 0x32 | MAP_HUGETLB | MAP_NORESERVE)
    assert outcome(get_mempolicy, task, B, 3) == EFAULT


def two_nodes(size: int, profile: str = "linux") -> tuple[Memory, Task]:
    """A task on a machine of two nodes with ``size`` pages each."""
    zones = [
        {"node": node, "kind": "Normal", "start_pfn": start, "spanned": size, "managed": size}
        for node, start in ((0, 0), (1, size))
    ]
    memory = Memory.boot(json.dumps({"seed": 1, "nr_cpus": 1, "zones": zones}))
    config = MmConfig(memory, profile=profile, total_ram_pages=2 * size)
    config.nodes = 0b11
    return memory, Task(config, VmaIndex())


def node_of(task: Task) -> int:
    """The node of the page at B."""
    return move_pages(task, task, [B], None, 0)[1][0]


def elsewhere(task: Task) -> int:
    """The mask of that of two nodes where the page at B is not."""
    return 2 >> node_of(task)


def test_strict_alone_refuses_what_is_elsewhere_and_changes_nothing():
    memory, task = two_nodes(2048)
    mmap(task, B, 4 * P, 3, 0x32)
    touch_write(task, B, 2, P, 1)
    there = elsewhere(task)
    here = 3 - there
    assert outcome(mbind, task, B, 4 * P, MPOL_BIND, here, 1) == 0
    assert outcome(mbind, task, B, 4 * P, MPOL_BIND, there, 1) == EIO
    assert get_mempolicy(task, B, 2) == (MPOL_BIND, here)
    assert outcome(mbind, task, B, 4 * P, MPOL_BIND, there, 0) == 0
    assert outcome(mbind, task, B, 4 * P, MPOL_BIND, there, 1 | 2) == 0
    assert node_of(task) == there >> 1
    memory.check()


def test_pages_that_cannot_move_are_a_failure_of_the_strict_alone():
    memory, task = two_nodes(2048, "contig")
    mmap(task, B, 4 * P, 3, 0x32 | MAP_CONTIG)
    there = elsewhere(task)
    assert outcome(mbind, task, B, 4 * P, MPOL_BIND, there, 2) == 0
    assert outcome(mbind, task, B, 4 * P, MPOL_BIND, there, 1 | 2) == EIO
    assert node_of(task) == 2 - there
    memory.check()


def test_memory_that_loses_its_policy_moves_to_where_its_task_wants_it():
    memory, task = two_nodes(2048)
    mmap(task, B, 2 * P, 3, 0x32)
    touch_write(task, B, 2, P, 1)
    there = elsewhere(task)
    set_mempolicy(task, MPOL_BIND, there)
    assert outcome(mbind, task, B, 2 * P, 0, 0, 2) == 0
    assert node_of(task) == there >> 1
    memory.check()


def test_what_others_map_too_stays_and_is_no_failure():
    """migrate_folio_add(), v6.18."""
    memory, task = two_nodes(2048)
    mmap(task, B, 2 * P, 3, 0x32)
    touch_write(task, B, 2, P, 1)
    there = elsewhere(task)
    fork(task, pid=2, index=VmaIndex())
    assert outcome(mbind, task, B, 2 * P, MPOL_BIND, there, 1 | 2) == 0
    assert node_of(task) == 2 - there
    memory.check()


def test_vmas_of_other_policies_stay_apart_and_meet_again(task):
    mmap(task, B, 8 * P, 3, 0x32)
    mbind(task, B + 2 * P, 2 * P, 2, ONE)
    assert task.mm.map_count == 3
    assert get_mempolicy(task, B + 2 * P, 2) == (2, 1)
    assert get_mempolicy(task, B, 2) == (0, 0)
    mbind(task, B, 8 * P, 0, 0)
    assert task.mm.map_count == 1


def test_a_new_mapping_beside_a_bound_one_does_not_join_it(task):
    mmap(task, B, P, 3, 0x32)
    mbind(task, B, P, 2, ONE)
    mmap(task, B + P, P, 3, 0x32)
    assert task.mm.map_count == 2


def test_bound_memory_ends_where_its_node_does_and_preferred_memory_does_not():
    size = 2048
    memory, task = two_nodes(size)
    ends = [B, B + size * P]

    def touch(mode: int) -> list[int]:
        mmap(task, B, (size + 1) * P, 3, 0x32)
        mbind(task, B, (size + 1) * P, mode, 0b10)
        touch_write(task, B, size + 1, P, 1)
        return move_pages(task, task, ends, None, 0)[1]

    assert touch(MPOL_PREFERRED_MANY) == [1, 0]
    munmap(task, B, (size + 1) * P)
    with pytest.raises(MemoryFault) as fault:
        touch(MPOL_BIND)
    assert 0 < fault.value.done < size
    memory.check()
