"""Methods of a server: each is wrapped once, and none costs a call of another anything."""

import grpc
import pytest
from asking import status_of

from contigmm.v1 import machine_pb2
from contigmm_server.methods import Handler, Methods
from contigmm_server.service import Service


def handler(name: str) -> Handler:
    return grpc.unary_unary_rpc_method_handler(lambda request, context: name)


def test_every_method_is_wrapped_once_by_every_wrapper_the_first_innermost():
    asked: list[tuple[str, str]] = []

    def wrapper(tag: str):
        def wrap(method: str, inner: Handler) -> Handler:
            asked.append((tag, method))
            return handler(f"{tag}({inner.unary_unary(None, None)})")

        return wrap

    methods = Methods(wrapper("inner"), wrapper("outer"))
    methods.add_registered_method_handlers("p.S", {"A": handler("a")})

    class Details:
        method = "/p.S/A"
        invocation_metadata = ()

    for _ in range(2):
        assert methods.service(Details()).unary_unary(None, None) == "outer(inner(a))"
    assert asked == [("inner", "/p.S/A"), ("outer", "/p.S/A")]


@pytest.mark.asyncio
async def test_no_method_is_registered_with_the_core_which_would_wait_for_each_apart(monkeypatch):
    registered: list[str] = []
    kind = type(grpc.aio.server())

    def register(_: object, service: str, handlers: object) -> None:
        registered.append(service)

    monkeypatch.setattr(kind, "add_registered_method_handlers", register)
    Service()
    assert registered == []


@pytest.mark.asyncio
async def test_a_method_that_is_not_there_is_unimplemented(client):
    call = client._channel.unary_unary(
        "/contigmm.v1.MachineService/Nothing",
        request_serializer=machine_pb2.GetServerRequest.SerializeToString,
    )
    code, _ = await status_of(call(machine_pb2.GetServerRequest()))
    assert code is grpc.StatusCode.UNIMPLEMENTED
