"""Who comes in, what he may do and have, and that all of it outlasts the server."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from asking import ANON, DESCRIPTION, PAGE, RW, raw, refused, status_of
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from contigmm.client import Door
from contigmm.client.aio import Client, Machine, connect
from contigmm.client.failures import ServiceError
from contigmm.hosts import describe
from contigmm.sim.lives import SpawnSpec
from contigmm.sim.operation import Call, Operation
from contigmm.v1 import machine_pb2 as pb
from contigmm_server.doors import privileges, tenants, token_command, tokens
from contigmm_server.doors.audit import Audit
from contigmm_server.doors.caller import Role
from contigmm_server.doors.guard import Guard
from contigmm_server.doors.needs import NEEDS, NOBODY_ASKED
from contigmm_server.doors.quotas import Allowances
from contigmm_server.doors.tenants import Quotas, Tenants, TenantsError
from contigmm_server.doors.tls import Tls
from contigmm_server.durable.journal import Durability
from contigmm_server.durable.keeper import Keeper
from contigmm_server.durable.store import Store
from contigmm_server.limits import Limits
from contigmm_server.service import Service

CAPTURE = Path(__file__).parents[1] / "data" / "fragmented.snap.tar.xz"
PEM = Path(__file__).parent / "certificates"
SPAWN = Operation(Call.SPAWN, 0, (1000, 0, 0), SpawnSpec("s").encode())


@dataclass
class Doors:
    """A guarded server and those who come."""

    file: Path
    address: str
    service: Service
    guard: Guard
    stack: AsyncExitStack
    audit: Path
    ids: dict[str, str] = field(default_factory=dict)

    def token(self, tenant: str, role: Role = Role.ADMIN, life_s: float | None = None) -> str:
        text = tokens.create(self.file, tenant=tenant, role=role, expires_in_s=life_s)
        self.guard.look()
        return text

    async def client(self, token: str | None) -> Client:
        return await self.stack.enter_async_context(
            connect(self.address, door=Door(token=token), timeout_s=20)
        )

    async def come(self, tenant: str, role: Role = Role.ADMIN) -> Client:
        return await self.client(self.token(tenant, role))


@asynccontextmanager
async def guarded(path: Path, config: Tenants | None = None) -> AsyncIterator[Doors]:
    """A server that keeps its machines in ``path`` and asks for tokens."""
    file, config = path / "tokens.json", config or Tenants()
    if not file.exists():
        tokens.create(file, tenant="nobody", role=Role.READER, expires_in_s=None)
    allowances = Allowances(config)
    guard = Guard(file, config, allowances, Audit(path / "audit.log"))
    service = Service(Limits(machines=8), guard=guard)
    registry = service.registry
    registry.allowances, registry.owner = allowances, "default"
    keeper = Keeper(Store(path / "data"), Durability.GROUP, registry.executor)
    await keeper.recover(registry)
    registry.keeper = keeper
    registry.hold_quotas()
    async with AsyncExitStack() as stack, guard:
        address = await service.start("127.0.0.1:0")
        yield Doors(file, address, service, guard, stack, path / "audit.log")
        await stack.aclose()
        await service.stop(grace_s=1)


async def reason(call: object) -> str:
    return (await refused(call)).reason  # type: ignore[arg-type]


# ---- who it is ----


@pytest.mark.asyncio
async def test_only_who_has_a_token_that_is_good_comes_in(tmp_path):
    async with guarded(tmp_path) as doors:
        text = doors.token("lab")
        assert await (await doors.client(text)).machines() == []
        forged = text[:-1] + ("A" if text[-1] != "A" else "B")
        for token in (None, forged, "", "cmm_", text + "x", "cmm_" + "0" * 16 + text[20:]):
            error = await refused((await doors.client(token)).machines())
            assert (error.code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, "WHO_IS_IT")


@pytest.mark.asyncio
async def test_a_change_of_tokens_takes_effect_while_the_server_runs(tmp_path):
    async with guarded(tmp_path) as doors:
        text = doors.token("lab")
        client = await doors.client(text)
        machine = await client.create_machine(DESCRIPTION, name="m")
        async with machine.stream() as stream:
            assert (await stream.execute([SPAWN]))[0].ok
            assert token_command.main(["revoke", "--tokens", str(doors.file), text[4:20]]) == 0
            with pytest.raises(ServiceError) as ended:  # by the watch, without anybody's asking
                async with asyncio.timeout(10):
                    await stream.receive()
        assert ended.value.code is grpc.StatusCode.UNAUTHENTICATED
        assert await reason(machine.info()) == "WHO_IS_IT"
        again = await doors.client(doors.token("lab"))
        assert (await again.machine("m").info()).process_count == 0
        fresh = tokens.rotate(doors.file, next(iter(set(tokens.read(doors.file)) - {""})))
        doors.guard.look()
        assert await (await doors.client(fresh)).machines() is not None


@pytest.mark.asyncio
async def test_a_token_expires_and_a_file_that_cannot_be_read_lets_nobody_in(tmp_path, monkeypatch):
    async with guarded(tmp_path) as doors:
        client = await doors.client(doors.token("lab", life_s=60))
        assert await client.machines() == []
        now_s = tokens.now_s()
        monkeypatch.setattr(tokens, "now_s", lambda: now_s + 61)
        assert await reason(client.machines()) == "WHO_IS_IT"
        other = await doors.come("lab")
        assert await other.machines() == []
        doors.file.write_text("{}")
        doors.guard.look()
        assert await reason(other.machines()) == "WHO_IS_IT"


@pytest.mark.asyncio
async def test_a_certificate_stands_for_a_tenant_and_health_needs_nobody(tmp_path):
    config = Tenants(certificates={"lab-machine": ("lab", Role.READER)})
    guard = Guard(None, config, Allowances(config))
    service = Service(guard=guard)
    ca = PEM / "ca.pem"
    address = await service.start("127.0.0.1:0", Tls(PEM / "server.pem", PEM / "server.key", ca))
    door = Door.of_files(tls_ca=ca, tls_cert=PEM / "client.pem", tls_key=PEM / "client.key")
    async with connect(address, door=door) as client:
        assert await client.machines() == []
        assert await reason(client.create_machine(DESCRIPTION)) == "ROLE_TOO_LOW"
    door = Door.of_files(tls_ca=ca, tls_cert=PEM / "server.pem", tls_key=PEM / "server.key")
    async with connect(address, door=door) as client:
        assert await reason(client.machines()) == "WHO_IS_IT"
        stub = health_pb2_grpc.HealthStub(client._channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    await service.stop(grace_s=1)


@pytest.mark.asyncio
async def test_every_method_says_which_role_it_takes():
    service = Service()
    methods = set(service.methods.names) - NOBODY_ASKED
    await service.stop(grace_s=0)
    assert methods == set(NEEDS) & methods
    assert len(methods) > 30


# ---- what he may do ----


@pytest.mark.asyncio
async def test_a_machine_of_another_tenant_is_not_there(tmp_path):
    async with guarded(tmp_path) as doors:
        lab, rival = await doors.come("lab"), await doors.come("rival")
        await lab.create_machine(DESCRIPTION, name="m")
        machine = rival.machine("m")
        calls = raw(rival)
        for ask in (machine.info, machine.spawn, machine.delete, machine.snapshot, machine.vmstat):
            hidden = await refused(ask())
            absent = await refused(getattr(rival.machine("no"), ask.__name__)())
            assert hidden.code is grpc.StatusCode.NOT_FOUND
            assert str(hidden).replace("/m'", "/no'") == str(absent)
        grant = pb.GrantMachineRequest(machine="machines/m", grant=pb.Grant(tenant="rival", role=3))
        assert (await status_of(calls["GrantMachine"](grant)))[0] is grpc.StatusCode.NOT_FOUND
        assert await rival.machines() == []
        assert (await calls["GetServer"](pb.GetServerRequest())).machines == 0


async def grant(client: Client, tenant: str, role: "pb.Role.ValueType") -> None:
    request = pb.GrantMachineRequest(machine="machines/m", grant=pb.Grant(tenant=tenant, role=role))
    await raw(client)["GrantMachine"](request)


@pytest.mark.asyncio
async def test_tenants_contend_on_one_machine_as_far_as_they_were_let_in(tmp_path):
    async with guarded(tmp_path) as doors:
        lab, guest = await doors.come("lab"), await doors.come("guest")
        await lab.create_machine(DESCRIPTION, name="m")
        await grant(lab, "guest", pb.ROLE_READER)
        machine = guest.machine("m")
        assert (await machine.info()).process_count == 0
        assert await reason(machine.spawn(uid=1)) == "ROLE_TOO_LOW"
        await grant(lab, "guest", pb.ROLE_USER)
        process = await machine.spawn(uid=1)
        await process.mmap(0, PAGE, RW, ANON)
        assert await reason(machine.spawn(uid=0)) == "ROLE_TOO_LOW"
        assert await reason(machine.delete()) == "ROLE_TOO_LOW"
        await grant(lab, "guest", pb.ROLE_ADMIN)
        await machine.spawn(uid=0)
        async with machine.stream() as stream:
            assert (await stream.execute([SPAWN]))[0].ok
            await raw(lab)["RevokeGrant"](
                pb.RevokeGrantRequest(machine="machines/m", tenant="guest")
            )
            assert await reason(stream.execute([SPAWN])) == "NO_SUCH_MACHINE"
        listed = await raw(lab)["ListGrants"](pb.ListGrantsRequest(machine="machines/m"))
        assert list(listed.grants) == []


PRIVILEGED = (
    {"uid": 0},
    {"uid": 1, "caps": frozenset({"CAP_IPC_LOCK"})},
    {"uid": 1, "rlimits": {"MEMLOCK": (0, 1 << 30)}},
)


@pytest.mark.asyncio
@pytest.mark.parametrize("spec", PRIVILEGED, ids=str)
async def test_privileged_processes_take_an_admin_whichever_way_they_come(tmp_path, spec):
    async with guarded(tmp_path) as doors:
        user, admin = await doors.come("lab", Role.USER), await doors.come("lab")
        machine = await user.create_machine(DESCRIPTION, name="m")
        limits = spec.get("rlimits") or {}
        data = SpawnSpec("s", spec.get("caps", frozenset()), limits).encode()
        operation = Operation(Call.SPAWN, 0, (spec["uid"], 0, 0), data)
        before = (await machine.info()).seq
        assert await reason(machine.spawn(**spec)) == "ROLE_TOO_LOW"
        assert await reason(machine.execute([SPAWN, operation])) == "ROLE_TOO_LOW"
        async with machine.stream() as stream:
            assert await reason(stream.execute([SPAWN, operation])) == "ROLE_TOO_LOW"
        assert (await machine.info()).seq == before, "nothing of it was done"
        assert (await machine.spawn(uid=1, rlimits={"MEMLOCK": (0, 4096)})).born.uid == 1
        await admin.machine("m").spawn(**spec)


@pytest.mark.asyncio
async def test_a_tenant_has_request_ids_and_sessions_of_its_own(tmp_path):
    async with guarded(tmp_path) as doors:
        lab, guest = await doors.come("lab"), await doors.come("guest")
        machine = await lab.create_machine(DESCRIPTION, name="m")
        await grant(lab, "guest", pb.ROLE_ADMIN)
        request = pb.AdvanceClockRequest(machine="machines/m", duration_ns=5, request_id="same")
        first = await raw(lab)["AdvanceClock"](request)
        other = await raw(guest)["AdvanceClock"](request)
        assert other.machine_seq == first.machine_seq + 1
        async with machine.stream(session="s") as mine:
            await mine.execute([SPAWN])
            async with guest.machine("m").stream(session="s") as theirs:
                await theirs.execute([SPAWN])
                assert (await mine.execute([SPAWN]))[0].ok, "it was not taken over"
        made = pb.CreateMachineRequest(request_id="same")
        made.parameters.machine_id = "x"
        made.description.zones.add(node=0, name="Normal", start_pfn=0, spanned=1 << 16)
        await raw(lab)["CreateMachine"](made)
        status = await status_of(raw(guest)["CreateMachine"](made))
        assert status[0] is grpc.StatusCode.ALREADY_EXISTS, "not the first one's answer"


# ---- it lasts ----


@pytest.mark.asyncio
async def test_owners_grants_and_whose_an_answer_is_survive_a_restart(tmp_path):
    request = pb.AdvanceClockRequest(machine="machines/m", duration_ns=5, request_id="same")
    async with guarded(tmp_path) as doors:
        texts = [doors.token(tenant) for tenant in ("lab", "guest")]
        lab, guest = [await doors.client(text) for text in texts]
        machine = await lab.create_machine(DESCRIPTION, name="m")
        await grant(lab, "guest", pb.ROLE_ADMIN)
        answers = [await raw(one)["AdvanceClock"](request) for one in (lab, guest)]
        async with guest.machine("m").stream(session="s") as stream:
            await stream.execute([SPAWN])
            await crash(doors.service, machine)
    for _ in range(2):  # from the journal, then from the snapshot that the first left
        async with guarded(tmp_path) as doors:
            lab, guest = [await doors.client(text) for text in texts]
            assert [await raw(one)["AdvanceClock"](request) for one in (lab, guest)] == answers
            info = (
                await raw(lab)["GetMachine"](pb.GetMachineRequest(machine="machines/m"))
            ).machine
            assert info.owner == "lab"
            assert (await refused((await doors.come("rival")).machine("m").info())).code.name == (
                "NOT_FOUND"
            )
            async with guest.machine("m").stream(session="s") as stream:
                assert stream.last_applied == 1
            async with lab.machine("m").stream(session="s") as stream:
                assert stream.last_applied == 0


async def crash(service: Service, machine: Machine) -> None:
    """Let the server end without a last snapshot: its journal is what there is."""
    hosted = service.registry.machine(machine.name)
    await hosted.lasting()
    service.registry.keeper = None
    assert hosted.journal is not None
    await hosted.journal.close()
    hosted.journal = None


# ---- what he may have ----


async def quota(call: object) -> str:
    """The quota that a refusal names."""
    with pytest.raises(grpc.RpcError) as caught:
        await call  # type: ignore[misc]
    (detail,) = rpc_status.from_call(caught.value).details  # type: ignore[union-attr, arg-type]
    info = error_details_pb2.ErrorInfo()
    detail.Unpack(info)
    assert info.reason == "QUOTA_REACHED"
    assert info.metadata["limit"].isdigit()
    return str(info.metadata["quota"])


FIXED = ANON | 0x100000
ADDRESSES = range(1 << 30, (1 << 30) + 200 * PAGE, 2 * PAGE)
FRAMES = DESCRIPTION.nr_frames


@pytest.mark.asyncio
async def test_machines_count_though_nobody_uses_them(tmp_path):
    config = Tenants({"lab": Quotas(machines=2, frames=FRAMES * 3 // 2)})
    async with guarded(tmp_path, config) as doors:
        lab = await doors.come("lab")
        first = await lab.create_machine(DESCRIPTION)
        assert "frames" in str(await refused(lab.create_machine(DESCRIPTION)))
        assert len(await lab.machines()) == 1
        await first.delete()
        tiny = pb.CreateMachineRequest()
        tiny.description.zones.add(node=0, name="Normal", start_pfn=0, spanned=1 << 12)
        create = raw(lab)["CreateMachine"]
        made = await create(tiny)
        await create(tiny)
        assert await quota(create(tiny)) == "machines"
        await lab.machine(made.machine.name).delete()
        tiny.description.zones[0].spanned = FRAMES * 2
        assert await quota(create(tiny)) == "frames"
        assert len(await (await doors.come("other")).machines()) == 0


@pytest.mark.asyncio
async def test_processes_and_mappings_are_bounded_and_freed_again(tmp_path):
    config = Tenants({"lab": Quotas(processes=4, vmas=60)})
    async with guarded(tmp_path, config) as doors:
        lab = await doors.come("lab")
        machine = await lab.create_machine(DESCRIPTION, name="m")
        processes = [await machine.spawn() for _ in range(4)]
        assert "processes" in str(await refused(machine.spawn()))
        assert "processes" in str(await refused(machine.execute([SPAWN])))
        assert "processes" in str(await refused(processes[0].fork()))
        await processes.pop().exit()
        first = processes[0]
        ended = await asyncio.gather(
            *(first.mmap(address, PAGE, RW, FIXED) for address in ADDRESSES), return_exceptions=True
        )
        made = sum(1 for end in ended if isinstance(end, int))
        assert all("vmas" in str(end) for end in ended if not isinstance(end, int))
        assert 40 < made <= 60
        await processes[1].exit()
        await first.munmap(1 << 30, 1 << 20)
        await first.mmap(0, PAGE, RW, ANON)
        assert (await machine.info()).process_count == 2


@pytest.mark.asyncio
async def test_streams_and_calls_are_bounded(tmp_path):
    config = Tenants({"lab": Quotas(streams=1, calls_per_s=10)})
    async with guarded(tmp_path, config) as doors:
        lab = await doors.come("lab")
        machine = await lab.create_machine(DESCRIPTION, name="m")
        async with machine.stream() as stream:
            await stream.execute([SPAWN])
            assert "streams" in str(await refused(machine.frames()))
        calls = raw(lab)
        ended = await asyncio.gather(
            *(calls["GetServer"](pb.GetServerRequest()) for _ in range(200)),
            return_exceptions=True,
        )
        failed = [end for end in ended if isinstance(end, grpc.RpcError)]
        assert len(failed) > 100
        free = await doors.come("other")
        await asyncio.gather(*(raw(free)["GetServer"](pb.GetServerRequest()) for _ in range(200)))


# ---- files ----


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[tenants.lab]\nmachine = 3", "tenants.lab.machine is none of calls_per_s, frames"),
        ("[tenants.lab]\nmachines = -1", "whole number from 0 on, not -1"),
        ("[tenants.lab]\nmachines = true", "whole number from 0 on, not True"),
        ("[tenants.Lab]\nmachines = 1", "'Lab' is no name of a tenant"),
        ("[tenant.lab]", "'tenant' is none of tenants, others and certificates"),
        ("tenants = 3", "tenants is a table"),
        ("[certificates]", "certificates is a list of tables"),
        ("[[certificates]]\ncommon_name='x'\ntenant='lab'\nrole='root'", "reader, user or admin"),
        ("[[certificates]]\ncommon_name='x'", "has common_name, tenant and role"),
        ("[tenants", "is no TOML"),
    ],
)
def test_a_file_of_tenants_that_cannot_be_meant_is_one_sentence(tmp_path, text, sentence):
    file = tmp_path / "tenants.toml"
    file.write_text(text)
    with pytest.raises(TenantsError, match="tenants") as caught:
        tenants.read(file)
    assert sentence in str(caught.value)


def test_a_file_of_tenants_says_quotas_and_certificates(tmp_path):
    file = tmp_path / "tenants.toml"
    file.write_text(
        "[tenants.lab]\nmachines = 4\ncalls_per_s = 100\n[others]\nmachines = 0\n"
        "[[certificates]]\ncommon_name = 'x'\ntenant = 'lab'\nrole = 'user'\n"
    )
    read = tenants.read(file)
    assert read.of("lab") == Quotas(machines=4, calls_per_s=100)
    assert read.of("else") == Quotas(machines=0)
    assert read.certificates == {"x": ("lab", Role.USER)}


def test_tokens_are_made_listed_and_rotated_and_only_their_hashes_are_kept(tmp_path, capsys):
    file = str(tmp_path / "tokens.json")

    def run(*arguments: str) -> tuple[int, str]:
        status = token_command.main([*arguments, "--tokens", file])
        told = capsys.readouterr()
        return status, told.out + told.err

    status, text = run("create", "--tenant", "lab", "--role", "user", "--expires-in", "30d")
    assert status == 0
    token = text.strip()
    assert token.rpartition("_")[2] not in Path(file).read_text()
    assert Path(file).stat().st_mode & 0o077 == 0
    assert "lab" in run("list")[1]
    assert token not in run("list")[1]
    rotated = run("rotate", token[4:20])[1].strip()
    assert rotated != token
    assert rotated[:21] == token[:21]
    assert run("revoke", token[4:20]) == (0, "")
    assert run("revoke", token[4:20])[0] == 2
    assert "no name of a tenant" in run("create", "--tenant", "A b", "--role", "user")[1]


@pytest.mark.asyncio
async def test_the_audit_log_tells_who_did_what(tmp_path):
    async with guarded(tmp_path, Tenants({"lab": Quotas(machines=1)})) as doors:
        lab = await doors.come("lab")
        await lab.create_machine(DESCRIPTION, name="m")
        await refused(lab.create_machine(DESCRIPTION))
        await grant(lab, "guest", pb.ROLE_USER)
        await refused((await doors.client("x\"'%s")).machines())
        await refused((await doors.come("lab", Role.READER)).create_machine(DESCRIPTION))
        await lab.machine("m").delete()
    rows = [json.loads(line) for line in doors.audit.read_text().splitlines()]
    acts = [row["act"] for row in rows]
    for act in ("token known", "UploadMachine", "quota reached", "GrantMachine", "who is it"):
        assert act in acts
    assert {"role too low", "DeleteMachine"} <= set(acts)
    assert all(row["time"].endswith("+00:00") for row in rows)
    (granted,) = (row for row in rows if row["act"] == "GrantMachine")
    assert (granted["tenant"], granted["grantee"], granted["role"]) == ("lab", "guest", "user")


def test_the_audit_log_goes_on_in_another_file(tmp_path):
    audit = Audit(tmp_path / "audit.log", most_bytes=2000)
    for number in range(100):
        audit.note("act", why="x" * 1000, number=str(number))
    audit.close()
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["audit.log", *(f"audit.log.{number}" for number in range(1, 9))]
    assert all(path.stat().st_size <= 2000 for path in tmp_path.iterdir())


@pytest.mark.asyncio
async def test_privileged_processes_of_a_snapshot_take_an_admin(tmp_path):
    async with guarded(tmp_path) as doors:
        admin, user = await doors.come("lab"), await doors.come("other", Role.USER)
        plain = await (await admin.create_machine(DESCRIPTION, name="plain")).spawn(uid=1000)
        await plain.mmap(0, PAGE, RW, ANON)
        snapshot = await plain.machine.snapshot()
        twin = await user.restore_machine(snapshot, name="twin")
        assert await twin.digest() == await plain.machine.digest()
        for number, privilege in enumerate(
            ({}, {"caps": {"CAP_IPC_LOCK"}}, {"rlimits": {"MEMLOCK": (1 << 40, 1 << 40)}})
        ):
            machine = await admin.create_machine(DESCRIPTION, name=f"m{number}")
            await machine.spawn(**({"uid": 1000} if privilege else {}), **privilege)
            snapshot = await machine.snapshot()
            failure = await refused(user.restore_machine(snapshot, name="raised"))
            assert failure.code is grpc.StatusCode.PERMISSION_DENIED
            assert failure.reason == "ROLE_TOO_LOW"
            await (await admin.restore_machine(snapshot, name="raised")).delete()
            await machine.delete()
        assert [each.name for each in await user.machines()] == ["machines/twin"]


@pytest.mark.asyncio
async def test_processes_of_a_description_are_nobodys_if_a_user_brings_it(tmp_path):
    described = describe(f"file:{CAPTURE}", seed=1)
    async with guarded(tmp_path) as doors:
        for role, uid in ((Role.USER, privileges.NOBODY), (Role.ADMIN, 0)):
            client = await doors.come("lab", role)
            machine = await client.create_machine(described, name=role.name.lower())
            first = await (await machine.processes())[0].info()
            assert first.background
            assert (first.uid, bool(first.caps)) == (uid, role is Role.ADMIN)
            snapshot = await machine.snapshot()
            if role is Role.USER:
                twin = await client.restore_machine(snapshot, name="twin")
                assert await twin.digest() == await machine.digest()


@pytest.mark.asyncio
async def test_what_a_snapshot_holds_counts_before_it_is_a_machine(tmp_path):
    config = Tenants({"lab": Quotas(processes=2), "few": Quotas(frames=1000)})
    async with guarded(tmp_path, config) as doors:
        rich, lab, few = [await doors.come(name) for name in ("rich", "lab", "few")]
        machine = await rich.create_machine(DESCRIPTION, name="many")
        for _ in range(3):
            await machine.spawn()
        snapshot = await machine.snapshot()
        for client, quota in ((lab, "processes"), (few, "frames")):
            failure = await refused(client.restore_machine(snapshot, name="mine"))
            assert failure.reason == "QUOTA_REACHED"
            assert quota in str(failure)
            assert await client.machines() == []
