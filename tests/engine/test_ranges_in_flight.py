"""Several requests on their way at once, over real connections: HTTPS and NBD. In whatever form they are answered."""

import re
import socket
import struct
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from hyperexport.base.stop import StopSignal
from hyperexport.errors import Interrupted, TransferInterrupted, TransportUnavailable
from hyperexport.model.tls import Trust
from hyperexport.nbd import protocol
from hyperexport.nbd.client import NbdClient
from hyperexport.transfer.bandwidth.throttle import Throttle
from hyperexport.transfer.http_ranges import HttpRanges
from hyperexport.transfer.ranges import AHEAD, Range, read_ranges
from tests.engine.support import Exchange, TlsServer, certificate, tls_server

SECONDS = 60
LENGTH = 40_000
PARTS = [Range(number * 100_000, LENGTH) for number in range(30)]
CAPACITY = 3_000_000
WHOLE = f"Content-Range: bytes 0-{LENGTH - 1}/{CAPACITY}"


def content(offset: int, length: int) -> bytes:
    return b"".join(struct.pack(">Q", at) for at in range(offset // 8, (offset + length) // 8 + 1))[
        offset % 8 : offset % 8 + length
    ]


def asked(request: bytes) -> tuple[int, int]:
    match = re.search(rb"\r\nRange: bytes=(\d+)-(\d+)\r\n", request)
    assert match
    return int(match[1]), int(match[2]) + 1


def head(begin: int, end: int, *more: str) -> bytes:
    lines = ["HTTP/1.1 206 Partial Content", f"Content-Range: bytes {begin}-{end - 1}/{CAPACITY}", *more, "", ""]
    return "\r\n".join(lines).encode()


@contextmanager
def source_at(server: TlsServer, stop: StopSignal) -> Generator[HttpRanges]:
    source = HttpRanges(
        server.url,
        capacity=CAPACITY,
        trust=Trust(ca_pem=certificate().pem),
        headers=lambda: {"Cookie": "a=b"},
        renew=lambda: None,
        stop=stop,
    )
    try:
        with stop.waking(source.cut):
            yield source
    finally:
        source.close()


def read_all(source: HttpRanges, stop: StopSignal, parts: list[Range] = PARTS) -> list[tuple[Range, bytes]]:
    return list(read_ranges(source, parts, throttle=Throttle(None), stop=stop))


def test_as_many_requests_wait_for_their_answers_as_are_allowed_and_no_connection_is_left() -> None:
    together, ended = threading.Barrier(AHEAD), threading.Semaphore(0)

    def script(exchange: Exchange) -> None:
        together.wait(SECONDS)  # until so many connections have a request: one after the other would never get here
        while exchange.request:
            begin, end = asked(exchange.request)
            exchange.send(head(begin, end, f"Content-Length: {end - begin}") + content(begin, end - begin))
            exchange.next_request()
        ended.release()

    stop = StopSignal()
    with tls_server(script) as server:
        with source_at(server, stop) as source:
            assert read_all(source, stop) == [(part, content(*part)) for part in PARTS]
        assert all(ended.acquire(timeout=SECONDS) for _ in range(AHEAD))
        assert len(server.requests) == AHEAD


def _plain(exchange: Exchange, begin: int, end: int) -> None:
    exchange.send(head(begin, end, f"content-length: {end - begin}") + content(begin, end - begin))


def _in_pieces(exchange: Exchange, begin: int, end: int) -> None:
    answer = head(begin, end, f"Content-Length: {end - begin}") + content(begin, end - begin)
    for at in range(0, 300, 30):
        exchange.send(answer[at : at + 30])
    exchange.send(answer[300:])


def _chunked(exchange: Exchange, begin: int, end: int) -> None:
    exchange.send(head(begin, end, "Transfer-Encoding: chunked"))
    data = content(begin, end - begin)
    for at in range(0, len(data), 12_345):
        chunk = data[at : at + 12_345]
        exchange.send(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
    exchange.send(b"0\r\n\r\n")


def _continued(exchange: Exchange, begin: int, end: int) -> None:
    exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    _plain(exchange, begin, end)


def _with_many_headers(exchange: Exchange, begin: int, end: int) -> None:
    more = [f"X-Number-{number}: {number}" for number in range(70)]
    exchange.send(head(begin, end, *more, f"Content-Length: {end - begin}") + content(begin, end - begin))


def _closing(exchange: Exchange, begin: int, end: int) -> None:
    exchange.send(head(begin, end, f"Content-Length: {end - begin}", "Connection: close") + content(begin, end - begin))
    exchange.say_goodbye()


@pytest.mark.parametrize("answer", [_plain, _in_pieces, _chunked, _continued, _with_many_headers, _closing])
def test_an_answer_in_any_form_that_http_has_gives_the_bytes(answer: Callable[[Exchange, int, int], None]) -> None:
    def script(exchange: Exchange) -> None:
        while exchange.request:
            answer(exchange, *asked(exchange.request))
            if answer is _closing:
                return
            exchange.next_request()

    stop = StopSignal()
    with tls_server(script) as server, source_at(server, stop) as source:
        assert read_all(source, stop) == [(part, content(*part)) for part in PARTS]
        assert len(server.requests) == (len(PARTS) if answer is _closing else AHEAD)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (("Content-Length: 40000", "Content-Encoding: gzip"), "compressed"),
        (("Content-Length: 40000", f"Content-Range: bytes 8-40007/{CAPACITY}"), "bytes 8 to 40007"),
        (("Content-Length: 40000", "Content-Range: bytes 0-39999/77"), "has 77 bytes"),
        (("Content-Length: 40000", "Content-Range: none"), "without saying which one"),
        (("Content-Length: 40000", WHOLE, f"Content-Range: bytes 8-40007/{CAPACITY}"), "without saying which one"),
        (("Content-Length: 40000", WHOLE, "Content-Encoding: gzip", "Content-Encoding: identity"), "compressed"),
        ((WHOLE, "Transfer-Encoding: gzip, chunked"), r"compressed .*\(gzip, chunked\)"),
        ((WHOLE, "Transfer-Encoding: gzip"), "compressed"),
    ],
)
def test_an_answer_with_other_bytes_is_refused(more: tuple[str, ...], why: str) -> None:
    def script(exchange: Exchange) -> None:
        whole = () if any("Content-Range" in line for line in more) else (WHOLE,)
        exchange.send("\r\n".join(["HTTP/1.1 206 Partial Content", *whole, *more, "", ""]).encode())
        exchange.send(bytes(LENGTH))
        exchange.next_request()

    stop = StopSignal()
    with (
        tls_server(script) as server,
        source_at(server, stop) as source,
        pytest.raises(TransportUnavailable, match=why),
    ):
        read_all(source, stop, PARTS[:1])


