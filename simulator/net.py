"""HTTPS serving as the simulated machines do it: a thread a connection, keep-alive, and an end that leaves nothing.

The TLS handshake is made in the connection's own thread, so that a client that is slow or refuses the certificate
holds up no other.
"""

import http.client
import http.server
import logging
import re
import selectors
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Any

logger = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 30.0
_GET = re.compile(rb"GET (/(?!/)[!-~]*) HTTP/1\.1\r\n")
_FIELDS = re.compile(rb"((?:[\w-]{1,100}:[ -~]{0,2000}\r\n){1,50})\r\n")
IDLE_SECONDS = 900.0


class HttpsServer(http.server.HTTPServer):
    """Listens on one address and serves every connection in a thread of its own.

    Args:
        address: The address to listen on.
        port: The port; 0 chooses a free one.
        context: TLS, with this machine's certificate.
        handler: Makes what answers the requests of a connection.
    """

    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, address: str, port: int, context: ssl.SSLContext, handler: Callable[..., "Handler"]) -> None:
        super().__init__((address, port), handler)  # pyright: ignore[reportArgumentType]
        self._context = context
        self._lock = threading.Lock()
        self._open: dict[socket.socket, threading.Thread] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._accept, name=f"listen {self.server_port}", daemon=True)
        self._wake, self._woken = socket.socketpair()
        self.socket.setblocking(False)

    def server_bind(self) -> None:
        """Bind, without asking the resolver for the machine's name as HTTPServer does."""
        super(http.server.HTTPServer, self).server_bind()
        self.server_name, self.server_port = self.server_address[:2]  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def netloc(self) -> str:
        """Where it listens, as ``address:port``."""
        return f"{self.server_name}:{self.server_port}"

    def start(self) -> None:
        """Serve in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Stop listening, close all connections, and wait for their threads."""
        self._wake.close()
        if self._thread.is_alive():
            self._thread.join()
        self._woken.close()
        self.server_close()
        with self._lock:
            self._stopping = True
            open_now = dict(self._open)
        for connection in open_now:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in open_now.values():
            thread.join()

    def _accept(self) -> None:
        # serve_forever() looks several times a second whether it is to end, and stop() would wait for its next look.
        with selectors.DefaultSelector() as selector:
            selector.register(self, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while not any(key.fileobj is self._woken for key, _ in selector.select()):
                with suppress(OSError):  # a client that went away meanwhile
                    self.process_request(*self.get_request())

    def process_request(self, request: Any, client_address: Any) -> None:
        """Hand an accepted connection to a thread."""
        thread = threading.Thread(
            target=self._serve, args=(request, client_address), name=f"serve {client_address}", daemon=True
        )
        with self._lock:
            if self._stopping:
                request.close()
                return
            self._open[request] = thread
        thread.start()

    def _serve(self, plain: socket.socket, client_address: Any) -> None:
        connection: socket.socket = plain
        try:
            plain.settimeout(HANDSHAKE_SECONDS)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = self._context.wrap_socket(plain, server_side=True)
            connection.settimeout(IDLE_SECONDS)
            with self._lock:
                self._open[connection] = self._open.pop(plain)
            if not self._stopping:
                self.finish_request(connection, client_address)
        except (OSError, ValueError) as error:
            # A client that went away, or one that does not trust the certificate: its own affair.
            logger.debug("connection from %s ended: %s", client_address, error)
        finally:
            with self._lock:
                self._open.pop(plain, None)
                self._open.pop(connection, None)
            self._close(connection)
            plain.close()

    @staticmethod
    def _close(connection: socket.socket) -> None:
        with suppress(OSError, ValueError):
            connection.shutdown(socket.SHUT_WR)
        connection.close()


@lru_cache(maxsize=4)
def _date(timestamp: int) -> str:
    return formatdate(timestamp, usegmt=True)


class Handler(http.server.BaseHTTPRequestHandler):
    """What all simulated machines' answers have in common."""

    protocol_version = "HTTP/1.1"
    server_version = "Simulated"
    sys_version = ""

    def parse_request(self) -> bool:
        """Read a request's head.

        Plain requests bypass the standard library's email parser, which takes longer than sending 64 KiB.
        """
        line = _GET.fullmatch(self.raw_requestline)
        fields = _FIELDS.match(self.rfile.peek(1)) if line else None  # pyright: ignore[reportAttributeAccessIssue]
        if line is None or fields is None:
            return super().parse_request()
        headers = http.client.HTTPMessage()
        for field in fields[1].decode("ascii").split("\r\n")[:-1]:
            name, _, value = field.partition(":")
            headers[name] = value.strip()
        if "Connection" in headers:
            return super().parse_request()
        self.rfile.read(fields.end())
        self.command, self.path, self.request_version = "GET", line[1].decode("ascii"), "HTTP/1.1"
        self.requestline, self.headers, self.close_connection = line[0].decode("ascii").rstrip(), headers, False
        return True

    def answer(
        self,
        status: int,
        body: bytes = b"",
        content_type: str = "text/plain; charset=utf-8",
        headers: dict[str, str] | None = None,
    ) -> None:
        """Send a complete HTTP response."""
        self.send_response(status)
        if body:
            self.send_header("Content-Type", content_type)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def begin(self, status: int, headers: Iterable[tuple[str, str]]) -> bytes:
        """The head of an answer whose body follows, to be sent with the body's first bytes: one packet for both."""
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        head, self._headers_buffer = b"".join((*self._headers_buffer, b"\r\n")), []
        return head

    def date_time_string(self, timestamp: float | None = None) -> str:
        """The time for an answer's head; made once a second."""
        return _date(int(time.time() if timestamp is None else timestamp))

    def refuse(self, status: int) -> None:
        """Send an error and its name."""
        self.answer(status, HTTPStatus(status).phrase.encode())

    def read_body(self) -> bytes:
        """Read the request's body, with a length or in chunks."""
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            parts: list[bytes] = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", "0")))

    def reset(self) -> None:
        """Break the connection at once with a TCP reset, as a host does that fails."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        socket.close(self.connection.detach())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Requests are not worth a line each."""
        logger.debug(format, *args)
