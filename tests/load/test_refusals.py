"""A refused request is exported with the machine before it, and is refused the same way again."""

import hashlib
import json
import subprocess
import sys

import pytest
from test_run import run

from contigmm.abi import EAGAIN, ENOMEM, MAP_ANONYMOUS, MAP_CONTIG, MAP_PRIVATE, PROT_READ
from contigmm.hosts import describe
from contigmm.load.export import Export
from contigmm.load.process import LoadError
from contigmm.sim.machine import Machine
from contigmm.sim.operation import Answer, Call, Operation
from contigmm.sim.refusal import RefusalFileError, RefusedOperation

FLAGS = MAP_PRIVATE | MAP_ANONYMOUS | MAP_CONTIG
MIB = 1 << 20


def mapping(process, length):
    return Operation(Call.MMAP, process, (0, length, PROT_READ, FLAGS, -1, 0))


def reproduce(path, *options):
    done = subprocess.run(
        [sys.executable, "-m", "contigmm.cli", "reproduce", str(path), *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture(scope="module")
def before_and_logged():
    """A machine and what three processes did to it until memory and a limit refused."""
    machine = Machine.boot(describe("spec:small"), seed=5)
    snapshot, logged = machine.snapshot(), []

    def execute(operation):
        answer = machine.run(operation)
        logged.append((operation, answer))
        return answer

    spec = b'{"caps":[],"name":"p","rlimits":{"MEMLOCK":[%d,%d]}}'
    many, few = (
        execute(Operation(Call.SPAWN, args=(1000, 0, 0), data=spec % (limit, limit))).value
        for limit in (1 << 40, 1 << 16)
    )
    assert execute(mapping(few, 2 * MIB)).errno == EAGAIN
    held = []
    while (answer := execute(mapping(many, 4 * MIB))).ok:
        held.append(answer.value)
    execute(Operation(Call.MUNMAP, many, (held[0], 4 * MIB)))
    assert execute(mapping(many, 4 * MIB)).ok
    assert execute(mapping(many, 4 * MIB)).errno == ENOMEM
    return snapshot, logged


def test_the_machine_in_a_file_is_the_one_before_the_refused_operation(before_and_logged, tmp_path):
    snapshot, logged = before_and_logged
    exported = Export(tmp_path, 8, 1 << 30).write(snapshot, logged[::-1], "spec:small")
    assert len(exported.paths) == 2  # one a size and Reason, the first of each
    for path in exported.paths:
        refused = RefusedOperation.from_bytes(path.read_bytes())
        machine = refused.machine()
        assert machine.seq == refused.answer.seq - 1
        assert machine.run(refused.operation) == refused.answer
        assert refused.seed == 5
    twin = Machine.restore(snapshot)
    twin.execute([operation for operation, _ in logged[: refused.answer.seq - 1]])
    assert twin.digest() == refused.machine().digest()


def test_files_are_bounded_in_number_and_in_bytes(before_and_logged, tmp_path):
    snapshot, logged = before_and_logged
    assert len(Export(tmp_path, 1, 1 << 30).write(snapshot, logged, "").paths) == 1
    none = Export(tmp_path, 8, 1000).write(snapshot, logged, "")
    assert none.paths == ()
    assert "2 refusals are not exported" in none.sentences()[0]


def test_after_a_command_of_somebody_else_nothing_is_exported(before_and_logged, tmp_path):
    snapshot, logged = before_and_logged
    exported = Export(tmp_path, 8, 1 << 30).write(snapshot, logged[:2] + logged[3:], "")
    assert exported.paths == ()
    assert "Others changed the machine after its command 2" in exported.sentences()[0]


def test_a_server_that_answers_otherwise_is_found_out(before_and_logged, tmp_path):
    snapshot, logged = before_and_logged
    operation, answer = logged[4]
    wrong = [*logged[:4], (operation, Answer(answer.seq, answer.value + 4096)), *logged[5:]]
    with pytest.raises(LoadError, match="command 5 of the machine, MMAP, was answered otherwise"):
        Export(tmp_path, 8, 1 << 30).write(snapshot, wrong, "")


@pytest.fixture(scope="module")
def exported(before_and_logged, tmp_path_factory):
    snapshot, logged = before_and_logged
    folder = tmp_path_factory.mktemp("refusals")
    limit, memory = Export(folder, 8, 1 << 30).write(snapshot, logged, "spec:small").paths
    return limit, memory


def test_a_limit_and_a_lack_of_memory_are_each_explained_by_their_numbers(exported):
    limit, memory = (reproduce(path) for path in exported)
    assert (limit.returncode, memory.returncode) == (0, 0)
    assert "EAGAIN, memlock_limit, the same" in limit.stdout
    assert "0 pages locked, asks for 512 and may lock 16" in limit.stdout
    assert "zone " not in limit.stdout
    assert "ENOMEM" in memory.stdout
    assert "blocks of order 10" in memory.stdout
    result = json.loads(reproduce(exported[1], "--json").stdout)
    assert result["schema"] == "reproduce/1"
    assert result["same"] is True
    assert result["then"] == result["now"]


def rewritten(path, out, change):
    """The same file with other facts and a checksum that is right."""
    line, _, rest = path.read_bytes().partition(b"\n")
    snapshot = rest.partition(b"\n")[2]
    facts = json.loads(line)
    change(facts)
    line = json.dumps(facts).encode() + b"\n"
    total = hashlib.sha256(line + snapshot).hexdigest().encode() + b"\n"
    out.write_bytes(line + total + snapshot)
    return out


def test_another_answer_is_told_by_status_1(exported, tmp_path):
    path = rewritten(
        exported[1], tmp_path / "other", lambda facts: facts["answer"].update(reason="overcommit")
    )
    done = reproduce(path)
    assert done.returncode == 1
    assert "which differs" in done.stdout


def test_a_tampered_file_is_refused(exported, tmp_path):
    data = bytearray(exported[1].read_bytes())
    for name, at in (("snapshot", -5), ("facts", data.index(b'"errno"') + 9)):
        changed = bytearray(data)
        changed[at] ^= 1
        path = tmp_path / name
        path.write_bytes(changed)
        done = reproduce(path)
        assert done.returncode == 2
        assert done.stderr.startswith(f"contigmm: {path}: ")
        assert done.stderr.count("\n") == 1
    assert "changed or cut off" in reproduce(tmp_path / "snapshot").stderr


def test_a_file_of_another_engine_is_refused_by_its_name(exported, tmp_path):
    path = rewritten(
        exported[1], tmp_path / "old", lambda facts: facts.update(engine="contigmm 9.9.9")
    )
    done = reproduce(path)
    assert done.returncode == 2
    assert "contigmm 9.9.9 wrote it" in done.stderr


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"{}", b"[]\n", b"{}\nx\ny", b"\xff" * 100, b"[" * 9999]
)
def test_what_is_no_export_is_refused(data):
    with pytest.raises(RefusalFileError, match="no refused operation"):
        RefusedOperation.from_bytes(data)


def test_a_refusal_over_a_real_server_is_seen_again_by_one_command(tmp_path):
    folder = tmp_path / "refusals"
    done = run(
        *("--machine", "spec:medium", "--age", "0.5", "--duration", "1", "--reclaim"),
        *("--sizes", "256K:1,4M:1", "--pressure", "30", "--memlock", "64M"),
        *("--export-refusals", str(folder), "--export-limit", "4"),
    )
    assert done.returncode == 0, done.stderr
    paths = sorted(folder.iterdir())
    assert 1 <= len(paths) <= 4
    told = []
    for path in paths:
        assert f"contigmm reproduce {path}\n" in done.stdout
        again = reproduce(path)
        assert again.returncode == 0, again.stdout
        assert "the same" in again.stdout
        told.append(again.stdout)
    assert any("to make room, the request compacted" in text for text in told)
