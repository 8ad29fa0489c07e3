"""What views show, and that listings and bulk answers show one moment."""

import asyncio

import grpc
import numpy as np
import pytest
from asking import ANON, DESCRIPTION, PAGE, RW, raw, refused

from contigmm import procfs
from contigmm.abi import MAP_CONTIG
from contigmm.client import aio
from contigmm.client.exchanges import list_processes
from contigmm.sim.machine import Machine as LibraryMachine
from contigmm.v1 import machine_pb2, process_pb2

pytestmark = pytest.mark.asyncio
PRESENT = np.uint64(1 << 63)
FRAME = np.uint64((1 << 55) - 1)


async def test_texts_are_the_librarys(machine):
    library = LibraryMachine.boot(DESCRIPTION, seed=7, clock="manual")
    twins = (await machine.spawn("a"), library.spawn("a"))
    remote, local = twins
    for length in (PAGE, 64 * PAGE):
        address = await remote.mmap(0, length, RW, ANON)
        assert local.mmap(0, length, RW, ANON) == address
        assert await remote.touch(address, length) == local.touch(address, length)
    assert await remote.maps() == local.maps()
    assert await remote.smaps() == local.smaps()
    assert await remote.status() == local.status()
    assert (await remote.pagemap(address, length)).tolist() == local.pagemap(
        address, length
    ).tolist()
    assert await machine.buddyinfo() == library.buddyinfo()
    assert await machine.unusable_index() == library.unusable_index()
    assert await machine.vmstat() == library.vmstat()
    with library.held() as memory:
        zones, nodes = procfs.zone_views(memory), procfs.node_stats(memory)
        assert await machine.proc_text("buddyinfo") == procfs.buddyinfo(zones)
        assert await machine.proc_text("pagetypeinfo") == procfs.pagetypeinfo(zones)
        assert await machine.proc_text("zoneinfo") == procfs.zoneinfo(zones, nodes)
        assert await machine.proc_text("vmstat") == procfs.vmstat(zones, nodes, memory.vmstat())


async def test_pagemaps_frames_and_free_lists_tell_the_same_story(machine):
    one, other = await machine.spawn("one"), await machine.spawn("other")
    for process in (one, other):
        address = await process.mmap(0, 48 * PAGE, RW, ANON | MAP_CONTIG)
        await process.mmap(0, 4 * PAGE, RW, ANON)
        await process.touch(address, 48 * PAGE)
    maps = await machine.pagemaps()
    assert set(maps.by_process) == {one.id, other.id}
    entries = np.concatenate([e for s in maps.by_process.values() for _, e in s])
    owned = (entries[entries & PRESENT != 0] & FRAME).tolist()
    assert len(owned) == len(set(owned)) == 96
    frames, free = await machine.frames(), await machine.free_blocks()
    assert frames.seq == free.seq == maps.seq == (await machine.info()).seq
    kinds = {}
    for first, count, kind in zip(frames.first, frames.count, frames.frame_class, strict=True):
        kinds.update(dict.fromkeys(range(first, first + count), frames.class_names[kind]))
    assert {kinds[pfn] for pfn in owned} <= {"anon", "mlocked"}
    for pfn, order in zip(free.pfn.tolist(), free.order.tolist(), strict=True):
        assert {kinds[frame] for frame in range(pfn, pfn + (1 << order))} == {"free"}
    assert len(free.pfn) == sum(map(sum, (await machine.buddyinfo()).values()))
    only = await machine.pagemaps([other.id, 999])
    assert set(only.by_process) == {other.id}


async def test_a_part_of_a_pagemap_is_the_part(machine):
    process = await machine.spawn()
    address = await process.mmap(0, 8 * PAGE, RW, ANON)
    await process.touch(address + 2 * PAGE, 3 * PAGE)
    whole = await process.pagemap(address, 8 * PAGE)
    assert [bool(e & PRESENT) for e in whole] == [False] * 2 + [True] * 3 + [False] * 3
    part = await process.pagemap(address + PAGE, 2 * PAGE)
    assert part.tolist() == whole[1:3].tolist()


async def test_bulk_answers_come_in_chunks_of_a_mebibyte(client, machine):
    process = await machine.spawn()
    address = await process.mmap(0, 1 << 40, 0, ANON | 0x4000)  # MAP_NORESERVE
    assert (await process.pagemap(address, 1 << 30)).tolist() == [0] * (1 << 18)
    request = machine_pb2.SnapshotMachineRequest(machine=machine.name)
    sizes = [len(part.chunk) async for part in raw(client)["SnapshotMachine"](request)]
    assert max(sizes) <= 1 << 20