@pytest.mark.parametrize("announced", [("40001",), ("40000", "40001"), ("40000", "3")])
def test_an_answer_that_announces_another_length_does_not_count(announced: tuple[str, ...]) -> None:
    def script(exchange: Exchange) -> None:
        exchange.send(head(0, LENGTH, *(f"Content-Length: {length}" for length in announced)) + bytes(LENGTH))
        exchange.next_request()

    stop = StopSignal()
    with (
        tls_server(script) as server,
        source_at(server, stop) as source,
    ):
        source.ask(PARTS[0])
        with pytest.raises(TransferInterrupted, match=f"announced {', '.join(announced)} bytes for 40000"):
            source.answer()


@pytest.mark.parametrize("end", ["cut", "stop"])
def test_a_reading_that_is_ended_from_another_thread_ends_at_once(end: str) -> None:
    waiting, left = threading.Semaphore(0), threading.Semaphore(0)

    def script(exchange: Exchange) -> None:
        begin, last = asked(exchange.request)
        exchange.send(head(begin, last, f"Content-Length: {last - begin}") + b"some of it")
        waiting.release()
        assert exchange.next_request() == b""
        left.release()

    stop = StopSignal()
    with tls_server(script) as server, source_at(server, stop) as source:

        def finish() -> None:
            for _ in range(AHEAD):
                waiting.acquire(timeout=SECONDS)
            source.cut() if end == "cut" else stop.set()

        other = threading.Thread(target=finish)
        other.start()
        with pytest.raises(TransportUnavailable if end == "cut" else Interrupted):
            read_all(source, stop)
        other.join()
        assert all(left.acquire(timeout=SECONDS) for _ in range(AHEAD))
        assert len(server.requests) == AHEAD  # none was made again


