"""Ranges of one file over HTTPS, over connections that are kept: a flat disk in a datastore, by ``/folder``.

RFC 9110, section 14: an answer to a range is 206 with ``Content-Range``. Any other answer is a refusal: a server that
ignores the range would send the whole file. This module knows nothing of datastores or disks.
"""

import http.client
import logging
import re
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from io import BufferedReader
from typing import Final, NamedTuple

from urllib3.connection import HTTPSConnection

from hyperexport.base.stop import StopSignal
from hyperexport.base.units import KIB
from hyperexport.errors import TransferInterrupted, TransportUnavailable
from hyperexport.model.tls import Trust
from hyperexport.transfer.https import FAILURES, coding_of, connect, cut, fields_of, parse_address, reason_of, shown
from hyperexport.transfer.ranges import Range
from hyperexport.transfer.source import CONNECT_TIMEOUT, READ_TIMEOUT

logger = logging.getLogger(__name__)

_RANGE: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")
_UNPROVED: Final = frozenset({401, 403})
_PLAIN: Final = re.compile(rb"HTTP/1\.1 206 [^\r\n]*\r\n((?:[\w-]{1,100}:[^\r\n]{0,1000}\r\n){1,50})\r\n")
"""The head of an answer as nearly every server sends it, up to the first byte of the range."""
_TLS_RECORD: Final = 16 * KIB
"""Bytes of a TLS record at most (RFC 8446, section 5.1): with a smaller buffer each answer takes one read more."""
_UNUSUAL: Final = frozenset({"transfer-encoding", "connection"})


class HttpRanges:
    """A file that is read in ranges, over one connection for each that is on its way; used by one thread, cut by any.

    Args:
        url: An ``https`` address.
        capacity: Bytes that the file has to have.
        trust: What vouches for the server.
        headers: What to send with each request, such as a cookie that may have been renewed; asked each time.
        renew: Makes the server know us again, when it does not.
        stop: Whether the run was asked to stop; what then cuts the source is the caller's.
    """

    def __init__(
        self,
        url: str,
        *,
        capacity: int,
        trust: Trust,
        headers: Callable[[], Mapping[str, str]],
        renew: Callable[[], object],
        stop: StopSignal,
    ) -> None:
        self._address = parse_address(url)
        self.name: Final = shown(self._address)
        self.capacity: Final = capacity
        host = self._address.netloc or ""
        self._request = (f"GET {self._address.request_uri} HTTP/1.1", f"Host: {host}", "Accept-Encoding: identity")
        self._tls = trust.ssl_context()
        self._headers = headers
        self._renew = renew
        self._stop = stop
        self._idle: list[_Connection] = []
        self._asked = deque[tuple[_Connection, Range]]()
        self._is_cut = False
        self._answered = False
        """Whether a range was served before: only then may a refusal pass."""
        self.serves_none = False
        """Whether the server refused in a way that does not concern this file: 5xx, or without ranges."""
        self._renewed = False

    def ask(self, part: Range) -> None:
        """Send a request."""
        self._check_open()
        connection = self._idle.pop() if self._idle else self._connect()
        self._asked.append((connection, part))
        try:
            connection.ask([*self._request, *(f"{name}: {value}" for name, value in self._headers().items())], part)
        except FAILURES as error:
            raise self._broken(part, error) from error

    def answer(self) -> bytes:
        """Take the answer to the oldest request.

        Raises:
            TransportUnavailable: The server does not serve ranges of the file, or not to this user; or it was cut.
            TransferInterrupted: The connection failed, or the server cannot answer now.
            Interrupted: The run was asked to stop.
        """
        self._check_open()
        connection, part = self._asked[0]
        try:
            answer = connection.answer(part.length)
            self._check(answer, part)
            data, lasts = answer.read()
        except FAILURES as error:
            raise self._broken(part, error) from error
        if len(data) != part.length:
            raise TransferInterrupted(
                f"the server sent {len(data)} bytes of {self.name} at byte {part.offset} and announced {part.length}"
            )
        self._asked.popleft()
        if lasts:
            self._idle.append(connection)
        else:
            connection.close()
        self._answered, self._renewed = True, False
        return data

    def reset(self) -> None:
        """Close all connections."""
        for connection in [*self._idle, *(connection for connection, _ in self._asked)]:
            connection.close()
        self._idle.clear()
        self._asked.clear()

    close = reset

    def cut(self) -> None:
        """End the reading for good, from any thread; the connections are closed by the thread that uses them."""
        self._is_cut = True
        for connection in [*self._idle, *(connection for connection, _ in tuple(self._asked))]:
            connection.cut()

    def _connect(self) -> "_Connection":
        host, port = str(self._address.host).strip("[]"), self._address.port or 443
        connection = HTTPSConnection(host, port, timeout=CONNECT_TIMEOUT, ssl_context=self._tls)
        try:
            connect(connection, self.name, self._stop).settimeout(READ_TIMEOUT)
        except BaseException:
            connection.close()
            raise
        return _Connection(connection)

    def _check_open(self) -> None:
        self._stop.check()
        if self._is_cut:
            raise TransportUnavailable(f"the reading of {self.name} was ended")

    def _broken(self, part: Range, error: Exception) -> TransferInterrupted:
        self._check_open()
        return TransferInterrupted(f"reading {self.name} broke off at byte {part.offset}: {reason_of(error)}")

    def _check(self, response: "_Answer", part: Range) -> None:
        found = response.headers.get("content-range", "")
        coding = coding_of(response.headers)
        status = response.status
        wanted = f"bytes {part.offset}-{part.offset + part.length - 1}/{self.capacity}"
        if (status, coding, found) == (206, None, wanted):
            announced = response.headers.get("content-length", str(part.length))
            if announced != str(part.length) and "transfer-encoding" not in response.headers:
                raise TransferInterrupted(f"the server announced {announced} bytes for {part.length} of {self.name}")
            return
        answer = f"the server answered {status} {response.reason}".rstrip() + f" for {self.name}"
        if status in _UNPROVED:
            if not self._renewed:
                self._renewed = True
                logger.info("%s; logging in again", answer)
                self._renew()
                raise TransferInterrupted(answer)
            raise TransportUnavailable(
                answer, fix="Check the privileges Datastore.Browse and Datastore.FileManagement of the user"
            )
        if (status == 429 or status >= 500) and (self._answered or status in {429, 503}):
            raise TransferInterrupted(answer)
        self.serves_none = status == 200 or status >= 500
        if status == 200:
            raise TransportUnavailable(f"the server ignores ranges: it sends all of {self.name}")
        if status == 416:
            raise TransportUnavailable(f"{self.name} has fewer bytes than the disk, which has {self.capacity}")
        if status != 206:
            raise TransportUnavailable(answer)
        if coding:
            raise TransportUnavailable(f"the server compressed {self.name} ({coding}) though it was asked not to")
        self._check_range(found, part)

    def _check_range(self, found: str, part: Range) -> None:
        match = _RANGE.fullmatch(found)
        if match is None:
            raise TransportUnavailable(f"the server sent a part of {self.name} without saying which one")
        first, last, size = (int(number) for number in match.groups())
        if size != self.capacity:
            raise TransportUnavailable(f"{self.name} has {size} bytes, and the disk {self.capacity}")
        asked = part.offset, part.offset + part.length - 1
        if (first, last) != asked:
            raise TransportUnavailable(
                f"the server sent the bytes {first} to {last} of {self.name}, "
                f"and was asked for {asked[0]} to {asked[1]}"
            )


