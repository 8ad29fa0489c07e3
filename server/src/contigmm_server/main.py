"""``contigmm serve`` and ``contigmm-server``: one server process on the command line."""

import argparse
import asyncio
import gc
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Final

import uvloop

from contigmm.description import MachineDescription
from contigmm.errors import ContigmmError
from contigmm.hosts import describe
from contigmm.sim.machine import Machine
from contigmm_server.doors import token_command
from contigmm_server.doors.audit import Audit
from contigmm_server.doors.guard import Guard
from contigmm_server.doors.quotas import Allowances
from contigmm_server.doors.tenants import Tenants
from contigmm_server.doors.tenants import read as read_tenants
from contigmm_server.doors.tls import DoorError, Tls, check_listening
from contigmm_server.durable.journal import Durability
from contigmm_server.durable.keeper import Keeper
from contigmm_server.durable.store import Store
from contigmm_server.service import CannotListenError, Service
from contigmm_server.sight.options import Sight, SightError, add_options

UNUSABLE: Final = 2
"""Exit status: arguments or input that cannot be used."""

PROFILES: Final = ("contig", "rfc2017", "linux")
CLOCKS: Final = ("per_op", "manual")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="contigmm serve",
        description="Serve simulated machines over gRPC. Prints 'listening on ADDRESS' when ready; "
        "SIGTERM or SIGINT ends it gracefully.",
    )
    parser.add_argument(
        "--listen", default="127.0.0.1:50051", help="HOST:PORT, port 0: any, or unix:PATH"
    )
    parser.add_argument(
        "--machine",
        metavar="SOURCE",
        help="boot machines/NAME from host:, file:PATH or spec:NAME before listening",
    )
    parser.add_argument("--name", default="default", help="M of that machine's name machines/M")
    parser.add_argument("--profile", choices=PROFILES, default="contig")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clock", choices=CLOCKS, default="per_op")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="keep machines in DIR; without it they are in memory only and end with the server",
    )
    parser.add_argument(
        "--durability",
        choices=[mode.value for mode in Durability],
        help="when a command is acknowledged: once it lasts, each synced alone (full) or together "
        "with others (group, the default with --data), or at once (none)",
    )
    _add_doors(parser)
    add_options(parser)
    parser.add_argument("--verbose", action="store_true", help="log more, to standard error")
    return parser


def _add_doors(parser: argparse.ArgumentParser) -> None:
    doors = parser.add_argument_group("who may come in", "See docs/security.md.")
    doors.add_argument(
        "--tls-cert", type=Path, metavar="FILE", help="speak TLS with this certificate chain (PEM)"
    )
    doors.add_argument("--tls-key", type=Path, metavar="FILE", help="its key (PEM, not encrypted)")
    doors.add_argument(
        "--tls-client-ca",
        type=Path,
        metavar="FILE",
        help="let only clients in whose certificates these authorities have signed (PEM)",
    )
    doors.add_argument(
        "--tokens", type=Path, metavar="FILE", help="ask for tokens: those of contigmm-server token"
    )
    doors.add_argument(
        "--tenants", type=Path, metavar="FILE", help="quotas and certificates of tenants (TOML)"
    )
    doors.add_argument(
        "--owner",
        default="default",
        metavar="TENANT",
        help="whose --machine is, and those that were kept without an owner",
    )
    doors.add_argument(
        "--audit", type=Path, metavar="FILE", help="write down who was let in or shut out, and why"
    )
    doors.add_argument(
        "--insecure-listen",
        action="store_true",
        help="let other computers in though nobody has to say who he is, or not in secret",
    )


