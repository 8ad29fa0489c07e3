"""Policies of VMAs and tasks: the answers of Linux 6.18 on a machine with one node."""

import json

import pytest

from contigmm.abi import EFAULT, EINVAL, MPOL_BIND, MPOL_PREFERRED_MANY
from contigmm.errors import MemoryFault, SyscallError
from contigmm.mm.config import MmConfig
from contigmm.mm.task import Task
from contigmm.phys import Memory, VmaIndex
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
        (3 | 1 << 13, 1, EINVAL),
    ],
)  # fmt: skip
def test_set_mempolicy(task, mode, nodes, errno):
    assert outcome(set_mempolicy, task, mode, nodes) == errno


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
    zones = [
        {"node": node, "kind": "Normal", "start_pfn": start, "spanned": size, "managed": size}
        for node, start in ((0, 0), (1, size))
    ]
    memory = Memory.boot(json.dumps({"seed": 1, "nr_cpus": 1, "zones": zones}))
    config = MmConfig(memory, profile="linux", total_ram_pages=2 * size)
    config.nodes = 0b11
    task = Task(config, VmaIndex())
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
