"""The options of ``contigmm serve`` by which one looks on, and what they set up."""

import argparse
import asyncio
import ipaddress
import logging
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from contigmm.errors import ContigmmError
from contigmm_server.hosted import HostedMachine
from contigmm_server.methods import Wrapper
from contigmm_server.registry import Registry
from contigmm_server.sight import logs
from contigmm_server.sight.calls import CallWatch, Observer
from contigmm_server.sight.refusals import Refusals

if TYPE_CHECKING:  # an extra: imported when an option asks for it
    from contigmm_server.sight.spans import Spans
    from contigmm_server.sight.web import Site

_TEXT: Final = "%(asctime)s %(name)s %(levelname)s %(message)s"


class SightError(ContigmmError):
    """The server cannot be looked at in this way."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    sight = parser.add_argument_group("what can be seen", "See docs/observability.md.")
    sight.add_argument(
        "--metrics", metavar="HOST:PORT", help="show metrics to Prometheus; loopback only"
    )
    sight.add_argument(
        "--dashboard", metavar="HOST:PORT", help="show the machines in a browser; loopback only"
    )
    sight.add_argument(
        "--show-all-tenants",
        action="store_true",
        help="where callers say who they are, show every tenant's machines to whoever is on this "
        "computer all the same",
    )
    sight.add_argument(
        "--otlp-endpoint", metavar="URL", help="send a span of each call there, by OTLP over HTTP"
    )
    sight.add_argument(
        "--log-format", choices=("text", "json"), default="text", help="of standard error"
    )


def loopback(address: str) -> tuple[str, int]:
    """Host and port of an address that only this computer can reach.

    Raises:
        SightError: It is none, or others can reach it.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise SightError(f"{address!r} is not HOST:PORT")
    host = host.strip("[]")
    try:
        inside = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        inside = False
    if not inside:
        raise SightError(
            f"{address} can be reached from outside; metrics and dashboard are shown on "
            "loopback only, without asking who looks"
        )
    return host, int(port)


def _check_apart(args: argparse.Namespace) -> None:
    """Let tenants see each other's machines only if that is meant.

    Raises:
        SightError: It has not been said.
    """
    asked = args.tokens is not None or args.tls_client_ca is not None
    if asked and (args.metrics or args.dashboard) and not args.show_all_tenants:
        raise SightError(
            "metrics and dashboard ask nobody who looks, and callers of this server must say who "
            "they are: --show-all-tenants shows every machine to whoever is on this computer"
        )


@dataclass(slots=True)
class Sight:
    """What was asked for; nothing of it costs anything otherwise."""

    metrics: tuple[str, int] | None = None
    dashboard: tuple[str, int] | None = None
    watch: CallWatch | None = None
    spans: "Spans | None" = None
    refusals: MutableMapping[HostedMachine, Refusals] = field(default_factory=WeakKeyDictionary)
    """By machine, and no longer than it is there."""
    _site: "Site | None" = None

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Sight":
        """Set up what the options ask for, logs included.

        Raises:
            SightError: An address cannot be used, or a package is missing, or tenants that tokens
                or certificates keep apart would be shown to each other.
        """
        _check_apart(args)
        level = logging.INFO if args.verbose else logging.WARNING
        logging.basicConfig(level=level, format=_TEXT)
        sight, observers = cls(), list[Observer]()
        if args.log_format == "json":
            for handler in logging.getLogger().handlers:
                handler.setFormatter(logs.JsonFormatter())
            observers.append(logs.observe)
        if args.metrics:
            sight.metrics = loopback(args.metrics)
        if args.dashboard:
            sight.dashboard = loopback(args.dashboard)
        try:
            if args.otlp_endpoint:
                from contigmm_server.sight.spans import sending_to  # noqa: PLC0415 - an extra

                sight.spans = sending_to(args.otlp_endpoint)
                observers.append(sight.spans.observe)
            if sight._shows:
                from contigmm_server.sight import web  # noqa: F401, PLC0415 - an extra
        except ModuleNotFoundError as missing:
            if (missing.name or "").startswith("contigmm"):
                raise  # a bug, not a package to install
            raise SightError(
                f"this needs {missing.name}: pip install 'contigmm-server[sight]'"
            ) from missing
        if observers or sight.metrics:
            sight.watch = CallWatch(observers)
        return sight

    @property
    def _shows(self) -> bool:
        return self.metrics is not None or self.dashboard is not None

    @property
    def wrappers(self) -> tuple[Wrapper, ...]:
        """What wraps every method."""
        return () if self.watch is None else (self.watch.wrap,)

    def follow(self, registry: Registry) -> None:
        """See every machine of a registry from now on."""
        if self._shows:
            registry.on_enter.append(self._follow)
            for hosted in registry.machines():
                self._follow(hosted)

    def _follow(self, hosted: HostedMachine) -> None:
        seen = self.refusals[hosted] = Refusals()
        hosted.machine.journal = seen.note

    async def start(self, registry: Registry) -> list[str]:
        """Show what is to be shown; give the sentences that say where.

        Raises:
            OSError: An address is taken.
        """
        if not self._shows:
            return []
        from contigmm_server.sight.web import Site  # noqa: PLC0415 - an extra

        self._site = Site(registry, self.watch or CallWatch(), self.refusals)
        said = []
        if self.metrics is not None:
            url = await self._site.show_metrics(*self.metrics)
            said.append(f"metrics at {url}")
        if self.dashboard is not None:
            url = await self._site.show_dashboard(*self.dashboard)
            said.append(f"dashboard at {url}")
        return said

    async def stop(self) -> None:
        """Show nothing any more, and send what has not been sent."""
        if self._site is not None:
            await self._site.close()
        if self.spans is not None:
            loop = asyncio.get_running_loop()
            closing: Callable[[], None] = partial(self.spans.close)
            await loop.run_in_executor(None, closing)
