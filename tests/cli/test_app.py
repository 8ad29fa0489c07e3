"""The command line starts quickly with the library alone, and fails in one sentence."""

import subprocess
import sys
import textwrap

import pytest

from contigmm.cli import main
from contigmm.cli.failures import CommandError, describe, needing
from contigmm.errors import ContigmmError
from contigmm.load.own_server import NoServerError
from contigmm.load.sizes import LoadInputError

HEAVY = ("grpc", "google", "matplotlib", "hdrh", "contigmm_server", "contigmm._core")


def run(code):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )


def test_help_loads_nothing_that_is_an_extra():
    done = run(f"""
        import sys
        from contigmm.cli import main
        status = main(["--help"])
        heavy = [name for name in {HEAVY} if name in sys.modules]
        sys.exit(status if not heavy else " ".join(heavy))
    """)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: contigmm" in done.stdout
    assert "load" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(["dance"], "No such command", id="an unknown command"),
        pytest.param(["load", "--processes", "many"], "--processes", id="no number"),
        pytest.param(["load", "--processes", "0"], "--processes", id="out of range"),
        pytest.param(["load", "--sizes", "64Q:1"], "'64Q' is no size", id="no size"),
        pytest.param(["load", "--hold", "fast"], "'fast' is no number", id="no hold"),
        pytest.param(["load", "--machine", "spec:tiny"], "tiny", id="no such machine"),
        pytest.param(["load", "--machine", "file:/no/such"], "/no/such", id="no such file"),
    ],
)
def test_unusable_arguments_are_one_sentence_and_status_2(capfd, arguments, sentence):
    assert main(arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert sentence in err
    assert err.startswith("contigmm: ")
    assert err.count("\n") == 1


def test_debug_adds_the_traceback_wherever_it_stands(capfd):
    for arguments in (
        ["--debug", "load", "--hold", "fast"],
        ["load", "--hold", "fast", "--debug"],
    ):
        assert main(arguments) == 2
        err = capfd.readouterr().err
        assert "Traceback" in err
        assert err.splitlines()[-1].startswith("contigmm: ")


def test_a_refused_connection_is_one_sentence_and_status_1(capfd):
    arguments = ["load", "--target", "127.0.0.1:1", "--machine", "spec:small", "--duration", "1"]
    assert main(arguments) == 1
    err = capfd.readouterr().err.splitlines()
    assert err[-1].startswith("contigmm: UNAVAILABLE")
    assert not any("Traceback" in line for line in err)


def test_without_an_extra_the_user_is_told_which():
    done = run("""
        import sys
        sys.modules["hdrh"] = sys.modules["hdrh.histogram"] = None
        from contigmm.cli import main
        sys.exit(main(["load"]))
    """)
    assert done.returncode == 1
    assert done.stderr.endswith("is not installed: pip install 'contigmm[load]'\n")


def test_without_a_server_the_user_is_told_what_to_install():
    done = run("""
        import sys
        import importlib.metadata as metadata
        metadata.entry_points = lambda **_: ()
        from contigmm.cli import main
        sys.exit(main(["serve"]))
    """)
    assert done.returncode == 1
    assert "pip install contigmm-server" in done.stderr


def test_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("contigmm ")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (LoadInputError("a sentence"), 2),
        (NoServerError("a sentence"), 1),
        (ContigmmError("a\nsentence"), 1),
        (CommandError("a sentence", status=2), 2),
        (FileNotFoundError(2, "a sentence", "x"), 2),
        (PermissionError(13, "a sentence", "x"), 1),
        (BrokenPipeError(), 1),
    ],
)
def test_each_kind_of_error_has_its_status_and_one_line(error, status):
    failure = describe(error)
    assert failure.status == status
    assert "\n" not in failure.sentence


def test_a_bug_keeps_its_traceback():
    assert describe(ValueError("a bug")) is None
    assert describe(ImportError("a bug", name="contigmm.nothing")) is None


def test_a_missing_module_of_our_own_is_no_missing_extra():
    with pytest.raises(ModuleNotFoundError), needing("grpc"):
        raise ModuleNotFoundError("gone", name="contigmm.gone")
