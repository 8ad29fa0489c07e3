"""MemoryService: decode, call, encode. No rule about memory is here."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

from google.protobuf.message import Message

from contigmm.sim.operation import Answer, Operation
from contigmm.v1 import memory_pb2 as pb
from contigmm.v1 import memory_pb2_grpc
from contigmm_server import codec
from contigmm_server.commands import Soon
from contigmm_server.registry import Registry

R = TypeVar("R", bound=Message)


class MemoryService(memory_pb2_grpc.MemoryServiceServicer):
    """Runs memory system calls in machines of a registry, one at a time per machine."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def _run(
        self,
        request: Any,
        decode: Callable[[int, Any], Operation],
        kind: type[R],
        encode: Callable[[Answer], R],
    ) -> Soon[R]:
        hosted, process = self._registry.process(request.process)
        operation = decode(process, request.call)
        return hosted.answer_once(
            request,
            kind,
            lambda: encode(hosted.execute_one(operation)),
            cost_us=codec.cost_of_one_us(operation),
            asked=lambda: (operation,),
            digest=request.state_digest,
        )

    def Mmap(self, request: pb.MmapRequest, context: object) -> Soon[pb.MmapResponse]:
        """mmap(2)."""
        return self._run(request, codec.mmap, pb.MmapResponse, _mmap_response)

    def Munmap(self, request: pb.MunmapRequest, context: object) -> Soon[pb.MunmapResponse]:
        """munmap(2)."""
        return self._run(request, codec.munmap, pb.MunmapResponse, _MUNMAP)

    def Mprotect(self, request: pb.MprotectRequest, context: object) -> Soon[pb.MprotectResponse]:
        """mprotect(2)."""
        return self._run(request, codec.mprotect, pb.MprotectResponse, _MPROTECT)

    def Mlock(self, request: pb.MlockRequest, context: object) -> Soon[pb.MlockResponse]:
        """mlock(2)."""
        return self._run(request, codec.mlock, pb.MlockResponse, _MLOCK)

    def Munlock(self, request: pb.MunlockRequest, context: object) -> Soon[pb.MunlockResponse]:
        """munlock(2)."""
        return self._run(request, codec.munlock, pb.MunlockResponse, _MUNLOCK)

    def Touch(self, request: pb.TouchRequest, context: object) -> Soon[pb.TouchResponse]:
        """Accesses to every page of a range."""
        return self._run(request, codec.touch, pb.TouchResponse, _touch_response)

    def Read(self, request: pb.ReadRequest, context: object) -> Soon[pb.ReadResponse]:
        """A load."""
        return self._run(request, codec.read, pb.ReadResponse, _read_response)

    def Write(self, request: pb.WriteRequest, context: object) -> Soon[pb.WriteResponse]:
        """A store."""
        return self._run(request, codec.write, pb.WriteResponse, _write_response)


def _mmap_response(answer: Answer) -> pb.MmapResponse:
    if answer.errno:
        return pb.MmapResponse(failure=codec.failure(answer), machine_seq=answer.seq)
    return pb.MmapResponse(address=answer.value, machine_seq=answer.seq)


def _done(kind: Callable[..., R]) -> Callable[[Answer], R]:
    """The encoder of a call that returns nothing but a refusal."""

    def encode(answer: Answer) -> R:
        if answer.errno:
            failure = codec.failure(answer)
            return kind(failure=failure, machine_seq=answer.seq)
        return kind(machine_seq=answer.seq)

    return encode


_MUNMAP: Final = _done(pb.MunmapResponse)
_MPROTECT: Final = _done(pb.MprotectResponse)
_MLOCK: Final = _done(pb.MlockResponse)
_MUNLOCK: Final = _done(pb.MunlockResponse)


def _touch_response(answer: Answer) -> pb.TouchResponse:
    if answer.ok:
        return pb.TouchResponse(pages=answer.value, machine_seq=answer.seq)
    return _access_failed(pb.TouchResponse, answer)


def _read_response(answer: Answer) -> pb.ReadResponse:
    if answer.ok:
        return pb.ReadResponse(data=answer.data, machine_seq=answer.seq)
    return _access_failed(pb.ReadResponse, answer)


def _write_response(answer: Answer) -> pb.WriteResponse:
    if answer.ok:
        return pb.WriteResponse(machine_seq=answer.seq)
    return _access_failed(pb.WriteResponse, answer)


def _access_failed(kind: Callable[..., R], answer: Answer) -> R:
    if answer.errno:
        failure = codec.failure(answer)
        return kind(failure=failure, machine_seq=answer.seq)
    return kind(fault=codec.fault(answer), machine_seq=answer.seq)
