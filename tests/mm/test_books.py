"""Whatever a few processes do, what was promised, charged and held is given back at the end."""

import contextlib
import itertools
import random

import pytest

from contigmm.errors import MemoryFault, SyscallError
from contigmm.mm.vma import vma_pages
from contigmm.phys import VmaIndex
from contigmm.syscalls.exit import exit as exit_task
from contigmm.syscalls.fork import fork
from contigmm.syscalls.madvise import madvise
from contigmm.syscalls.mlock import mlock
from contigmm.syscalls.mmap import mmap
from contigmm.syscalls.mprotect import mprotect
from contigmm.syscalls.mremap import mremap
from contigmm.syscalls.munmap import munmap
from contigmm.syscalls.touch import touch_read, touch_write

B, P = 0x1000_0000, 4096
FLAGS = (0x22, 0x21, 0x32, 0x31, 0x8_0022, 0x8_0021, 0x8_0032, 0x8_0031)


def step(rng: random.Random, task, tasks) -> None:
    addr, nr = B + rng.randrange(64) * P, rng.randint(1, 20)
    other = B + rng.randrange(64) * P
    match rng.choices(range(9), (30, 10, 10, 20, 8, 8, 7, 4, 3))[0]:
        case 0:
            mmap(task, addr, nr * P, rng.choice((3, 3, 1, 0)), rng.choice(FLAGS))
        case 1:
            munmap(task, addr, nr * P)
        case 2:
            mprotect(task, addr, nr * P, rng.choice((0, 1, 3)))
        case 3:
            touch_write(task, addr, nr)
        case 4:
            touch_read(task, addr, nr)
        case 5:
            new = rng.randint(1, 20) * P
            mremap(task, addr, nr * P, new, rng.choice((0, 1, 3, 7)), other)
        case 6:
            madvise(task, addr, nr * P, rng.choice((4, 8, 10, 11, 18, 24, 102, 103)))
        case 7:
            mlock(task, addr, nr * P)
        case _ if len(tasks) < 4:
            tasks.append(fork(task, pid=99, index=VmaIndex()))
        case _:
            tasks.remove(task)
            exit_task(task)


def balance(mm) -> None:
    vmas = mm.all_vmas()
    assert len(vmas) == mm.map_count == len(mm.index)
    assert all(left.vm_end <= right.vm_start for left, right in itertools.pairwise(vmas))
    assert sum(map(vma_pages, vmas)) == mm.total_vm
    pinned = sum(vma_pages(v) for v in vmas if v.run is not None and v.run.pieces_merge)
    locked = sum(vma_pages(v) for v in vmas if v.vm_flags & 0x2000)
    assert (mm.pinned_vm, mm.locked_vm) == (pinned, locked + pinned)


@pytest.mark.parametrize("make_task", ["core"], indirect=True)
@pytest.mark.parametrize("profile", ["contig", "rfc2017", "linux"])
@pytest.mark.parametrize("seed", range(12))
def test_books_balance_at_the_end(make_task, profile, seed):
    rng = random.Random(seed)
    tasks = [make_task(profile, {8: 1 << 40})]
    config, memory = tasks[0].mm.config, tasks[0].mm.memory
    for _ in range(80):
        task = rng.choice(tasks)
        with contextlib.suppress(SyscallError, MemoryFault):
            step(rng, task, tasks)
        for each in tasks:
            balance(each.mm)
        if profile != "rfc2017":  # its defects break the core's invariants: that is their point
            memory.check()
    for task in tasks:
        exit_task(task)
    assert config.overcommit.committed == 0
    if profile == "contig":
        assert not any(config.contig.user_pages.values())
        assert memory.vmstat().get("nr_contig", 0) == 0


@pytest.mark.parametrize("make_task", ["core"], indirect=True)
def test_a_moved_piece_of_a_run_keeps_its_frames_and_its_charge(make_task):
    task = make_task("contig", {8: 1 << 40})
    addr = mmap(task, 0, 8 * P, 3, 0x8_0022)
    touch_write(task, addr, 8, value=1)
    assert mremap(task, addr + 2 * P, 2 * P, 2 * P, 3, B) == B
    assert touch_read(task, B, 2) == (2, 4)
    assert (task.mm.locked_vm, task.mm.pinned_vm) == (8, 8)
    exit_task(task)
    task.mm.memory.check()