async def test_a_listing_in_pages_shows_one_moment(client, machine):
    processes = [await machine.spawn(f"p{n}") for n in range(5)]
    listing = process_pb2.ListProcessesRequest(machine=machine.name, page_size=2)
    names = []
    while True:
        page = await raw(client)["ListProcesses"](listing)
        names += [process.name for process in page.processes]
        if not page.next_page_token:
            break
        listing.page_token = page.next_page_token
    assert names == [process.name for process in processes]
    await machine.spawn("later")
    failure = await refused(client.call(list_processes(machine.name, listing.page_token)))
    assert (failure.code.name, failure.reason) == ("ABORTED", "MACHINE_MOVED_ON")


async def test_machines_are_listed_in_pages(client, machine):
    other = await client.create_machine(DESCRIPTION, name="n")
    listing = machine_pb2.ListMachinesRequest(page_size=1)
    first = await raw(client)["ListMachines"](listing)
    listing.page_token = first.next_page_token
    second = await raw(client)["ListMachines"](listing)
    assert [m.name for p in (first, second) for m in p.machines] == [machine.name, other.name]
    assert second.next_page_token == ""
    await other.delete()
    with pytest.raises(grpc.RpcError) as caught:
        await raw(client)["ListMachines"](listing)
    assert caught.value.code() is grpc.StatusCode.ABORTED


async def test_a_watch_tells_what_has_passed_and_nothing_when_nothing_has(machine):
    process = await machine.spawn()
    watch = aiter(machine.watch(interval_s=0.02))
    first = await anext(watch)
    assert (first.seq, first.passed, first.process_count) == (1, 0, 1)
    for _ in range(3):
        await process.mmap(0, PAGE, RW, ANON)
    passed = 0
    while passed < 3:
        state = await anext(watch)
        passed += state.passed
        assert state.seq == 1 + passed
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(watch), 0.2)


async def test_a_slow_watch_skips_states_and_is_told_how_many_commands_passed(machine):
    process = await machine.spawn()
    watch = aiter(machine.watch(interval_s=0.05))
    await anext(watch)
    for _ in range(6):
        await asyncio.gather(*(process.mmap(0, PAGE, RW, ANON) for _ in range(8)))
    passed = []
    while sum(passed) < 48:
        state = await anext(watch)
        passed.append(state.passed)
        assert state.seq == 1 + sum(passed)
    assert sum(passed) == 48
    assert len(passed) < 48


async def test_a_watch_of_a_machine_that_goes_ends(machine):
    watch = aiter(machine.watch(interval_s=0.02))
    await anext(watch)
    await machine.delete()
    assert (await refused(anext(watch))).reason == "NO_SUCH_MACHINE"


async def test_what_took_effect_is_echoed(machine):
    limits = {"MEMLOCK": (1 << 20, 2 << 20)}
    asked = frozenset({"CAP_IPC_LOCK"})
    process = await machine.spawn("all", uid=5, caps=asked, rlimits=limits, cpu=0, lease_s=60)
    info = await process.info()
    assert (info.comm, info.uid, info.caps, info.cpu) == ("all", 5, asked, 0)
    assert info.rlimits["MEMLOCK"] == (1 << 20, 2 << 20)
    assert info.lease_s == 60
    usual = await (await machine.spawn()).info()
    assert usual.rlimits["MEMLOCK"] == (8 << 20, 8 << 20), "Linux's default"
    address = await process.mmap(0, 4 * PAGE, RW, ANON)
    await process.touch(address, 4 * PAGE)
    info = await process.info()
    assert (info.vma_count, info.rss_anon_bytes) == (1, 4 * PAGE)


async def test_blocking_and_asyncio_clients_have_the_methods_of_the_library(machine):
    from contigmm.client import sync
    from contigmm.sim import process as library_process

    def names(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    own_only = set(  # not to be had over the service
        "setrlimit getrlimit statm brk clone close execve fallocate fcntl ftruncate get_mempolicy "
        "madvise mbind memfd_create mincore mlock2 mlockall move_pages mremap mseal msync "
        "munlockall open personality pkey_mprotect prctl pread pwrite remap_file_pages "
        "set_mempolicy".split()
    )
    assert names(library_process.Process) - own_only - {"id", "pid"} <= names(sync.Process)
    assert names(sync.Process) == names(aio.Process)
    properties = {"profile", "seed", "seq", "clock_ns", "known", "drawn"}
    assert names(sync.Machine) - properties == names(aio.Machine)
    assert names(sync.Stream) == names(aio.Stream)
