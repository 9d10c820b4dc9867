"""One file out of vSphere over HTTPS, as a plain flow of bytes: no retries, no redirects, no proxies, no decoding.

A host makes an NFC stream as it is read, chunked and without a length, so it can't be resumed, and a stream that was
cut must never look like one that ended. This module knows nothing of leases, disks or files.
"""

import http.client
import logging
import socket
import ssl
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from typing import Final

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, LocationParseError
from urllib3.util import Url, parse_url

from hyperexport.base.stop import StopSignal
from hyperexport.errors import (
    CertificateUntrusted,
    HyperExportError,
    PermissionMissing,
    ServerFault,
    ServerUnreachable,
    TransferInterrupted,
)
from hyperexport.model.tls import Trust, clock_is_in_question, refusal_words

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT: Final = 30.0
READ_TIMEOUT: Final = 300.0
"""Seconds without a byte before a stream counts as dead: a host may deflate a slow region for more than a minute."""

_FAILURES: Final = (HTTPError, http.client.HTTPException, OSError, ValueError, AttributeError)
"""What urllib3, http.client and ssl raise when the server, the way to it or the address is at fault: ValueError for a
chunk's length that is no number or a name that IDNA refuses, AttributeError for a connection closed meanwhile."""

_LONGEST: Final = 150  # characters of a name that the server gave, in a message


class Source:
    """The body of one answer. Made by :func:`open_source`; read by one thread, closed by any.

    Attributes:
        length: Bytes that the server announced, or that were expected; None for a stream without a length.
        received: Bytes read so far.
    """

    def __init__(
        self,
        name: str,
        response: http.client.HTTPResponse,
        sock: socket.socket,
        *,
        length: int | None,
        largest: int | None,
        stop: StopSignal,
    ) -> None:
        self.length = length
        self._largest = largest
        self.received = 0
        self._name = name
        self._response = response
        self._sock = sock
        self._stop = stop

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer, or what is left of the stream into it.

        Returns:
            The number of bytes; 0 at the true end and there only.

        Raises:
            TransferInterrupted: The connection broke or stalled, or the stream ended before its end.
            ServerFault: There is more of it than there can be.
            Interrupted: The run was asked to stop.
        """
        self._stop.check()
        try:
            count = self._response.readinto(buffer)
        except _FAILURES as error:
            self._stop.check()
            raise self._interrupted(_reason(error)) from error
        self.received += count
        if self._largest is not None and self.received > self._largest:
            raise _too_large(self._name, self._largest)
        if count == 0:
            self._stop.check()
            if self.length is not None and self.received != self.length:
                raise self._interrupted(f"the stream ended, and {self.length} bytes were announced")
        return count

    def close(self) -> None:
        """Cut the connection, from any thread: a read that waits ends at once, with an error."""
        _cut(self._sock)

    def _interrupted(self, reason: str) -> TransferInterrupted:
        return TransferInterrupted(f"the download of {self._name} broke off after {self.received} bytes: {reason}")


@contextmanager
def open_source(
    url: str,
    *,
    trust: Trust,
    stop: StopSignal,
    headers: Mapping[str, str] | None = None,
    connect_timeout: float = CONNECT_TIMEOUT,
    read_timeout: float = READ_TIMEOUT,
    largest: int | None = None,
) -> Generator[Source]:
    """Ask for a file and hand out its bytes; the connection ends with the block.

    Args:
        url: An ``https`` address. It may hold a ticket, so only its host and file name are ever shown.
        trust: What vouches for the server.
        stop: Cuts the connection when it is raised.
        headers: Sent with the request, such as a cookie.
        connect_timeout: Seconds to connect and shake hands.
        read_timeout: Seconds without a byte before the transfer counts as broken.
        largest: Bytes that such a file has at most, whatever is announced; None where whoever reads knows the end.

    Raises:
        ServerUnreachable: Nobody answers there, or not in TLS.
        CertificateUntrusted: The certificate is not vouched for.
        PermissionMissing: 401 or 403.
        ServerFault: Any other answer that repeating won't mend: 404, a redirect, a compressed body, too large a file.
        TransferInterrupted: 429, 5xx, or the connection broke.
        Interrupted: The run was asked to stop.
    """
    address = _parse(url)
    name = _shown(address)
    connection = HTTPSConnection(
        str(address.host).strip("[]"),
        address.port or 443,
        timeout=connect_timeout,
        ssl_context=trust.ssl_context(),
    )
    try:
        sock = _connect(connection, name, stop)
        sock.settimeout(read_timeout)
        with stop.waking(lambda: _cut(sock)), _ask(connection, address, headers or {}, name, stop) as response:
            length = response.length
            if largest is not None and length is not None and length > largest:
                raise _too_large(name, largest)
            yield Source(name, response, sock, length=length, largest=largest, stop=stop)
    finally:
        connection.close()


def _parse(url: str) -> Url:
    try:
        address = parse_url(url)
    except LocationParseError as error:
        raise ServerFault("the server named a download address that is none") from error
    if address.scheme != "https" or not address.host:
        raise ServerFault(f"the server named a download address on {address.host} that is not https")
    return address


def _shown(address: Url) -> str:
    """The file's name and host: the rest of the path is, for an NFC lease, the ticket that opens it."""
    file = (address.path or "/").rsplit("/", 1)[-1] or "a file"
    return f"{file[:_LONGEST]} from {(address.netloc or '')[:_LONGEST]}"


