"""Sends one part, or one small object, whole: signed anew for each attempt, guarded, throttled piece by piece.

boto3 signs, urllib3 carries: a PUT to a pre-signed URL from the caller's own buffer costs half of what boto3's own
upload_part does (no payload signature, no copy, no 16 KiB blocks). It knows requests, not files.
"""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from http.client import HTTPException
from typing import Any, Final, Protocol, cast
from urllib.request import getproxies, proxy_bypass
from weakref import WeakSet

from urllib3 import PoolManager, ProxyManager
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import HTTPError
from urllib3.util import Timeout, parse_url

from hyperexport.base.stop import StopSignal
from hyperexport.base.units import KIB
from hyperexport.errors import Interrupted, StoreUnreachable
from hyperexport.store.s3_bucket import S3Bucket
from hyperexport.store.s3_errors import code_in, date_in, refused, retrying, translate
from hyperexport.store.s3_protection import Protection, headers
from hyperexport.store.s3_settings import USER_AGENT

logger = logging.getLogger(__name__)

PIECE: Final = 256 * KIB
"""Bytes that are charged to the throttle and handed to the socket at once."""

_LARGEST_ANSWER: Final = 64 * KIB
_TIMEOUT: Final = Timeout(connect=60, read=300)
"""Seconds. ``connect`` also bounds how long one piece may stall; ``read`` waits while the server stores the part."""


class Throttle(Protocol):
    """The run's budget of bytes, as hyperexport.transfer has it."""

    def take(self, count: int, stop: StopSignal) -> object:
        """Wait until ``count`` bytes may move."""
        ...

    def observe(self, way: str, count: int, seconds: float) -> None:
        """Hear how long the link took for bytes."""
        ...

    def answered(self, way: str, seconds: float) -> None:
        """Hear how long a server took to answer."""
        ...

    def trouble(self) -> None:
        """Hear that an attempt failed."""
        ...


class _Sent:
    """When the last piece of a request went out."""

    at = 0.0


class PartSender:
    """Keeps a connection for each thread that sends; :meth:`close` breaks off whatever is being sent."""

    def __init__(
        self, bucket: S3Bucket, protection: Protection, *, throttle: Throttle | None, stop: StopSignal
    ) -> None:
        self._bucket = bucket
        self._protection = protection
        self._throttle = throttle
        self._stop = stop
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._pool: HTTPConnectionPool | None = None
        self._connections: WeakSet[HTTPConnection] = WeakSet()

    def send(self, operation: str, parameters: Mapping[str, object], data: memoryview, what: str) -> dict[str, str]:
        """Put bytes by a pre-signed ``upload_part`` or ``put_object``; repeated while a failure may pass.

        Returns:
            What completing the upload needs of the part: boto3's ``ETag``, and its checksum where one is announced.

        Raises:
            StoreUnusable, StoreUnreachable, ChecksumMismatch: As hyperexport.store.s3_errors tells them apart.
            Interrupted: The run was stopped, or the upload given up.
        """
        checksum = self._protection.parameters(data)
        etag = retrying(self._stop, what)(self._try, operation, {**parameters, **checksum}, checksum, data, what)
        announced = {name: value for name, value in checksum.items() if self._protection.algorithm}
        return {"ETag": etag, **announced}

    def close(self) -> None:
        """Break off what is being sent and refuse to send more. Never raises."""
        self._closed.set()
        for connection in list(self._connections):
            if connection.sock is not None:
                with contextlib.suppress(OSError):
                    # Not SSLSocket.shutdown: it takes the encryption away under a thread that is sending.
                    socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)
        if self._pool:
            self._pool.close()

    def _try(self, *request: Any) -> str:
        try:
            return self._attempt(*request)
        except StoreUnreachable:
            if self._throttle is not None:
                self._throttle.trouble()
            raise

    def _attempt(
        self, operation: str, parameters: dict[str, object], checksum: dict[str, str], data: memoryview, what: str
    ) -> str:
        self._check()
        url = self._bucket.signed_url(operation, parameters)
        sent = _Sent()
        try:
            with self._stop.waking(self.close):
                response = self._connect(url).urlopen(
                    "PUT",
                    parse_url(url).request_uri,
                    body=cast("Iterator[bytes]", self._pieces(data, sent)),
                    headers={"Content-Length": str(len(data)), "User-Agent": USER_AGENT, **headers(checksum)},
                    retries=False,
                    redirect=False,
                    timeout=_TIMEOUT,
                    preload_content=False,
                )
                if self._throttle is not None:
                    self._throttle.answered("write", time.monotonic() - sent.at)
                with response:
                    answer = response.read(_LARGEST_ANSWER)
                    response.drain_conn()
        except (HTTPError, HTTPException, OSError, UnicodeError) as error:
            self._check()
            # Not "from error": urllib3's own text may quote the signed URL.
            raise translate(error, what) from None
        if response.status != 200:
            code, message = code_in(answer)
            raise refused(code, response.status, message, what, date=date_in(response.headers))
        return response.headers.get("ETag", "")

    def _check(self) -> None:
        self._stop.check()
        if self._closed.is_set():
            raise Interrupted("the upload was aborted")

    def _pieces(self, data: memoryview, sent: "_Sent") -> Iterator[memoryview]:
        for start in range(0, len(data), PIECE):
            self._check()
            piece = data[start : start + PIECE]
            if self._throttle is not None:
                self._throttle.take(len(piece), self._stop)
            sent.at = time.monotonic()
            yield piece
            if self._throttle is not None:
                self._throttle.observe("write", len(piece), time.monotonic() - sent.at)
        sent.at = time.monotonic()

    def _connect(self, url: str) -> HTTPConnectionPool:
        with self._lock:
            if self._pool is None:
                self._pool = _pool(url, self._bucket.trust.ca_file)
                kind = self._pool.ConnectionCls

                def connect(*arguments: Any, **options: Any) -> HTTPConnection:
                    connection = cast("HTTPConnection", kind(*arguments, **options))
                    self._connections.add(connection)
                    return connection

                self._pool.ConnectionCls = connect  # pyright: ignore[reportAttributeAccessIssue] - only ever called
            return self._pool


def _pool(url: str, ca_file: str | None) -> HTTPConnectionPool:
    address = parse_url(url)
    required = "CERT_REQUIRED" if ca_file else "CERT_NONE"
    proxy = None if proxy_bypass(address.host or "") else getproxies().get(address.scheme or "")
    if proxy:
        manager = ProxyManager(proxy, maxsize=8, cert_reqs=required, ca_certs=ca_file)
    else:
        manager = PoolManager(maxsize=8, cert_reqs=required, ca_certs=ca_file)
    return manager.connection_from_url(url)
