"""What every HTTP server that this project starts refuses before an application sees the request.

A browser lets any web page send requests to this machine, and reads the answers aloud to the page where CORS allows it.
So Host and Origin are checked on every request and WebSocket; then the token; then the size of the body. Nothing here
knows what the application does.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from uvicorn.protocols.http.h11_impl import H11Protocol

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK_NAMES: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
LARGEST_BODY: Final = 1 << 20
"""Bytes. A job is about 1 KiB; 1 MiB holds several hundred."""

SECONDS_FOR_HEADERS: Final = 10.0
SECONDS_FOR_BODY: Final = 30.0
MOST_WAITING: Final = 100
"""Connections that have not sent a whole request head; the oldest is closed when one more comes."""


class SameOrigin:
    """Answers only requests that no other web site's page can have sent.

    Args:
        app: What is guarded.
        loopback_only: Whether the server is bound to loopback. Then only loopback names are answered, so that a page
            whose own name was made to lead here (DNS rebinding) is refused.
    """

    def __init__(self, app: Application, *, loopback_only: bool) -> None:
        self._app = app
        self._loopback_only = loopback_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a foreign Host with 400 and a foreign Origin with 403."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if self._loopback_only and _host_name(headers.get("host", "")) not in LOOPBACK_NAMES:
            await refuse(scope, receive, send, 400, "this server answers at its loopback address only")
        elif not self._same_origin(headers, safe=scope.get("method", "GET") in _SAFE):
            await refuse(scope, receive, send, 403, "requests of other web sites are refused")
        else:
            await self._app(scope, receive, send)

    def _same_origin(self, headers: Headers, *, safe: bool) -> bool:
        """Whether no browser says that another site's page is asking.

        Browsers send Origin with every request that a page may read the answer of, and with every unsafe one (Fetch
        standard, "Origin header"). Without it, a safe request is a link that was followed.
        """
        origins = headers.getlist("origin")
        if not origins:
            return safe or headers.get("sec-fetch-site", "none") in {"same-origin", "none"}
        host = headers.get("host", "")
        return all(_is_origin_of(origin, host, any_loopback=self._loopback_only) for origin in origins)


class Token:
    """Asks for a bearer token before anything of the body is read.

    Args:
        app: What is guarded.
        token: The token.
        open_paths: Paths that are answered without it.
    """

    def __init__(self, app: Application, *, token: str, open_paths: frozenset[str]) -> None:
        self._app = app
        self._token = token.encode()
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request without the token with 401."""
        if scope["type"] == "http" and scope["path"] not in self._open_paths and not self._is_right(scope):
            message = "send the server's HYPEREXPORT_API_TOKEN as Authorization: Bearer TOKEN"
            await refuse(scope, receive, send, 401, message, {"WWW-Authenticate": "Bearer"})
        else:
            await self._app(scope, receive, send)

    def _is_right(self, scope: Scope) -> bool:
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and secrets.compare_digest(given.strip().encode(), self._token)


class BoundedBody:
    """Takes bodies of JSON up to a size, within a time.

    Args:
        app: What is guarded.
        largest: Bytes.
        seconds: How long a body may take.
    """

    def __init__(self, app: Application, *, largest: int = LARGEST_BODY, seconds: float = SECONDS_FOR_BODY) -> None:
        self._app = app
        self._largest = largest
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse what is too large with 413, too slow with 408, and what is no JSON with 415."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        declared = headers.get("content-length", "0")
        if not declared.isdecimal() or int(declared) > self._largest:
            await refuse(scope, receive, send, 413, f"a request may have {self._largest} bytes")
            return
        try:
            body = await asyncio.wait_for(self._read(receive), self._seconds)
        except TimeoutError:
            await refuse(scope, receive, send, 408, f"the body did not arrive within {self._seconds:g} seconds")
            return
        if body is None:
            await refuse(scope, receive, send, 413, f"a request may have {self._largest} bytes")
        elif body and not _is_json(headers.get("content-type", "")):
            # A page of another site can send text/plain or a form without asking first; JSON it cannot (CORS).
            await refuse(scope, receive, send, 415, "send the body as application/json")
        else:
            await self._app(scope, _replay(body, receive), send)

    async def _read(self, receive: Receive) -> bytes | None:
        """Read the body; None where it is too large."""
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            part = message.get("body", b"")
            size += len(part)
            if size > self._largest:
                return None
            parts.append(part)
            if message["type"] != "http.request" or not message.get("more_body", False):
                return b"".join(parts)


class BoundedHeaders(H11Protocol):
    """Uvicorn's HTTP/1.1 with an end to connections that never finish their request head.

    Uvicorn 0.54 has a timeout between requests and none within one.
    """

    _waiting: "dict[BoundedHeaders, None]"
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection; of too many that are waiting close the one that has waited longest."""
        super().connection_made(transport)
        self._waiting = self.app_state.setdefault("connections_without_request", {})
        self._waiting[self] = None
        if len(self._waiting) > MOST_WAITING:
            next(iter(self._waiting))._give_up()
        self._deadline = self.loop.call_later(SECONDS_FOR_HEADERS, self._give_up)

    def data_received(self, data: bytes) -> None:
        """Take bytes; once a request head is whole, time is up no more."""
        super().data_received(data)
        if self.cycle:
            self._end_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop tracking a closed connection."""
        self._end_waiting()
        super().connection_lost(exc)

    def _give_up(self) -> None:
        self._end_waiting()
        self.transport.abort()

    def _end_waiting(self) -> None:
        self._waiting.pop(self, None)
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None


async def refuse(  # noqa: PLR0917 - the first three are what ASGI hands over
    scope: Scope, receive: Receive, send: Send, status: int, detail: str, headers: dict[str, str] | None = None
) -> None:
    """Answer a request, or close a WebSocket before it opens."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": detail})
        return
    await JSONResponse({"detail": detail}, status, {"Connection": "close", **(headers or {})})(scope, receive, send)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Hand the application the body that was read, then what really comes."""
    given = False

    async def replayed() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


def _is_json(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "application/json"


def _host_name(host: str) -> str:
    """The name in a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_origin_of(origin: str, host: str, *, any_loopback: bool) -> bool:
    """Whether a page's origin is the server itself; also by another loopback name, as localhost for 127.0.0.1."""
    try:
        page, server = urlsplit(origin), urlsplit(f"//{host}")
        if page.port != server.port or not page.hostname:
            return False
    except ValueError:
        return False
    same_machine = any_loopback and {page.hostname, server.hostname} <= LOOPBACK_NAMES
    return page.hostname == server.hostname or same_machine
