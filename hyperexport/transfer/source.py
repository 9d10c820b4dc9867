"""One file out of vSphere over HTTPS, as a plain flow of bytes: no retries, no redirects, no proxies, no decoding.

A host makes an NFC stream as it is read, chunked and without a length, so it can't be resumed, and a stream that was
cut must never look like one that ended. This module knows nothing of leases, disks or files.
"""

import http.client
import logging
import socket
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Final

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util import Url

from hyperexport.base.stop import StopSignal
from hyperexport.errors import PermissionMissing, ServerFault, TransferInterrupted
from hyperexport.model.tls import Trust
from hyperexport.transfer.https import FAILURES, coding_of, connect, cut, fields_of, parse_address, reason_of, shown

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT: Final = 30.0
READ_TIMEOUT: Final = 300.0
"""Seconds without a byte before a stream counts as dead: a host may deflate a slow region for more than a minute."""


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
        except FAILURES as error:
            self._stop.check()
            raise self._interrupted(reason_of(error)) from error
        self.received += count
        if self._largest is not None and self.received > self._largest:
            raise _too_large(self._name, self._largest)
        if count == 0:
            self._stop.check()
            if self.length is not None and self.received != self.length:
                raise self._interrupted(f"the stream ended before the {self.length} bytes that were announced")
        return count

    def close(self) -> None:
        """Cut the connection, from any thread: a read that waits ends at once, with an error."""
        cut(self._sock)

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
    address = parse_address(url)
    name = shown(address)
    connection = HTTPSConnection(
        str(address.host).strip("[]"),
        address.port or 443,
        timeout=connect_timeout,
        ssl_context=trust.ssl_context(),
    )
    try:
        sock = connect(connection, name, stop)
        sock.settimeout(read_timeout)
        with stop.waking(lambda: cut(sock)), _ask(connection, address, headers or {}, name, stop) as response:
            length = response.length
            if largest is not None and length is not None and length > largest:
                raise _too_large(name, largest)
            yield Source(name, response, sock, length=length, largest=largest, stop=stop)
    finally:
        connection.close()


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
    except FAILURES as error:
        stop.check()
        raise TransferInterrupted(f"no answer for {name}: {reason_of(error)}") from error
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
    if coding := coding_of(fields_of(response.headers.items())):
        raise ServerFault(f"the server compressed {name} ({coding}) though it was asked not to")


def _too_large(name: str, largest: int) -> ServerFault:
    return ServerFault(f"the server sends more than {largest} bytes as {name}, more than such a file can have")
