"""One file sent to a host: proved before its last byte, and never taken for sent because a connection ended."""

import hashlib
from collections.abc import Iterable

import pytest

from hyperexport.base.stop import StopSignal
from hyperexport.errors import (
    HyperExportError,
    PermissionMissing,
    ServerFault,
    TransferInterrupted,
    VerificationFailed,
)
from hyperexport.model.tls import Trust
from hyperexport.transfer.bandwidth.throttle import Throttle
from hyperexport.transfer.upload import open_upload, send
from tests.engine.support import Exchange, Script, certificate, tls_server

DATA = bytes(range(256)) * 400
DIGEST = hashlib.sha256(DATA).hexdigest()


def proved(digest: str) -> None:
    if digest != DIGEST:
        raise VerificationFailed("another file")


def upload(url: str, chunks: Iterable[bytes], *, size: int = len(DATA)) -> None:
    stop = StopSignal()
    trust = Trust(thumbprint=certificate().sha256)
    with open_upload(url, verb="POST", size=size, headers={}, trust=trust, stop=stop) as sink:
        send(chunks, sink, prove=proved, throttle=Throttle(None), stop=stop)


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


def test_no_address_with_its_ticket_is_in_an_error() -> None:
    with tls_server(answering("500 Internal Server Error")) as server, pytest.raises(TransferInterrupted) as failed:
        upload(server.url, [DATA])
    assert "secret-ticket" not in str(failed.value)
