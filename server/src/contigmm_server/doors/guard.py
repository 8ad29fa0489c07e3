"""Asks every call on whose behalf it comes, and charges its tenant: a wrapper of ``Methods``.

It is there only when tokens or mapped certificates are configured; else no call pays anything.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any, Final

import grpc

from contigmm_server.doors import tokens
from contigmm_server.doors.audit import Audit
from contigmm_server.doors.caller import CURRENT, Caller, Role
from contigmm_server.doors.needs import NOBODY_ASKED, RECORDED, needs
from contigmm_server.doors.quotas import Allowance, Allowances
from contigmm_server.doors.tenants import Tenants
from contigmm_server.failures import ErrorReason, ServiceError
from contigmm_server.methods import Context, Handler, make_handler

LOOK_S: Final = 0.25
"""How often the file of tokens is looked at."""
_BEARER: Final = "bearer "
_REFUSALS: Final = frozenset(
    {
        ErrorReason.ERROR_REASON_WHO_IS_IT,
        ErrorReason.ERROR_REASON_ROLE_TOO_LOW,
        ErrorReason.ERROR_REASON_QUOTA_REACHED,
    }
)


@dataclass(slots=True)
class Identity:
    """Whoever has one token or one certificate."""

    key: str
    """``token ID`` or ``certificate NAME``: what the audit log calls it."""
    tenant: str
    role: Role
    allowance: Allowance
    expires_s: float = float("inf")
    void: bool = False
    tasks: set["asyncio.Task[Any]"] = field(default_factory=set)
    """Of its streams, which end when it is void."""

    def is_void(self) -> bool:
        """Whether it was revoked or has expired."""
        return self.void or tokens.now_s() >= self.expires_s

    def end(self) -> None:
        """Let its streams end."""
        self.void = True
        for task in tuple(self.tasks):
            task.cancel()


def unknown(message: str) -> ServiceError:
    """Nobody whom this server knows."""
    return ServiceError(
        grpc.StatusCode.UNAUTHENTICATED, ErrorReason.ERROR_REASON_WHO_IS_IT, message
    )


class Guard:
    """Knows tokens and certificates. Used on the event loop only."""

    def __init__(
        self,
        token_file: Path | None,
        tenants: Tenants,
        allowances: Allowances,
        audit: Audit | None = None,
    ) -> None:
        """Read the tokens.

        Raises:
            TokenError: The file cannot be used.
        """
        self._file = token_file
        self._allowances = allowances
        self._audit = audit or Audit()
        self._tokens: dict[str, tuple[tokens.Token, Identity]] = {}
        self._certificates = {
            name: Identity(f"certificate {name}", tenant, role, allowances.of(tenant))
            for name, (tenant, role) in tenants.certificates.items()
        }
        self._stamp = self._stamped()
        self._watching: asyncio.Task[None] | None = None
        if token_file is not None:
            self._take(tokens.read(token_file))

    # ---- tokens ----

    def _stamped(self) -> tuple[int, int, int] | None:
        if self._file is None:
            return None
        try:
            status = os.stat(self._file)
        except OSError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns

    def _take(self, found: dict[str, tokens.Token]) -> None:
        for token_id, (token, identity) in tuple(self._tokens.items()):
            if found.get(token_id) != token:
                del self._tokens[token_id]
                self._audit.note("token void", caller=identity.key, tenant=token.tenant)
                identity.end()
        for token_id, token in found.items():
            if token_id not in self._tokens:
                allowance, role = self._allowances.of(token.tenant), Role[token.role]
                key = f"token {token_id}"
                identity = Identity(key, token.tenant, role, allowance, token.expires_s)
                self._tokens[token_id] = token, identity
                self._audit.note("token known", caller=key, tenant=token.tenant, role=token.role)

    def look(self) -> None:
        """Take what has changed in the file; while it cannot be read no token is good."""
        stamp = self._stamped()
        if stamp != self._stamp and self._file is not None:
            self._stamp = stamp
            try:
                self._take(tokens.read(self._file))
            except tokens.TokenError as error:
                self._audit.note("tokens unreadable", why=str(error))
                self._take({})
        for _, identity in self._tokens.values():
            if identity.tasks and identity.is_void():
                identity.end()

    async def __aenter__(self) -> "Guard":
        self._watching = asyncio.get_running_loop().create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching
        self._audit.close()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()

    # ---- who it is ----

    def identify(self, context: Context) -> Identity:
        """Whoever calls.

        Raises:
            ServiceError: UNAUTHENTICATED.
        """
        for name, value in context.invocation_metadata() or ():
            if name == "authorization":
                return self._bearer(value if isinstance(value, str) else "")
        for common_name in context.auth_context().get("x509_common_name", ()):
            identity = self._certificates.get(common_name.decode(errors="replace"))
            if identity is not None:
                return identity
        raise unknown("this server wants a token: metadata 'authorization: Bearer TOKEN'")

    def _bearer(self, value: str) -> Identity:
        parts = tokens.split(value[len(_BEARER) :]) if value[:7].lower() == _BEARER else None
        found = None if parts is None else self._tokens.get(parts[0])
        if parts is None or found is None or not tokens.same(found[0], parts[1]):
            raise unknown("the token is unknown or was revoked")
        if found[1].is_void():
            raise unknown("the token has expired")
        return found[1]

    def _admit(self, method: str, context: Context) -> Identity:
        """Let a call in: find its caller, and charge for it.

        Raises:
            ServiceError: UNAUTHENTICATED, PERMISSION_DENIED or RESOURCE_EXHAUSTED.
        """
        identity = self.identify(context)
        needed = needs(method)
        if identity.role < needed:
            raise ServiceError(
                grpc.StatusCode.PERMISSION_DENIED,
                ErrorReason.ERROR_REASON_ROLE_TOO_LOW,
                f"{method.rpartition('/')[2]} takes the role {needed.name.lower()}, the caller is "
                f"{identity.role.name.lower()}",
            )
        identity.allowance.call()
        CURRENT.set(Caller(identity.tenant, identity.role, needed))
        return identity

    # ---- the wrapper ----

    def __call__(self, method: str, handler: Any) -> Handler:
        """Guard one method."""
        if method in NOBODY_ASKED:
            return handler  # type: ignore[no-any-return]  # as it came
        if handler.response_streaming:
            return make_handler(handler, self._stream(method, handler))
        if handler.request_streaming:
            return make_handler(handler, self._upload(method, handler.stream_unary))
        return make_handler(handler, self._unary(method, handler.unary_unary))

    def _unary(self, method: str, inner: Any) -> Any:
        record = method in RECORDED

        async def call(request: Any, context: Context) -> Any:
            with self._told(method, context):
                self._admit(method, context)
                soon = inner(request, context)
                response = await soon if hasattr(soon, "__await__") else soon
            if record:
                self._record(method, request, response)
            return response

        return call

    def _upload(self, method: str, inner: Any) -> Any:
        async def call(requests: AsyncIterator[Any], context: Context) -> Any:
            with self._told(method, context):
                identity = self._admit(method, context)
                with self._open(identity):
                    response = await inner(_charged(requests, identity), context)
            self._record(method, None, response)
            return response

        return call

    def _stream(self, method: str, handler: Any) -> Any:
        inner = handler.stream_stream or handler.unary_stream
        several = handler.request_streaming

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            with self._told(method, context):
                identity = self._admit(method, context)
                with self._open(identity):
                    given = _charged(request, identity) if several else request
                    async with aclosing(inner(given, context)) as responses:
                        async for response in responses:
                            yield response

        if not iscoroutinefunction(inner):
            return stream

        async def write(request: Any, context: Context) -> None:
            with self._told(method, context), self._open(self._admit(method, context)):
                await inner(request, context)

        return write

    @contextmanager
    def _open(self, identity: Identity) -> Iterator[None]:
        """Hold a stream's task, so that it ends when its identity does."""
        task = asyncio.current_task()
        assert task is not None, "a servicer runs in a task"
        with identity.allowance.stream():
            identity.tasks.add(task)
            try:
                yield
            except asyncio.CancelledError:
                if identity.void and task.uncancel() == 0:
                    raise unknown("the token was revoked or has expired") from None
                raise
            finally:
                identity.tasks.discard(task)

    # ---- the audit log ----

    @contextmanager
    def _told(self, method: str, context: Context) -> Iterator[None]:
        try:
            yield
        except ServiceError as error:
            if error.reason in _REFUSALS:
                name = ErrorReason.Name(error.reason).removeprefix("ERROR_REASON_").lower()
                tenant = CURRENT.get().tenant
                facts = {"method": method, "peer": context.peer(), "tenant": tenant}
                self._audit.note(name.replace("_", " "), why=error.message, **facts)
            raise

    def _record(self, method: str, request: Any, response: Any) -> None:
        machine = response.machine.name if hasattr(response, "machine") else request.machine
        facts = {"tenant": CURRENT.get().tenant, "machine": machine}
        if hasattr(request, "grant"):
            facts["grantee"] = request.grant.tenant
            facts["role"] = Role(request.grant.role).name.lower()
        elif hasattr(request, "tenant"):
            facts["grantee"] = request.tenant
        self._audit.note(method.rpartition("/")[2], **facts)


async def _charged(requests: AsyncIterator[Any], identity: Identity) -> AsyncIterator[Any]:
    async for request in requests:
        await identity.allowance.message()
        yield request