def _tls(args: argparse.Namespace) -> Tls | None:
    """What to speak TLS with, and whether one may listen at all.

    Raises:
        DoorError: One of two options is missing, or the address is open to a network.
    """
    if (args.tls_cert is None) != (args.tls_key is None):
        raise DoorError("--tls-cert and --tls-key are given together")
    if args.tls_client_ca is not None and args.tls_cert is None:
        raise DoorError("--tls-client-ca needs --tls-cert and --tls-key")
    if not args.insecure_listen:
        check_listening(
            args.listen,
            encrypted=args.tls_cert is not None,
            authenticated=args.tls_client_ca is not None or args.tokens is not None,
        )
    if args.tls_cert is None:
        return None
    return Tls(args.tls_cert, args.tls_key, args.tls_client_ca)


def _guard(args: argparse.Namespace, allowances: Allowances, tenants: Tenants) -> Guard | None:
    """What asks every caller who he is; nothing: nobody has to say.

    Raises:
        DoorError: Certificates are mapped that nobody asks for, or there is nobody to audit.
        TokenError: The file of tokens cannot be used.
        OSError: The audit log cannot be written.
    """
    if tenants.certificates and args.tls_client_ca is None:
        raise DoorError(f"{args.tenants} maps certificates: that needs --tls-client-ca")
    if args.tokens is None and not tenants.certificates:
        if args.audit is not None or args.tenants is not None:
            raise DoorError("--audit and --tenants need --tokens, or certificates that are mapped")
        return None
    return Guard(args.tokens, tenants, allowances, Audit(args.audit))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a server until it is told to end, or change tokens; give the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] == "token":
        return token_command.main(arguments[1:])
    args = _parser().parse_args(arguments)
    if args.durability not in (None, "none") and args.data is None:
        sys.stderr.write("contigmm serve: --durability needs --data DIR\n")
        return UNUSABLE
    description = None
    try:
        tls, sight = _tls(args), Sight.of(args)
    except (DoorError, SightError) as error:
        sys.stderr.write(f"contigmm serve: {error}\n")
        return UNUSABLE
    if args.machine:
        try:
            description = describe(args.machine, seed=args.seed)
        except (OSError, ValueError) as error:
            sys.stderr.write(f"contigmm serve: {error}\n")
            return UNUSABLE
    try:
        uvloop.run(_serve(args, description, tls, sight))
    except (CannotListenError, ContigmmError, OSError) as error:
        sys.stderr.write(f"contigmm serve: {error}\n")
        return UNUSABLE
    return 0


async def _serve(
    args: argparse.Namespace, description: MachineDescription | None, tls: Tls | None, sight: Sight
) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, ended.set)
    tenants = read_tenants(args.tenants) if args.tenants else Tenants()
    allowances = Allowances(tenants)
    guard = _guard(args, allowances, tenants)
    service = Service(guard=guard, wrappers=sight.wrappers)
    service.registry.allowances = allowances
    service.registry.owner = "" if guard is None else args.owner
    _spare_the_collector()
    if args.data is not None:
        keeper = Keeper(
            Store(args.data),
            Durability(args.durability or Durability.GROUP),
            service.registry.executor,
        )
        await keeper.recover(service.registry)
        service.registry.keeper = keeper
    if description is not None and not service.registry.has(args.name):
        await service.registry.boot(
            args.name,
            lambda: Machine.boot(
                description, profile=args.profile, seed=args.seed, clock=args.clock
            ),
        )
    service.registry.hold_quotas()
    sight.follow(service.registry)
    async with guard or nullcontext():
        address = await service.start(args.listen, tls)
        _spare_the_collector()
        sys.stdout.write(f"listening on {address}\n")
        for sentence in await sight.start(service.registry):
            sys.stdout.write(f"{sentence}\n")
        sys.stdout.flush()
        await ended.wait()
        await sight.stop()
        await service.stop()


def _spare_the_collector() -> None:
    """Let what is there now never be looked at for garbage, and the rest seldom.

    A server holds many small objects for long (answers, mappings). Cycles are what grpc.aio leaves
    of calls that are turned down; those in hand at one collection wait for ten more, no longer,
    lest a million refusals look like a leak.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 20)


if __name__ == "__main__":
    sys.exit(main())