def _connect(connection: HTTPSConnection, name: str, stop: StopSignal) -> ssl.SSLSocket:
    stop.check()
    try:
        with stop.waking(lambda: _cut(connection.sock)):
            connection.connect()
    except _FAILURES as error:
        stop.check()
        raise _unconnected(error, name) from error
    sock = connection.sock
    assert isinstance(sock, ssl.SSLSocket)
    # A connection cut without TLS's own goodbye must not look like the end of a stream.
    sock.suppress_ragged_eofs = False  # pyright: ignore[reportAttributeAccessIssue] - typeshed leaves it out
    return sock


def _unconnected(error: Exception, name: str) -> HyperExportError:
    if isinstance(error, ssl.SSLCertVerificationError):
        clock = "Set this machine's clock if it is wrong. Otherwise: " if clock_is_in_question(error) else ""
        return CertificateUntrusted(
            f"the certificate of the server is not trusted for {name}: {refusal_words(error)}",
            fix=f"{clock}Name the authority that signed it, or pin its SHA-256 fingerprint",
        )
    return ServerUnreachable(
        f"no connection for {name}: {_reason(error)}",
        fix="Check that this machine resolves and reaches every ESXi host on TCP port 443, not only vCenter",
    )


@contextmanager
def _ask(
    connection: HTTPSConnection, address: Url, headers: Mapping[str, str], name: str, stop: StopSignal
) -> Generator[http.client.HTTPResponse]:
    try:
        connection.putrequest("GET", address.request_uri)  # http.client adds Host and Accept-Encoding: identity
        for header, value in headers.items():
            connection.putheader(header, value)
        connection.endheaders()
        # The plain response of http.client: urllib3's own has no quick way into a caller's buffer for chunked bodies.
        response = super(HTTPConnection, connection).getresponse()
    except _FAILURES as error:
        stop.check()
        raise TransferInterrupted(f"no answer for {name}: {_reason(error)}") from error
    try:
        _check_answer(response, name)
        yield response
    finally:
        response.close()


def _check_answer(response: http.client.HTTPResponse, name: str) -> None:
    status = response.status
    answer = f"the server answered {status} {response.reason}".rstrip() + f" for {name}"
    if status == 429 or status >= 500:
        raise TransferInterrupted(answer)
    if status in (401, 403):
        raise PermissionMissing(answer, fix="Check the privileges VApp.Export and Datastore.Browse of the user")
    if status != 200:
        raise ServerFault(answer)
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise ServerFault(f"the server compressed {name} ({encoding}) though it was asked not to")


def _too_large(name: str, largest: int) -> ServerFault:
    return ServerFault(f"the server sends more than {largest} bytes as {name}, which has not so many on any VM")


def _cut(sock: socket.socket | None) -> None:
    """Shut the TCP connection beneath TLS: SSLSocket.shutdown would drop the TLS state under a reading thread."""
    if sock is not None:
        with suppress(OSError):
            socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _reason(error: Exception) -> str:
    match error:
        case TimeoutError():
            return "no byte came for too long"
        case ssl.SSLEOFError():
            return "the connection was cut"
        case http.client.IncompleteRead():
            return "the stream was cut within a chunk"
        case ConnectionResetError():
            return "the server reset the connection"
        case UnicodeError():
            return "the address cannot be the name of a host"
        case _:
            return str(error)[: 2 * _LONGEST] or type(error).__name__
