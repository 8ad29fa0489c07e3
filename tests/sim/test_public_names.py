"""The public door: every name leads somewhere, and importing it costs next to nothing."""

import subprocess
import sys

import pytest

import contigmm


@pytest.mark.parametrize("name", [*contigmm.__all__, "__version__"])
def test_every_public_name_is_there(name):
    assert getattr(contigmm, name) is not None
    assert name in dir(contigmm)


def test_other_names_are_not():
    with pytest.raises(AttributeError, match="no attribute 'Engine'"):
        _ = contigmm.Engine


def test_the_flag_is_the_rfcs():
    assert contigmm.MAP_CONTIG == 0x80000


def test_importing_the_package_imports_no_room():
    code = "import contigmm, sys; print(sorted(m for m in sys.modules if 'contigmm.' in m))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_machine_opens_by_the_name_of_its_source():
    with_seed = [contigmm.open_machine("spec:small", seed=seed) for seed in (1, 1, 2)]
    digests = [machine.digest() for machine in with_seed]
    assert digests[0] == digests[1] != digests[2]
