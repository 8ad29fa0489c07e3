"""Talks to a contigmm server in the ways that every client needs, and prints a transcript.

It does not depend on the server's age: names and addresses are compared, not printed. This is the
plain wire, for comparing with the other languages: ``contigmm.client`` is more comfortable.
"""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Final

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from contigmm.v1 import (
    batch_pb2,
    description_pb2,
    machine_pb2,
    memory_pb2,
    operation_pb2,
    process_pb2,
    view_pb2,
)
from contigmm.v1.batch_pb2_grpc import BatchServiceStub
from contigmm.v1.machine_pb2_grpc import MachineServiceStub
from contigmm.v1.memory_pb2_grpc import MemoryServiceStub
from contigmm.v1.process_pb2_grpc import ProcessServiceStub
from contigmm.v1.reason_pb2 import Reason
from contigmm.v1.view_pb2_grpc import ViewServiceStub

# Words of the ABI: include/uapi/asm-generic/mman-common.h, v6.12; MAP_CONTIG is the RFC's.
PROT_RW: Final = 0x1 | 0x2
ANONYMOUS: Final = 0x2 | 0x20
MAP_CONTIG: Final = 0x80000
PAGE: Final = 4096
DEADLINE_S: Final = 30.0

_STARTED: Final = time.time_ns()


def request_id(name: str) -> str:
    """Return an id that is new in every run, and the same when a call is retried within one."""
    return f"python-{_STARTED}-{name}"


class Client:
    """The services of one server, and what the transcript asks of them."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.machines = MachineServiceStub(channel)
        self.processes = ProcessServiceStub(channel)
        self.memory = MemoryServiceStub(channel)
        self.batches = BatchServiceStub(channel)
        self.views = ViewServiceStub(channel)

    def run(self) -> None:
        """Print the transcript."""
        machine = self.boot()
        process = self.spawn(machine)
        self.map_once(process)
        self.be_refused(process)
        self.run_stream(machine, process)
        self.watch(machine)
        self.exit(process)
        self.ask_for_nobody()
        gone = self.machines.DeleteMachine(
            machine_pb2.DeleteMachineRequest(machine=machine, request_id=request_id("delete")),
            timeout=DEADLINE_S,
        )
        print(f"delete: machine_seq {gone.machine_seq}")

    def boot(self) -> str:
        """Make a machine of 256 MiB, all free."""
        zone = description_pb2.ZoneDescription(name="Normal", start_pfn=0, spanned=65536)
        answer = self.machines.CreateMachine(
            machine_pb2.CreateMachineRequest(
                parameters=machine_pb2.BootParameters(seed=1),
                description=description_pb2.MachineDescription(
                    origin="a client's example", cpus=2, zones=[zone]
                ),
                request_id=request_id("boot"),
            ),
            timeout=DEADLINE_S,
        )
        machine = answer.machine
        profile = machine_pb2.Profile.Name(machine.profile)
        print(f"boot: {machine.frames} frames, {machine.cpus} cpus, {profile}")
        return machine.name

    def spawn(self, machine: str) -> process_pb2.Process:
        """Start a process that may lock 16 MiB."""
        limit = operation_pb2.Rlimit(soft=16 << 20, hard=16 << 20)
        spec = operation_pb2.ProcessSpec(name="client", uid=1000, rlimits={"MEMLOCK": limit})
        answer = self.processes.SpawnProcess(
            process_pb2.SpawnProcessRequest(
                machine=machine, spec=spec, request_id=request_id("spawn")
            ),
            timeout=DEADLINE_S,
        )
        took = answer.process.spec
        print(f"spawn: {took.name}, uid {took.uid}, MEMLOCK {took.rlimits['MEMLOCK'].soft}")
        return answer.process

    def map_once(self, process: process_pb2.Process) -> None:
        """Map a contiguous run and ask again under the same request id."""
        request = memory_pb2.MmapRequest(
            process=process.name,
            call=operation_pb2.MmapCall(length=2 << 20, prot=PROT_RW, flags=ANONYMOUS | MAP_CONTIG),
            request_id=request_id("mmap"),
        )
        first = self.memory.Mmap(request, timeout=DEADLINE_S)
        again = self.memory.Mmap(request, timeout=DEADLINE_S)
        aligned = first.address % PAGE == 0 and first.address != 0
        print(
            f"mmap: page-aligned {truth(aligned)};"
            f" retried by request id, same answer {truth(first == again)}"
        )
        request.call.length = PAGE
        failed = failure_of(lambda: self.memory.Mmap(request, timeout=DEADLINE_S))
        print(f"mmap: same request id, other body: {failed}")

    def be_refused(self, process: process_pb2.Process) -> None:
        """Ask for what the simulated kernel refuses: an answer, not a failed call."""
        calls = (
            operation_pb2.MmapCall(length=0, prot=PROT_RW, flags=ANONYMOUS),
            operation_pb2.MmapCall(length=64 << 20, prot=PROT_RW, flags=ANONYMOUS | MAP_CONTIG),
        )
        for index, call in enumerate(calls):
            answer = self.memory.Mmap(
                memory_pb2.MmapRequest(
                    process=process.name, call=call, request_id=request_id(f"refused-{index}")
                ),
                timeout=DEADLINE_S,
            )
            refusal = answer.failure
            reason = Reason.Name(refusal.reason)
            print(f"refused: errno {refusal.errno} {refusal.errno_name}, {reason}")

    def run_stream(self, machine: str, process: process_pb2.Process) -> None:
        """Run a batch in a session, lose the answer on purpose, and go on in a new stream."""
        batch = batch_of(process.id)
        lost = Session(self.batches, machine)
        one = lost.run(batch)
        lost.cancel()
        session = Session(self.batches, machine)
        two = session.run(batch)
        for index, answer in enumerate(two.answers):
            print(f"batch[{index}]: {shown(answer)}")
        same = truth(one.machine_seq == two.machine_seq)
        print(f"batch: asked again after a broken stream, same answers {same}")
        session.close()

    def watch(self, machine: str) -> None:
        """Look at the machine's state as it is now."""
        states = self.views.WatchMachine(view_pb2.WatchMachineRequest(machine=machine))
        state = next(states)
        states.cancel()
        print(
            f"watch: machine_seq {state.machine_seq}, {state.process_count} process,"
            f" {len(state.zones)} zone, {len(state.zones[0].free_blocks)} orders"
        )

    def exit(self, process: process_pb2.Process) -> None:
        """Let the process exit."""
        answer = self.processes.ExitProcess(
            process_pb2.ExitProcessRequest(process=process.name, request_id=request_id("exit")),
            timeout=DEADLINE_S,
        )
        asked = process_pb2.GetProcessRequest(process=process.name)
        failed = failure_of(lambda: self.processes.GetProcess(asked, timeout=DEADLINE_S))
        print(f"exit: machine_seq {answer.machine_seq}; asked again: {failed}")

    def ask_for_nobody(self) -> None:
        """Ask for a machine that is not there."""
        asked = machine_pb2.GetMachineRequest(machine="machines/nobody")
        print(f"nobody: {failure_of(lambda: self.machines.GetMachine(asked, timeout=DEADLINE_S))}")


