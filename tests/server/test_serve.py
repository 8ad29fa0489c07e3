"""``contigmm serve`` as an operating-system process: how it starts, is found, and ends."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from asking import ANON, PAGE, RW, refused
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from contigmm.client import aio, connect
from contigmm.client.failures import ServiceError
from contigmm.sim.lives import SpawnSpec
from contigmm.sim.operation import Call, Operation


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server process and the address that it prints."""
    command = [sys.executable, "-m", "contigmm_server.main", "--listen", "127.0.0.1:0", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening on "), process.stderr and process.stderr.read()
        yield process, line.split()[-1]
    finally:
        process.kill()
        process.communicate(timeout=10)


@pytest.mark.parametrize("program", [["contigmm_server.main"], ["contigmm.cli", "serve"]])
def test_what_grpc_reads_when_it_is_imported_is_set_before(program: list[str]):
    command = [sys.executable, "-X", "importtime", "-m", *program, "--help"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stderr
    imported = [line.rpartition("|")[2].strip() for line in told.splitlines()]
    ours = next(name for name in imported if name.startswith("contigmm_server"))
    assert imported.index(ours) < imported.index("grpc._cython.cygrpc")


def test_what_grpc_reads_is_left_to_whoever_has_set_it():
    say = "import os, contigmm_server; print(os.environ['GRPC_EXPERIMENTS'])"
    others = {name: value for name, value in os.environ.items() if name != "GRPC_EXPERIMENTS"}
    for given, found in (({}, "-event_engine_listener"), ({"GRPC_EXPERIMENTS": ""}, "")):
        command = [sys.executable, "-c", say]
        said = subprocess.check_output(command, env={**others, **given}, text=True)
        assert said.strip() == found


def test_a_server_boots_its_machine_serves_and_ends_at_sigterm():
    with serving("--machine", "spec:small", "--seed", "3") as (process, address):
        with connect(address) as client:
            machine = client.machine("default")
            assert machine.seed == 3
            child = machine.spawn("x")
            assert child.mmap(0, PAGE, RW, ANON) % PAGE == 0
            stream = machine.stream()
            (answer,) = stream.execute([Operation(Call.FORK, child.id)])
            assert answer.ok
            process.send_signal(signal.SIGTERM)
            with pytest.raises(ServiceError) as ended:
                stream.receive()
            assert ended.value.code is grpc.StatusCode.UNAVAILABLE
            assert ended.value.reason == "SHUTTING_DOWN"
        assert process.wait(timeout=10) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_the_machine_is_what_its_seed_and_profile_say():
    arguments = ("--machine", "spec:small", "--profile", "linux", "--clock", "manual")
    with serving(*arguments) as (_, address), connect(address) as client:
        info = client.machine("default").info()
    assert (info.profile, info.clock, info.seed) == ("linux", "manual", 0)


def test_health_and_reflection_are_there():
    with serving() as (_, address), grpc.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", "contigmm.v1.MemoryService"):
            request = health_pb2.HealthCheckRequest(service=name)
            status = health.Check(request).status
            assert status == health_pb2.HealthCheckResponse.SERVING
            watched = health.Watch(request)
            assert next(watched).status == status
            watched.cancel()
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        (answer,) = stub.ServerReflectionInfo(iter([ask]))
        names = {service.name for service in answer.list_services_response.service}
        assert "contigmm.v1.BatchService" in names
        assert "grpc.health.v1.Health" in names


def test_a_unix_socket_will_do(tmp_path: Path):
    path = tmp_path / "socket"
    with serving("--listen", f"unix:{path}", "--machine", "spec:small") as (_, address):
        assert address == f"unix:{path}"
        with connect(address) as client:
            assert [machine.name for machine in client.machines()] == ["machines/default"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--machine", "spec:nothing"], "contigmm serve: "),
        (["--machine", "file:/nowhere"], "contigmm serve: "),
        (["--listen", "unix:/nowhere/s"], "contigmm serve: cannot listen on unix:/nowhere/s"),
        (["--clock", "wall"], "invalid choice"),
    ],
)
def test_what_cannot_be_served_is_one_sentence_and_exit_status_2(arguments, sentence):
    command = [sys.executable, "-m", "contigmm_server.main", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 2
    assert sentence in ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.stdout == ""


def test_a_client_without_grpc_says_what_to_install():
    code = (
        "import sys\n"
        "for name in ('grpc', 'google'): sys.modules[name] = None\n"
        "import contigmm.client\n"
        "try: contigmm.client.connect('x')\n"
        "except ImportError as error: print(error)\n"
    )
    environment = {**os.environ}
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert "pip install 'contigmm[grpc]'" in ran.stdout


@pytest.mark.asyncio
async def test_busy_streams_all_learn_that_the_server_is_shutting_down():
    spawn = Operation(Call.SPAWN, 0, (0, 0, 0), SpawnSpec("s").encode())

    async def work(machine: aio.Machine) -> str:
        async with machine.stream() as stream:
            (born,) = await stream.execute([spawn])
            mmap = Operation(Call.MMAP, born.value, (0, 16 * PAGE, RW, ANON, -1, 0))
            touch = Operation(Call.TOUCH, born.value, (0, 16 * PAGE, 1), addr_from=0)
            munmap = Operation(Call.MUNMAP, born.value, (0, 16 * PAGE), addr_from=0)
            while True:
                await stream.execute([mmap, touch, munmap])

    async def code_of(machine: aio.Machine) -> str:
        return (await refused(work(machine))).code.name

    with serving("--machine", "spec:small") as (process, address):
        async with aio.connect(address) as client:
            machine = client.machine("default")
            workers = [asyncio.create_task(code_of(machine)) for _ in range(24)]
            while (await machine.info()).process_count < len(workers):
                await asyncio.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            assert set(await asyncio.gather(*workers)) == {"UNAVAILABLE"}
        assert process.wait(timeout=10) == 0
        assert process.stderr is not None
        assert process.stderr.read() == "", "clients that left are no errors"


@pytest.mark.asyncio
async def test_a_client_that_never_reads_is_held_up_and_then_cleared_away():
    batch = [Operation(Call.MMAP, 1, (0, PAGE, RW, ANON, -1, 0))] * 256
    spawn = Operation(Call.SPAWN, 0, (0, 0, 0), SpawnSpec("s").encode())
    with serving("--machine", "spec:small") as (process, address):
        async with aio.connect(address) as observer:
            machine = observer.machine("default")
            deaf = aio.connect(address)
            stream = deaf.machine("default").stream()
            await stream.__aenter__()
            await stream.send([spawn])
            sent = 0
            with contextlib.suppress(TimeoutError):
                while sent < 20_000:
                    await asyncio.wait_for(stream.send(batch), 2)
                    sent += 1
            assert 0 < sent < 20_000, "nothing held the client up"
            await machine.check()
            await deaf.close()
            async with asyncio.timeout(20):
                while await machine.processes():
                    await asyncio.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
        assert process.stderr is not None
        assert process.stderr.read() == "", "a client that left is no error"
