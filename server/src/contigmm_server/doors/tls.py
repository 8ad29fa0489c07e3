"""TLS: the server's certificate, whose clients are let in, and where one may listen without."""

import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from contigmm.errors import ContigmmError


class DoorError(ContigmmError):
    """The server must not, or cannot, be opened this way; the message says why."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Files in PEM."""

    certificate: Path
    key: Path
    client_ca: Path | None = None
    """Present: only clients with a certificate of this authority come in."""

    def credentials(self) -> grpc.ServerCredentials:
        """What a server listens with.

        Raises:
            DoorError: A file cannot be read, or key and certificate do not belong together.
        """
        chain, key = _read(self.certificate), _read(self.key)
        roots = None if self.client_ca is None else _read(self.client_ca)
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate, self.key, password="")
            if roots is not None:
                context.load_verify_locations(cadata=roots.decode("ascii"))
        except (ssl.SSLError, ValueError) as error:
            files = " ".join(map(str, (self.certificate, self.key, self.client_ca or "")))
            raise DoorError(
                f"TLS cannot be served with {files.strip()}: certificates and an unencrypted key "
                f"in PEM that belong together are needed ({error})"
            ) from error
        return grpc.ssl_server_credentials([(key, chain)], roots, roots is not None)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DoorError(f"{path} cannot be read: {error.strerror}") from error


def is_local(address: str) -> bool:
    """Whether only this computer can reach ``address``: a unix socket or loopback."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_listening(address: str, *, encrypted: bool, authenticated: bool) -> None:
    """Refuse to be open to a network without saying so.

    Raises:
        DoorError: Others could reach the server, and it would not know who they are, or would read
            their tokens in the clear.
    """
    if is_local(address):
        return
    if not authenticated:
        raise DoorError(
            f"{address} can be reached from other computers and nobody would have to say who he "
            "is: give --tokens or --tls-client-ca, or --insecure-listen if that is meant"
        )
    if not encrypted:
        raise DoorError(
            f"{address} can be reached from other computers and tokens would travel in the clear: "
            "give --tls-cert and --tls-key, or --insecure-listen if that is meant"
        )