class Session:
    """One stream of a session."""

    def __init__(self, batches: BatchServiceStub, machine: str) -> None:
        self._requests: SimpleQueue[batch_pb2.OperateRequest | None] = SimpleQueue()
        self._answers = batches.Operate(self._sent(), timeout=DEADLINE_S)
        opening = batch_pb2.OpenSession(machine=machine, session="client-session")
        self._requests.put(batch_pb2.OperateRequest(open=opening))
        opened = next(self._answers).opened
        print(f"stream: session {opened.session}, last applied {opened.last_applied}")

    def _sent(self) -> Iterator[batch_pb2.OperateRequest]:
        while (request := self._requests.get()) is not None:
            yield request

    def run(self, batch: batch_pb2.Batch) -> batch_pb2.BatchAnswers:
        """Run a batch."""
        self._requests.put(batch_pb2.OperateRequest(batch=batch))
        return next(self._answers).answers

    def cancel(self) -> None:
        """Break the stream."""
        self._requests.put(None)
        self._answers.cancel()

    def close(self) -> None:
        """End the stream in order."""
        self._requests.put(None)
        if list(self._answers):
            sys.exit("client: the stream should have ended")


def batch_of(process: int) -> batch_pb2.Batch:
    """Return a batch of which some succeeds, some is refused, one is skipped and one faults."""
    anonymous = operation_pb2.MmapCall(length=4 * PAGE, prot=PROT_RW, flags=ANONYMOUS)
    empty = operation_pb2.MmapCall(length=0, prot=PROT_RW, flags=ANONYMOUS)
    store = operation_pb2.TouchCall(length=4 * PAGE, write=True)
    unmap = operation_pb2.MunmapCall(length=4 * PAGE)
    load = operation_pb2.TouchCall(length=PAGE)
    nowhere = operation_pb2.TouchCall(address=PAGE, length=PAGE)
    return batch_pb2.Batch(
        first_operation=1,
        operations=[
            operation_pb2.Operation(process=process, mmap=anonymous),
            operation_pb2.Operation(process=process, addr_from=0, touch=store),
            operation_pb2.Operation(process=process, addr_from=0, munmap=unmap),
            operation_pb2.Operation(process=process, mmap=empty),
            operation_pb2.Operation(process=process, addr_from=3, touch=load),
            operation_pb2.Operation(process=process, touch=nowhere),
        ],
    )


def shown(answer: operation_pb2.Answer) -> str:
    """Tell what an operation did."""
    match answer.WhichOneof("result"):
        case "value":
            return "an address" if answer.value >= 1 << 32 else f"value {answer.value}"
        case "failure":
            refusal = answer.failure
            return f"refused, {refusal.errno_name}, {Reason.Name(refusal.reason)}"
        case "fault":
            fault = answer.fault
            return f"signal {fault.signal}, code {fault.code}, address {fault.address:#x}"
        case "skip":
            return f"skipped because of operation {answer.skip.because}"
        case _:
            return "nothing"


def failure_of(call: Callable[[], object]) -> str:
    """Tell a call that should fail by its code and the reason in its ErrorInfo."""
    try:
        call()
    except grpc.RpcError as error:
        status = rpc_status.from_call(error)
        code = error.code().name
        for detail in status.details if status else ():
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info):
                return f"{code} {info.reason}"
        return str(code)
    return "OK"


def truth(fact: object) -> str:
    """Write a truth value as the other languages do."""
    return "true" if fact else "false"


def main() -> None:
    """Talk to the server at the first argument, retrying as the file of the second says."""
    if len(sys.argv) != 3:
        sys.exit("usage: client.py HOST:PORT SERVICE_CONFIG")
    _, address, service_config = sys.argv
    options = [("grpc.service_config", Path(service_config).read_text(encoding="utf-8"))]
    with grpc.insecure_channel(address, options) as channel:
        try:
            Client(channel).run()
        except grpc.RpcError as error:
            sys.exit(f"client: {error.code().name}: {error.details()}")


if __name__ == "__main__":
    main()
