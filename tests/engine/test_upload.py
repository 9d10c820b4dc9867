"""One file sent to a host: proved before its last byte, and never taken for sent because a connection ended."""

import hashlib
import threading
from collections.abc import Iterable, Iterator

import pytest

from hyperexport.base.stop import StopSignal
from hyperexport.errors import (
    CertificateUntrusted,
    HyperExportError,
    Interrupted,
    PermissionMissing,
    ServerFault,
    StoreUnusable,
    TransferInterrupted,
    VerificationFailed,
)
from hyperexport.model.tls import Trust
from hyperexport.transfer.bandwidth.throttle import Throttle
from hyperexport.transfer.pipeline import Received
from hyperexport.transfer.upload import open_upload, send, send_unhashed
from tests.engine.support import Exchange, Script, certificate, tls_server

DATA = bytes(range(256)) * 400
DIGEST = hashlib.sha256(DATA).hexdigest()


def proved(digest: str) -> None:
    if digest != DIGEST:
        raise VerificationFailed("another file")


def upload(
    url: str,
    chunks: Iterable[bytes],
    *,
    size: int = len(DATA),
    stop: StopSignal | None = None,
    sha1: bool = False,
    thumbprint: str = "",
) -> Received:
    stop = stop or StopSignal()
    trust = Trust(thumbprint=thumbprint or certificate().sha256)
    digests = ("sha1",) if sha1 else ()
    with open_upload(url, verb="POST", size=size, headers={}, trust=trust, stop=stop) as sink:
        return send(chunks, sink, prove=proved, throttle=Throttle(None), stop=stop, digests=digests)


def answering(status: str) -> Script:
    def script(exchange: Exchange) -> None:
        exchange.read_body()
        exchange.head(status, "Content-Length: 0")
        exchange.say_goodbye()

    return script


def test_a_file_is_sent_whole_with_its_length() -> None:
    bodies: list[bytes] = []

    def script(exchange: Exchange) -> None:
        bodies.append(exchange.read_body())
        exchange.head("201 Created", "Content-Length: 0")

    with tls_server(script) as server:
        upload(server.url, [DATA[:1000], DATA[1000:]])
    assert bodies == [DATA]
    assert f"Content-Length: {len(DATA)}".encode() in server.requests[0]


def test_nothing_is_sent_to_a_server_with_another_certificate_than_the_pinned_one() -> None:
    with tls_server(answering("201 Created")) as server, pytest.raises(CertificateUntrusted, match="pinned"):
        upload(server.url, [DATA], thumbprint="0a" * 32)
    assert server.requests == []


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("405 Method Not Allowed", ServerFault),
        ("403 Forbidden", PermissionMissing),
        ("500 Internal Server Error", TransferInterrupted),
        ("503 Service Unavailable", TransferInterrupted),
    ],
)
def test_what_the_host_answers_is_the_error(status: str, error: type[HyperExportError]) -> None:
    with tls_server(answering(status)) as server, pytest.raises(error, match=status):
        upload(server.url, [DATA])


@pytest.mark.parametrize("length", ["Content-Length: 9", "Content-Language: en"])
def test_an_answer_that_ends_the_connection_is_read_whole(length: str) -> None:
    def script(exchange: Exchange) -> None:
        exchange.read_body()
        exchange.head("507 Insufficient Storage", "Connection: close", length)
        exchange.send(b"no space.")
        exchange.say_goodbye()

    threads = threading.active_count()
    with tls_server(script) as server, pytest.raises(TransferInterrupted, match="507 Insufficient Storage"):
        upload(server.url, [DATA])
    assert threading.active_count() == threads


def test_a_stop_ends_the_wait_for_the_rest_of_an_answer_that_is_the_last() -> None:
    """No timeout would: it is longer than the test may take."""
    stop, trust = StopSignal(), Trust(thumbprint=certificate().sha256)

    def script(exchange: Exchange) -> None:
        exchange.read_body()
        exchange.head("507 Insufficient Storage", "Connection: close", "Content-Length: 9")
        threading.Timer(0.2, stop.set).start()
        exchange.stall()

    with (
        tls_server(script) as server,
        pytest.raises(HyperExportError),
        open_upload(
            server.url, verb="POST", size=len(DATA), headers={}, trust=trust, stop=stop, write_timeout=1000
        ) as sink,
    ):
        send([DATA], sink, prove=proved, throttle=Throttle(None), stop=stop)


def test_a_connection_that_ends_without_an_answer_is_no_success() -> None:
    with tls_server(lambda exchange: exchange.reset()) as server, pytest.raises(TransferInterrupted):
        upload(server.url, [DATA])


