"""``contigmm serve`` and ``contigmm-server``: one server process on the command line."""

import argparse
import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Sequence
from typing import Final

from contigmm.description import MachineDescription
from contigmm.hosts import describe
from contigmm.sim.machine import Machine
from contigmm_server.service import CannotListenError, Service

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
    parser.add_argument("--verbose", action="store_true", help="log more, to standard error")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a server until it is told to end; give its exit status."""
    args = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO if args.verbose else logging.WARNING,
        format="%(asctime)s %(name)s %(levelname)s %(message)s",
    )
    description = None
    if args.machine:
        try:
            description = describe(args.machine, seed=args.seed)
        except (OSError, ValueError) as error:
            sys.stderr.write(f"contigmm serve: {error}\n")
            return UNUSABLE
    try:
        asyncio.run(_serve(args, description))
    except CannotListenError as error:
        sys.stderr.write(f"contigmm serve: {error}\n")
        return UNUSABLE
    return 0


async def _serve(args: argparse.Namespace, description: MachineDescription | None) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, ended.set)
    service = Service()
    if description is not None:
        await service.registry.boot(
            args.name,
            lambda: Machine.boot(
                description, profile=args.profile, seed=args.seed, clock=args.clock
            ),
        )
    address = await service.start(args.listen)
    _spare_the_collector()
    sys.stdout.write(f"listening on {address}\n")
    sys.stdout.flush()
    await ended.wait()
    await service.stop()


def _spare_the_collector() -> None:
    """Let what is there now never be looked at for garbage, and the rest seldom.

    A server holds many small objects for long (answers, mappings) and makes cycles hardly ever.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


if __name__ == "__main__":
    sys.exit(main())
