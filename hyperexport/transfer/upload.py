"""One file into vSphere over HTTPS, whole or not at all.

A host takes a file only when it has come whole (its Content-Length is exact). Where it is hashed here, the last piece
is held back until the hash of all of it is known, so that a wrong file never counts; else the caller proves what
arrived. No redirects, no proxies. This module knows nothing of leases, disks or stores.
"""

import http.client
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from typing import Final, NoReturn, Protocol

from urllib3.connection import HTTPConnection

from hyperexport.base.stop import StopSignal
from hyperexport.base.units import KIB
from hyperexport.errors import PermissionMissing, ServerFault, TransferInterrupted, VerificationFailed
from hyperexport.model.tls import Trust
from hyperexport.transfer.bandwidth.throttle import Throttle
from hyperexport.transfer.https import FAILURES, cut, parse_address, reason_of, shake_hands, shown
from hyperexport.transfer.pipeline import PROGRESS_INTERVAL, Received
from hyperexport.transfer.read_ahead import read_ahead
from hyperexport.transfer.send_ahead import SendAheadConnection
from hyperexport.transfer.source import CONNECT_TIMEOUT, READ_TIMEOUT

PIECE: Final = 256 * KIB
"""Bytes that are encrypted at once: where they have just been read, they are in the processor's cache still."""
_SECONDS_FOR_A_REASON: Final = 5.0
_GOOD: Final = frozenset({200, 201})
_ON_CONTENT: Final = frozenset({400, 415, 422, 500})
"""Answers of a host that may be about the bytes that came, such as a disk whose grain does not inflate."""


class Prover(Protocol):
    """Judges a whole file by the digest of its bytes."""

    def __call__(self, digest: str, /) -> None:
        """Raise if it is another file."""
        ...


class Upload:
    """The body of one request. Made by :func:`open_upload`; written by one thread, closed by any.

    Attributes:
        sent: Bytes sent so far.
        refused: Whether the server answered with an error that may be about the bytes.
    """

    def __init__(self, name: str, connection: SendAheadConnection, size: int, stop: StopSignal) -> None:
        self.size = size
        self.sent = 0
        self.refused = False
        self._name = name
        self._connection = connection
        assert connection.sock
        self._sock = connection.sock
        self._stop = stop

    def write(self, data: bytes | memoryview) -> None:
        """Send bytes.

        Raises:
            TransferInterrupted: The connection broke or stalled, or the server answered with an error that may pass.
            PermissionMissing, ServerFault: It answered with another one.
            Interrupted: The run was asked to stop.
        """
        self._stop.check()
        try:
            self._sock.sendall(data)
        except FAILURES as error:
            self._stop.check()
            self._raise_answer()
            raise self._interrupted(reason_of(error)) from error
        self.sent += len(data)

    def finish(self) -> None:
        """Read the server's answer to the whole file; errors as for :meth:`write`."""
        self._stop.check()
        try:
            response = self._response()
        except FAILURES as error:
            self._stop.check()
            raise self._interrupted(reason_of(error)) from error
        self._check(response)

    def close(self) -> None:
        """Cut the connection, from any thread: a write that waits ends at once, with an error."""
        cut(self._sock)

    def _response(self) -> http.client.HTTPResponse:
        # The plain response of http.client, as for downloads.
        return super(HTTPConnection, self._connection).getresponse()

    def _raise_answer(self) -> None:
        """The host may have said why it closed the connection before it did."""
        with suppress(*FAILURES):
            self._sock.settimeout(_SECONDS_FOR_A_REASON)
            self._check(self._response())

    def _check(self, response: http.client.HTTPResponse) -> None:
        with suppress(*FAILURES):
            response.read(64 * KIB)
        status = response.status
        if status in _GOOD:
            return
        self.refused = status in _ON_CONTENT
        answer = f"the server answered {status} {response.reason}".rstrip() + f" to the upload of {self._name}"
        if status == 429 or status >= 500:
            raise TransferInterrupted(answer)
        if status in {401, 403}:
            raise PermissionMissing(answer, fix="Check the privilege VApp.Import of the user")
        raise ServerFault(answer)

    def _interrupted(self, reason: str) -> TransferInterrupted:
        return TransferInterrupted(f"the upload of {self._name} broke off after {self.sent} bytes: {reason}")