@pytest.mark.parametrize("chunks", [[DATA[:-1]], [DATA, b"more"], [DATA[:-1] + b"x"], []])
def test_another_file_than_was_announced_never_arrives_whole(chunks: list[bytes]) -> None:
    bodies: list[bytes] = []
    script = lambda exchange: bodies.append(exchange.read_body())  # noqa: E731
    with tls_server(script) as server, pytest.raises(VerificationFailed):
        upload(server.url, chunks)
    assert all(len(body) < len(DATA) for body in bodies)


@pytest.mark.parametrize("step", [1, 700, 100_000, len(DATA)])
def test_the_digests_are_those_of_the_whole_file_whatever_its_pieces(step: int) -> None:
    bodies: list[bytes] = []

    def script(exchange: Exchange) -> None:
        bodies.append(exchange.read_body())
        exchange.head("201 Created", "Content-Length: 0")

    pieces = [DATA[at : at + step] for at in range(0, len(DATA), step)]
    with tls_server(script) as server:
        received = upload(server.url, pieces, sha1=True)
    assert bodies == [DATA]
    assert received == Received(len(DATA), {"sha256": DIGEST, "sha1": hashlib.sha1(DATA).hexdigest()})


@pytest.mark.parametrize("ahead", [False, True])
def test_a_file_that_the_caller_proves_is_sent_whole(ahead: bool) -> None:
    bodies: list[bytes] = []

    def script(exchange: Exchange) -> None:
        bodies.append(exchange.read_body())
        exchange.head("201 Created", "Content-Length: 0")

    stop, trust = StopSignal(), Trust(thumbprint=certificate().sha256)
    with (
        tls_server(script) as server,
        open_upload(server.url, verb="POST", size=len(DATA), headers={}, trust=trust, stop=stop) as sink,
    ):
        received = send_unhashed([DATA[:700], DATA[700:]], sink, throttle=Throttle(None), stop=stop, ahead=ahead)
    assert bodies == [DATA]
    assert received == Received(len(DATA), {})


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("chunks", [[DATA[:-1]], [DATA, b"more"], []])
def test_a_file_of_another_size_is_refused_whoever_proves_its_bytes(chunks: list[bytes], ahead: bool) -> None:
    bodies: list[bytes] = []
    closed = threading.Event()

    def reading() -> Iterator[bytes]:
        try:
            yield from chunks
        finally:
            closed.set()

    stop, trust = StopSignal(), Trust(thumbprint=certificate().sha256)
    with (
        tls_server(lambda exchange: bodies.append(exchange.read_body())) as server,
        pytest.raises(VerificationFailed),
        open_upload(server.url, verb="POST", size=len(DATA), headers={}, trust=trust, stop=stop) as sink,
    ):
        send_unhashed(reading(), sink, throttle=Throttle(None), stop=stop, ahead=ahead)
    assert closed.is_set()
    assert len(b"".join(chunks)) > len(DATA) or all(len(body) < len(DATA) for body in bodies)


def test_an_error_of_the_store_while_its_file_is_sent_is_the_error_of_the_upload() -> None:
    def breaking() -> Iterator[bytes]:
        yield DATA[:1000]
        raise StoreUnusable("the store is gone")

    bodies: list[bytes] = []
    script = lambda exchange: bodies.append(exchange.read_body())  # noqa: E731
    with tls_server(script) as server, pytest.raises(StoreUnusable, match="the store is gone"):
        upload(server.url, breaking())
    assert all(len(body) < len(DATA) for body in bodies)


def test_the_store_is_read_no_further_and_closed_when_the_connection_breaks() -> None:
    closed = threading.Event()

    def endless() -> Iterator[bytes]:
        try:
            while True:
                yield bytes(1 << 20)
        finally:
            closed.set()

    before = threading.active_count()
    with tls_server(lambda exchange: exchange.reset()) as server:
        with pytest.raises(TransferInterrupted):
            upload(server.url, endless(), size=1 << 50)
        assert closed.is_set()
    assert threading.active_count() == before


def test_a_stop_ends_an_upload_and_its_reading() -> None:
    stop = StopSignal()
    closed = threading.Event()

    def stopping() -> Iterator[bytes]:
        try:
            yield DATA[:1000]
            stop.set()
            while True:
                yield bytes(1 << 20)
        finally:
            closed.set()

    with tls_server(lambda exchange: exchange.read_body()) as server, pytest.raises(Interrupted):
        upload(server.url, stopping(), size=1 << 50, stop=stop)
    assert closed.is_set()


def test_no_address_with_its_ticket_is_in_an_error() -> None:
    with tls_server(answering("500 Internal Server Error")) as server, pytest.raises(TransferInterrupted) as failed:
        upload(server.url, [DATA])
    assert "secret-ticket" not in str(failed.value)