class _Answer(NamedTuple):
    """The head of an answer."""

    status: int
    reason: str
    headers: Mapping[str, str]
    """By their names in lower case."""
    read: Callable[[], tuple[bytes, bool]]
    """Takes the body, and says whether the connection can be used again."""


class _Made:
    """Gives http.client a file that is open already."""

    def __init__(self, file: BufferedReader) -> None:
        self._file = file

    def makefile(self, *_: object) -> BufferedReader:
        return self._file


class _Connection:
    """One connection, with at most one request on its way."""

    def __init__(self, connection: HTTPSConnection) -> None:
        sock = connection.sock
        assert isinstance(sock, socket.socket)
        self._connection = connection
        self._sock: socket.socket = sock
        self._file = BufferedReader(self._sock.makefile("rb", 0), _TLS_RECORD)

    def ask(self, lines: Sequence[str], part: Range) -> None:
        """Send a request.

        Args:
            lines: Its head, but for the range.
            part: What is asked for.
        """
        if not "".join(lines).isprintable():
            raise ValueError("a header that is none")
        wanted = f"Range: bytes={part.offset}-{part.offset + part.length - 1}"
        self._sock.sendall("\r\n".join((*lines, wanted, "", "")).encode("latin-1"))

    def answer(self, length: int) -> _Answer:
        """Wait for the head of the answer.

        http.client's own parser takes longer than all else that is done with 64 KiB, so it only reads unusual heads.
        """
        plain = _PLAIN.match(self._file.peek(1))
        if plain:
            lines = [line.partition(":") for line in plain[1].decode("latin-1").split("\r\n")]
            headers = fields_of((name, value) for name, _, value in lines if name)
            if headers.get("content-length") == str(length) and headers.keys().isdisjoint(_UNUSUAL):
                self._file.read(plain.end())
                return _Answer(206, "", headers, lambda: (self._file.read(length), True))
        response = http.client.HTTPResponse(_Made(self._file), method="GET")  # pyright: ignore[reportArgumentType]
        response.begin()

        def read() -> tuple[bytes, bool]:
            data = response.read(length)
            if response.chunked:
                response.read(1)  # the chunk that ends the body
            lasts = response.isclosed() and not response.will_close
            if lasts:
                # The response has closed the one before.
                self._file = BufferedReader(self._sock.makefile("rb", 0), _TLS_RECORD)
            return data, lasts

        return _Answer(response.status, response.reason, fields_of(response.headers.items()), read)

    def cut(self) -> None:
        """Have whoever waits for it wake with an error; from any thread."""
        cut(self._sock)

    def close(self) -> None:
        """End it."""
        self._file.close()
        self._connection.close()
