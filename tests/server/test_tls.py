"""TLS and unix sockets: who gets through, and where a server may listen without."""

from pathlib import Path

import pytest
from asking import refused

from contigmm.client import Door
from contigmm.client.aio import connect
from contigmm.client.door import DoorError as ClientDoorError
from contigmm_server.doors.tls import DoorError, Tls, check_listening, is_local
from contigmm_server.main import main

PEM = Path(__file__).parent / "certificates"
CA = PEM / "ca.pem"
SERVER = Tls(PEM / "server.pem", PEM / "server.key")
MUTUAL = Tls(PEM / "server.pem", PEM / "server.key", CA)


def door(name: str = "", *, ca: Path = CA) -> Door:
    """A client that trusts ``ca``, with a certificate if one is named."""
    if not name:
        return Door.of_files(tls_ca=ca)
    return Door.of_files(tls_ca=ca, tls_cert=PEM / f"{name}.pem", tls_key=PEM / f"{name}.key")


@pytest.mark.asyncio
async def test_tls_lets_in_who_trusts_the_server_and_nobody_who_speaks_plainly(service):
    address = await service.start("127.0.0.1:0", SERVER)
    async with connect(address, door=door()) as client:
        assert await client.machines() == []
    for other in (Door(), door(ca=PEM / "other.pem")):
        async with connect(address, door=other, timeout_s=5) as client:
            assert (await refused(client.machines())).code.name == "UNAVAILABLE"


@pytest.mark.asyncio
async def test_mutual_tls_lets_in_only_who_has_a_certificate_of_the_authority(service):
    address = await service.start("127.0.0.1:0", MUTUAL)
    async with connect(address, door=door("client")) as client:
        assert await client.machines() == []
    for other in (door(), door("other")):
        async with connect(address, door=other, timeout_s=5) as client:
            assert (await refused(client.machines())).code.name == "UNAVAILABLE"


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("unix:/tmp/x", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("example.org:1", False),
        (":1", False),
    ],
)
def test_what_only_this_computer_can_reach(address, local):
    assert is_local(address) is local
    if local:
        check_listening(address, encrypted=False, authenticated=False)
        return
    with pytest.raises(DoorError, match="nobody would have to say who he is"):
        check_listening(address, encrypted=True, authenticated=False)
    with pytest.raises(DoorError, match="in the clear"):
        check_listening(address, encrypted=False, authenticated=True)
    check_listening(address, encrypted=True, authenticated=True)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--listen", "0.0.0.0:0"], "--insecure-listen"),
        (["--tls-cert", str(PEM / "server.pem")], "given together"),
        (["--tls-client-ca", str(CA)], "--tls-client-ca needs"),
        (
            ["--tls-cert", str(PEM / "server.pem"), "--tls-key", str(PEM / "other.key")],
            "that belong together are needed",
        ),
        (["--tls-cert", "/nowhere", "--tls-key", "/nowhere"], "/nowhere cannot be read"),
    ],
)
def test_doors_that_cannot_be_opened_are_one_sentence(arguments, sentence, capsys):
    assert main(["--listen", "127.0.0.1:0", *arguments]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_what_a_client_is_given_is_checked_before_anything_is_sent(tmp_path):
    empty = tmp_path / "token"
    empty.write_text("\n")
    environment = {"CONTIGMM_TLS_CA": str(CA), "CONTIGMM_TOKEN": "t"}
    assert Door.of_environment(environment) == Door(tls_ca=CA.read_bytes(), token="t")
    for files, sentence in (
        ({"token_file": empty}, "holds no token"),
        ({"token_file": tmp_path}, "cannot be read"),
        ({"tls_ca": CA, "tls_cert": CA}, "given together"),
        ({"tls_cert": CA, "tls_key": CA}, "name the authority"),
    ):
        with pytest.raises(ClientDoorError, match=sentence):
            Door.of_files(**files)
