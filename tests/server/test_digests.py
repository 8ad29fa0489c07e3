"""A command tells the digest of the state that it left, if it is asked to."""

import pytest
from asking import ANON, PAGE, RW, raw

from contigmm.sim.operation import Call
from contigmm.v1 import batch_pb2, machine_pb2, memory_pb2, operation_pb2, process_pb2

pytestmark = pytest.mark.asyncio


async def test_a_batch_tells_the_digest_if_it_is_asked_to(client, machine):
    process = await machine.spawn()
    calls = bytes([Call.MUNMAP])
    number = process.id.to_bytes(8, "little")
    columns = batch_pb2.Columns(calls=calls, processes=number, state_digest=True)
    told = await raw(client)["RunColumns"](
        batch_pb2.RunColumnsRequest(machine=machine.name, columns=columns)
    )
    check = await machine.examine()
    assert (told.answers.machine_seq, told.answers.state_digest) == (check.seq, check.digest)
    batch = batch_pb2.Batch(state_digest=True)
    told = await raw(client)["RunBatch"](
        batch_pb2.RunBatchRequest(machine=machine.name, batch=batch)
    )
    assert told.answers.state_digest == check.digest
    plain = await machine.execute_columns(batch_pb2.Columns(calls=calls, processes=number))
    assert plain.state_digest == ""


async def test_every_unary_command_tells_the_digest_if_it_is_asked_to(client, machine):
    parent = await machine.spawn()
    address = await parent.mmap(0, PAGE, RW, ANON)
    there = {"address": address, "length": PAGE}
    memory = {
        "Mmap": operation_pb2.MmapCall(length=PAGE, prot=RW, flags=ANON),
        "Mprotect": operation_pb2.MprotectCall(**there, prot=RW),
        "Touch": operation_pb2.TouchCall(**there, write=True),
        "Write": operation_pb2.WriteCall(address=address, data=b"x"),
        "Read": operation_pb2.ReadCall(**there),
        "Mlock": operation_pb2.MlockCall(**there),
        "Munlock": operation_pb2.MunlockCall(**there),
        "Munmap": operation_pb2.MunmapCall(**there),
    }
    asked = {
        name: getattr(memory_pb2, f"{name}Request")(process=parent.name, call=call)
        for name, call in memory.items()
    }
    asked["SpawnProcess"] = process_pb2.SpawnProcessRequest(machine=machine.name)
    asked["ForkProcess"] = process_pb2.ForkProcessRequest(process=parent.name)
    asked["ExitProcess"] = process_pb2.ExitProcessRequest(process=parent.name)
    asked["AdvanceClock"] = machine_pb2.AdvanceClockRequest(machine=machine.name, duration_ns=1)
    for name, request in asked.items():
        request.state_digest = name != "Mlock"
        request.request_id = name
        told = await raw(client)[name](request)
        check = await machine.examine()
        assert told.machine_seq == check.seq
        assert told.state_digest == (check.digest if request.state_digest else ""), name
    again = await raw(client)["Munmap"](asked["Munmap"])
    assert again.state_digest not in ("", (await machine.examine()).digest)
