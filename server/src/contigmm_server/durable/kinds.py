"""What a journal's records hold: numbers that never change, and the messages they stand for."""

from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from contigmm.v1 import batch_pb2, machine_pb2, memory_pb2, process_pb2

EXITS: Final = 1
"""Ends that the service ordered: one byte ExitCause, then uint64 process numbers."""
OPERATE: Final = 2
"""A batch of a session: one byte length of its id, the id, then an OperateRequest."""
OF_A_TENANT: Final = 0x80
"""Added to the number: the body begins with one byte length of the tenant's name, and the name."""


@dataclass(slots=True, frozen=True)
class Kind:
    """A unary method whose requests are commands."""

    method: str
    request: type[Message]
    response: type[Message]


UNARY: Final[dict[int, Kind]] = {
    number: Kind(method, getattr(module, f"{method}Request"), getattr(module, f"{method}Response"))
    for number, (module, method) in {
        10: (process_pb2, "SpawnProcess"),
        11: (process_pb2, "ForkProcess"),
        12: (process_pb2, "ExitProcess"),
        13: (machine_pb2, "AdvanceClock"),
        20: (memory_pb2, "Mmap"),
        21: (memory_pb2, "Munmap"),
        22: (memory_pb2, "Mprotect"),
        25: (memory_pb2, "Mlock"),
        27: (memory_pb2, "Munlock"),
        40: (memory_pb2, "Touch"),
        41: (memory_pb2, "Read"),
        42: (memory_pb2, "Write"),
        60: (batch_pb2, "RunBatch"),
        61: (batch_pb2, "RunColumns"),
    }.items()
}
RESPONSES: Final[tuple[type[Message], ...]] = (
    *(kind.response for kind in UNARY.values()),
    batch_pb2.OperateResponse,
)
NUMBERS: Final[dict[type[Message], int]] = {kind.request: n for n, kind in UNARY.items()}


def answer_bytes(answer: Message) -> bytes:
    """What of an answer goes into the chain: the same bytes whenever the answer is the same.

    Only the entries of a map may stand in any order, and to ask for one costs twice as much.
    """
    if type(answer) in _WITH_MAPS:
        return answer.SerializeToString(deterministic=True)
    return answer.SerializeToString()


def _has_map(message: Any, seen: set[str]) -> bool:
    # Any: the stubs know two classes of descriptors.
    if message.GetOptions().map_entry:
        return True
    seen.add(message.full_name)
    inner = [field.message_type for field in message.fields if field.message_type is not None]
    return any(_has_map(child, seen) for child in inner if child.full_name not in seen)


_WITH_MAPS: Final = frozenset(kind for kind in RESPONSES if _has_map(kind.DESCRIPTOR, set()))


def exits(cause: int, processes: list[int]) -> bytes:
    """The body of an EXITS record."""
    return bytes([cause]) + b"".join(process.to_bytes(8, "little") for process in processes)


def read_exits(body: bytes) -> tuple[int, list[int]]:
    """Cause and processes of an EXITS record."""
    return body[0], [int.from_bytes(body[at : at + 8], "little") for at in range(1, len(body), 8)]


def operate(session: str, request: batch_pb2.OperateRequest) -> bytes:
    """The body of an OPERATE record."""
    name = session.encode()
    return bytes([len(name)]) + name + request.SerializeToString()


def read_operate(body: bytes) -> tuple[str, batch_pb2.OperateRequest]:
    """Session and batch of an OPERATE record."""
    end = 1 + body[0]
    return body[1:end].decode(), batch_pb2.OperateRequest.FromString(body[end:])


def of_tenant(tenant: str, kind: int, body: bytes) -> tuple[int, bytes]:
    """A record of a command that a tenant sent; one without a name leaves it as it is."""
    if not tenant:
        return kind, body
    name = tenant.encode()
    return kind | OF_A_TENANT, bytes([len(name)]) + name + body


def read_tenant(kind: int, body: bytes) -> tuple[str, int, bytes]:
    """Tenant, number and body of a record."""
    if kind & OF_A_TENANT == 0:
        return "", kind, body
    end = 1 + body[0]
    return body[1:end].decode(), kind & ~OF_A_TENANT, body[end:]


def describe(kind: int, body: bytes) -> dict[str, Any]:
    """A record's contents as plain data, messages by their JSON."""
    tenant, kind, body = read_tenant(kind, body)
    return {**_described(kind, body), **({"tenant": tenant} if tenant else {})}


def _described(kind: int, body: bytes) -> dict[str, Any]:
    if kind == EXITS:
        cause, processes = read_exits(body)
        return {"what": "exits", "cause": cause, "processes": processes}
    if kind == OPERATE:
        session, request = read_operate(body)
        return {"what": "Operate", "session": session, "request": MessageToDict(request)}
    unary = UNARY[kind]
    return {"what": unary.method, "request": MessageToDict(unary.request.FromString(body))}