@contextmanager
def open_upload(
    url: str,
    *,
    verb: str,
    size: int,
    headers: Mapping[str, str],
    trust: Trust,
    stop: StopSignal,
    connect_timeout: float = CONNECT_TIMEOUT,
    write_timeout: float = READ_TIMEOUT,
) -> Generator[Upload]:
    """Begin a request that sends a file; the connection ends with the block.

    Args:
        url: An ``https`` address. It may hold a ticket, so only its host and file name are ever shown.
        verb: ``POST`` or ``PUT``.
        size: Bytes of the file, exactly.
        headers: Sent with the request.
        trust: What vouches for the server.
        stop: Cuts the connection when it is raised.
        connect_timeout: Seconds to connect and shake hands.
        write_timeout: Seconds in which the server takes no byte before the transfer counts as broken.

    Raises:
        ServerUnreachable, CertificateUntrusted, TransferInterrupted, Interrupted: As they say.
    """
    address = parse_address(url)
    name = shown(address)
    host, port = str(address.host).strip("[]"), address.port or 443
    connection = SendAheadConnection(host, port, timeout=connect_timeout, context=trust.ssl_context())
    try:
        shake_hands(connection, name, stop)
        sock = connection.sock  # http.client forgets it before it has read an answer that is the last
        assert sock
        sock.settimeout(write_timeout)
        with stop.waking(lambda: cut(sock)):
            try:
                connection.putrequest(verb, address.request_uri)
                for header, value in {**headers, "Content-Length": str(size)}.items():
                    connection.putheader(header, value)
                connection.endheaders()
            except FAILURES as error:
                stop.check()
                raise TransferInterrupted(f"no connection for {name}: {reason_of(error)}") from error
            yield Upload(name, connection, size, stop)
    finally:
        connection.end()


def send(
    chunks: Iterable[bytes],
    upload: Upload,
    *,
    prove: Prover,
    throttle: Throttle,
    stop: StopSignal,
    digests: tuple[str, ...] = (),
    on_progress: Callable[[int], None] | None = None,
) -> Received:
    """Send a whole file; its last piece only after ``prove`` has accepted the SHA-256 of all of it.

    Args:
        chunks: The file's bytes, in order; read and hashed in threads of their own.
        upload: Where they go.
        prove: Raises if the SHA-256 is not the file's.
        throttle: Charged once for each byte.
        stop: Obeyed between any two pieces.
        digests: Further algorithms that hashlib knows.
        on_progress: Told how many bytes were sent, a few times a second and at the end.

    Raises:
        VerificationFailed: There are more or fewer bytes than were announced, or another error of ``prove``.
        TransferInterrupted, ServerFault, PermissionMissing, Interrupted: As for :meth:`Upload.write`.
    """
    sending = _Sending(upload, throttle, stop, on_progress)
    held = b""
    with read_ahead(chunks, digests=("sha256", *digests), stop=stop) as ahead:
        for chunk in ahead:
            sending.take(len(chunk))
            sending.write(held)
            held = chunk
        sending.require_all()
        found = ahead.digests()
    prove(found["sha256"])
    sending.write(held)
    return sending.finish(found)


def send_unhashed(
    chunks: Iterable[bytes],
    upload: Upload,
    *,
    throttle: Throttle,
    stop: StopSignal,
    ahead: bool,
    on_progress: Callable[[int], None] | None = None,
) -> Received:
    """Send a whole file of which the caller proves what has arrived; else as :func:`send`.

    Args:
        chunks: The file's bytes, in order.
        upload: Where they go.
        throttle: Charged once for each byte.
        stop: Obeyed between any two pieces.
        ahead: Read in a thread of its own. That pays where reading takes a network; of a local file the system itself
            reads ahead, and to hand its bytes over costs as much as reading them.
        on_progress: Told how many bytes were sent, a few times a second and at the end.
    """
    sending = _Sending(upload, throttle, stop, on_progress)
    with read_ahead(chunks, digests=(), stop=stop) if ahead else _closing(chunks) as pieces:
        for chunk in pieces:
            sending.take(len(chunk))
            sending.write(chunk)
        sending.require_all()
    return sending.finish({})


@contextmanager
def _closing(chunks: Iterable[bytes]) -> Generator[Iterable[bytes]]:
    """Close a generator, and with it the file that it reads, with the block."""
    try:
        yield chunks
    finally:
        if isinstance(chunks, Generator):
            chunks.close()


class _Sending:
    """One file on its way: counted, throttled, reported."""

    def __init__(
        self, upload: Upload, throttle: Throttle, stop: StopSignal, on_progress: Callable[[int], None] | None
    ) -> None:
        self._upload = upload
        self._throttle = throttle
        self._stop = stop
        self._on_progress = on_progress
        self._taken = 0
        self._report_at = 0.0

    def take(self, count: int) -> None:
        """Count bytes that are read, before any of them is sent."""
        self._stop.check()
        self._taken += count
        if self._taken > self._upload.size:
            self._raise_size()

    def write(self, data: bytes) -> None:
        """Send bytes, piece by piece."""
        for begin in range(0, len(data), PIECE):
            piece = memoryview(data)[begin : begin + PIECE]
            self._throttle.take(len(piece), self._stop)
            asked = time.monotonic()
            self._upload.write(piece)
            now = time.monotonic()
            self._throttle.observe("write", len(piece), now - asked)
            if self._on_progress is not None and now >= self._report_at:
                self._on_progress(self._upload.sent)
                self._report_at = now + PROGRESS_INTERVAL

    def require_all(self) -> None:
        """Raise unless as many bytes were read as were announced."""
        if self._taken != self._upload.size:
            self._raise_size()

    def finish(self, digests: dict[str, str]) -> Received:
        """Read the server's answer to the whole file."""
        self._upload.finish()
        if self._on_progress is not None:
            self._on_progress(self._upload.sent)
        return Received(self._taken, digests)

    def _raise_size(self) -> NoReturn:
        raise VerificationFailed(f"the stored file does not have the {self._upload.size} bytes in the manifest")
