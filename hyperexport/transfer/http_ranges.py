"""Ranges of one file over HTTPS, over a connection that is kept: a flat disk in a datastore, by ``/folder``.

RFC 9110, section 14: an answer to a range is 206 with ``Content-Range``. Any other answer is a refusal: a server that
ignores the range would send the whole file. This module knows nothing of datastores or disks.
"""

import http.client
import logging
import re
from collections.abc import Callable, Mapping
from typing import Final

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential
from urllib3.connection import HTTPConnection, HTTPSConnection

from hyperexport.base.retry import is_transient
from hyperexport.base.stop import StopSignal
from hyperexport.errors import TransferInterrupted, TransportUnavailable
from hyperexport.model.tls import Trust
from hyperexport.transfer.https import FAILURES, connect, cut, parse_address, reason_of, shown
from hyperexport.transfer.source import CONNECT_TIMEOUT, READ_TIMEOUT

logger = logging.getLogger(__name__)

_ATTEMPTS: Final = 4
_RANGE: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")
_UNPROVED: Final = frozenset({401, 403})


class HttpRanges:
    """A file that is read in ranges; used by one thread, closed by any.

    Args:
        url: An ``https`` address.
        capacity: Bytes that the file has to have.
        trust: What vouches for the server.
        headers: What to send with each request, such as a cookie that may have been renewed; asked each time.
        renew: Makes the server know us again, when it does not.
        stop: Ends the reading.
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
        self._trust = trust
        self._headers = headers
        self._renew = renew
        self._stop = stop
        self._connection: HTTPSConnection | None = None
        self._answered = False
        """Whether a range was served before: only then may a refusal pass."""
        self._renewed = False

    def read(self, offset: int, length: int) -> bytes:
        """Read exactly these bytes.

        Raises:
            TransportUnavailable: The server does not serve ranges of the file, or not to this user.
            TransferInterrupted, ServerUnreachable, CertificateUntrusted: The connection failed, four times in a row.
            Interrupted: The run was asked to stop.
        """
        for attempt in Retrying(
            retry=retry_if_exception(is_transient),
            stop=lambda state: self._stop.is_set() or stop_after_attempt(_ATTEMPTS)(state),
            wait=wait_random_exponential(multiplier=0.5, max=8),
            sleep=self._pause,
            reraise=True,
        ):
            with attempt:
                return self._read_once(offset, length)
        raise AssertionError("tenacity ends with a result or an exception")

    def _pause(self, seconds: float) -> None:
        self._stop.wait(seconds)

    def close(self) -> None:
        """End the connection, from any thread: a read that waits ends at once, with an error."""
        connection, self._connection = self._connection, None
        if connection is not None:
            cut(connection.sock)
            connection.close()

    def _read_once(self, offset: int, length: int) -> bytes:
        self._stop.check()
        try:
            connection = self._connected()
            with self._stop.waking(lambda: cut(connection.sock)):
                response = self._ask(connection, offset, length)
                self._check(response, offset, length)
                data = response.read(length)
        except FAILURES as error:
            self.close()
            self._stop.check()
            raise TransferInterrupted(f"reading {self.name} broke off at byte {offset}: {reason_of(error)}") from error
        except BaseException:
            self.close()
            raise
        if len(data) != length:
            self.close()
            raise TransferInterrupted(
                f"the server sent {len(data)} bytes of {self.name} at byte {offset} and announced {length}"
            )
        if response.will_close:
            self.close()
        self._answered, self._renewed = True, False
        return data

    def _connected(self) -> HTTPSConnection:
        if self._connection is None:
            host, port = str(self._address.host).strip("[]"), self._address.port or 443
            connection = HTTPSConnection(host, port, timeout=CONNECT_TIMEOUT, ssl_context=self._trust.ssl_context())
            try:
                connect(connection, self.name, self._stop).settimeout(READ_TIMEOUT)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _ask(self, connection: HTTPSConnection, offset: int, length: int) -> http.client.HTTPResponse:
        connection.putrequest("GET", self._address.request_uri)
        for header, value in self._headers().items():
            connection.putheader(header, value)
        connection.putheader("Range", f"bytes={offset}-{offset + length - 1}")
        connection.endheaders()
        return super(HTTPConnection, connection).getresponse()  # the plain response, as for downloads

    def _check(self, response: http.client.HTTPResponse, offset: int, length: int) -> None:
        status = response.status
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
        if status == 200:
            raise TransportUnavailable(f"the server ignores ranges: it sends all of {self.name}")
        if status == 416:
            raise TransportUnavailable(f"{self.name} has fewer bytes than the disk, which has {self.capacity}")
        if status != 206:
            raise TransportUnavailable(answer)
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise TransportUnavailable(f"the server compressed {self.name} though it was asked not to")
        self._check_range(response.headers.get("Content-Range", ""), offset, length)

    def _check_range(self, found: str, offset: int, length: int) -> None:
        match = _RANGE.fullmatch(found)
        if match is None:
            raise TransportUnavailable(f"the server sent a part of {self.name} without saying which one")
        first, last, size = (int(number) for number in match.groups())
        if size != self.capacity:
            raise TransportUnavailable(f"{self.name} has {size} bytes, and the disk {self.capacity}")
        if (first, last) != (offset, offset + length - 1):
            raise TransportUnavailable(
                f"the server sent the bytes {first} to {last} of {self.name}, "
                f"and was asked for {offset} to {offset + length - 1}"
            )