# -- NBD --------------------------------------------------------------------------------------------------------------


@contextmanager
def nbd_server(folder: Path, answer: Callable[[socket.socket, list[tuple[int, int, int]]], None]) -> Generator[Path]:
    """Negotiate with one client, take requests until there are as many as are allowed, and answer them all."""
    path = folder / "socket"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        client, _ = listener.accept()
        with client, client.makefile("rb") as stream:
            client.sendall(
                protocol.HANDSHAKE.pack(protocol.MAGIC, protocol.OPTION_MAGIC, protocol.Handshake.FIXED_NEWSTYLE)
            )
            stream.read(protocol.CLIENT_FLAGS.size)
            _, option, length = protocol.OPTION.unpack(stream.read(protocol.OPTION.size))
            stream.read(length)
            for kind, data in (
                (protocol.OptionReply.INFO, struct.pack(">HQH", protocol.Info.EXPORT, CAPACITY, 1)),
                (protocol.OptionReply.ACK, b""),
            ):
                client.sendall(protocol.OPTION_REPLY.pack(protocol.REPLY_MAGIC, option, kind, len(data)) + data)
            requests: list[tuple[int, int, int]] = []
            while len(requests) < AHEAD:
                _, _, _, cookie, offset, length = protocol.REQUEST.unpack(stream.read(protocol.REQUEST.size))
                requests.append((cookie, offset, length))
            with suppress(ConnectionError):  # of a client that leaves answers unread
                answer(client, requests)
                stream.read()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield path
    finally:
        thread.join()
        listener.close()


def reply(client: socket.socket, cookie: int, data: bytes, error: int = 0) -> None:
    client.sendall(protocol.SIMPLE_REPLY.pack(protocol.SIMPLE_MAGIC, error, cookie) + data)


def test_an_nbd_server_may_answer_requests_in_another_order(tmp_path: Path) -> None:
    def answer(client: socket.socket, requests: list[tuple[int, int, int]]) -> None:
        for cookie, offset, length in reversed(requests):
            reply(client, cookie, content(offset, length))

    with nbd_server(tmp_path, answer) as path:
        client = NbdClient(path, stop=StopSignal(), name="nbd")
        for part in PARTS[:AHEAD]:
            client.ask(*part)
        assert [client.answer() for _ in range(AHEAD)] == [content(*part) for part in PARTS[:AHEAD]]
        client.close()


@pytest.mark.parametrize("wrong", ["unknown", "twice", "error"])
def test_an_nbd_server_that_answers_what_was_not_asked_is_left(tmp_path: Path, wrong: str) -> None:
    def answer(client: socket.socket, requests: list[tuple[int, int, int]]) -> None:
        cookie, offset, length = requests[-1]
        reply(client, cookie + (wrong == "unknown"), content(offset, length), error=5 if wrong == "error" else 0)
        reply(client, cookie, content(offset, length))

    with nbd_server(tmp_path, answer) as path:
        client = NbdClient(path, stop=StopSignal(), name="nbd")
        for part in PARTS[:AHEAD]:
            client.ask(*part)
        with pytest.raises(
            TransferInterrupted,
            match="cannot read 40000 bytes at 300000" if wrong == "error" else "no reply to a request",
        ):
            client.answer()
        client.close()
