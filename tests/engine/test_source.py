"""What a download over HTTPS takes for an end, and what for a break. Over real TLS, with real faults."""

import hashlib
import random
import socket
import threading

import pytest

from hyperexport.base.stop import StopSignal
from hyperexport.errors import (
    CertificateUntrusted,
    Interrupted,
    PermissionMissing,
    ServerFault,
    ServerUnreachable,
    TransferInterrupted,
)
from hyperexport.model.tls import Trust
from hyperexport.transfer.source import Source, open_source
from tests.engine.support import certificate, tls_server

TRUSTED = Trust(ca_pem=certificate().pem)
DATA = random.Random(7).randbytes(3_000_000)


def read_all(source: Source, step: int = 262_144) -> bytes:
    buffer = memoryview(bytearray(step))
    whole = bytearray()
    while count := source.readinto(buffer):
        whole += buffer[:count]
    return bytes(whole)


def download(server, *, trust=TRUSTED, stop=None, step=262_144, **options) -> bytes:
    with open_source(server.url, trust=trust, stop=stop or StopSignal(), **options) as source:
        whole = read_all(source, step)
        assert source.received == len(whole)
        return whole


# -- whole streams


@pytest.mark.parametrize("size", [1, 7, 4096, 65_536, 1_048_576, len(DATA)])
def test_a_chunked_stream_arrives_whole_whatever_the_size_of_its_chunks(size):
    data = DATA[: max(10 * size, 1000)]
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    with tls_server(lambda exchange: exchange.chunked(*pieces)) as server:
        assert hashlib.sha256(download(server)).digest() == hashlib.sha256(data).digest()


@pytest.mark.parametrize("step", [1, 5, 1000, 262_144])
def test_the_size_of_the_buffer_changes_nothing(step):
    with tls_server(lambda exchange: exchange.chunked(DATA[:700], DATA[700:1999])) as server:
        assert download(server, step=step) == DATA[:1999]


def test_chunk_extensions_and_trailers_are_no_part_of_the_file():
    def script(exchange):
        exchange.head("200 OK", "Transfer-Encoding: chunked")
        exchange.send(b"5;name=value\r\nhello\r\n0\r\nX-Checksum: 1\r\n\r\n")

    with tls_server(script) as server:
        assert download(server) == b"hello"


def test_a_stream_with_a_length_arrives_whole():
    def script(exchange):
        exchange.head("200 OK", f"Content-Length: {len(DATA)}")
        exchange.send(DATA)

    with tls_server(script) as server:
        assert download(server) == DATA


def test_an_empty_file_is_empty():
    with tls_server(lambda exchange: exchange.head("200 OK", "Content-Length: 0")) as server:
        assert download(server) == b""


def test_a_stream_that_ends_with_the_connection_is_whole_only_with_the_goodbye_of_tls():
    def script(exchange):
        exchange.head("200 OK", "Connection: close")
        exchange.send(b"hello")
        exchange.say_goodbye()

    with tls_server(script) as server:
        assert download(server) == b"hello"


def test_the_bytes_are_asked_for_as_they_are_with_the_headers_given():
    with tls_server(lambda exchange: exchange.chunked(b"x")) as server:
        download(server, headers={"Cookie": "vmware_cgi_ticket=1"})
        request = server.requests[0].decode()
    assert request.startswith("GET /nfc/52-secret-ticket/disk-0.vmdk HTTP/1.1\r\n")
    assert "Accept-Encoding: identity\r\n" in request
    assert "Cookie: vmware_cgi_ticket=1\r\n" in request


# -- broken streams


def cut_in_a_chunk(exchange):
    exchange.head("200 OK", "Transfer-Encoding: chunked")
    exchange.send(b"100000\r\n" + DATA[:200_000])


def cut_between_chunks(exchange):
    exchange.chunked(DATA[:200_000], end=False)


def cut_between_chunks_politely(exchange):
    exchange.chunked(DATA[:200_000], end=False)
    exchange.say_goodbye()


def cut_in_a_chunk_politely(exchange):
    cut_in_a_chunk(exchange)
    exchange.say_goodbye()


def cut_in_the_zeros_of_a_chunk_size(exchange):
    exchange.chunked(DATA[:200_000], end=False)
    exchange.send(b"000")  # of 00010000: read carelessly, this is the mark of the end


def reset_in_a_chunk(exchange):
    cut_in_a_chunk(exchange)
    exchange.reset()


def garbage_for_a_chunk_size(exchange):
    exchange.chunked(DATA[:200_000], end=False)
    exchange.send(b"not hex\r\n")
    exchange.stall()


def shorter_than_announced(exchange):
    exchange.head("200 OK", "Content-Length: 300000")
    exchange.send(DATA[:200_000])


def shorter_than_announced_politely(exchange):
    shorter_than_announced(exchange)
    exchange.say_goodbye()


def without_goodbye(exchange):
    exchange.head("200 OK", "Connection: close")
    exchange.send(DATA[:200_000])


@pytest.mark.parametrize(
    "script",
    [
        cut_in_a_chunk,
        cut_in_a_chunk_politely,
        cut_between_chunks,
        cut_between_chunks_politely,
        cut_in_the_zeros_of_a_chunk_size,
        reset_in_a_chunk,
        garbage_for_a_chunk_size,
        shorter_than_announced,
        shorter_than_announced_politely,
        without_goodbye,
    ],
)
def test_a_broken_stream_never_looks_like_one_that_ended(script):
    with tls_server(script) as server, pytest.raises(TransferInterrupted, match=r"disk-0.vmdk .*broke off after \d+"):
        download(server)


def test_a_stalled_stream_is_given_up_after_the_read_timeout():
    def script(exchange):
        exchange.chunked(DATA[:1000], end=False)
        exchange.stall()

    with tls_server(script) as server, pytest.raises(TransferInterrupted, match="no data arrived before the timeout"):
        download(server, read_timeout=0.2)


def test_a_server_that_hangs_up_without_an_answer_interrupts_the_transfer():
    with tls_server(lambda _: None) as server, pytest.raises(TransferInterrupted, match="no answer"):
        download(server)


# -- being stopped


def stopped_while_it_waits(script, act):
    """Open the source, read what comes, and ``act`` from another thread once a read waits for bytes that never come."""
    stop = StopSignal()
    with tls_server(script) as server, open_source(server.url, trust=TRUSTED, stop=stop) as source:
        assert source.readinto(memoryview(bytearray(1000))) == 1000
        threading.Timer(0.1, act, args=(stop, source)).start()
        read_all(source)


def then_stall(exchange):
    exchange.chunked(DATA[:1000], end=False)
    exchange.stall()


def test_a_stop_ends_a_read_that_waits():
    with pytest.raises(Interrupted):
        stopped_while_it_waits(then_stall, lambda stop, _: stop.set())


def test_closing_from_another_thread_ends_a_read_that_waits():
    with pytest.raises(TransferInterrupted, match="after 1000 bytes"):
        stopped_while_it_waits(then_stall, lambda _, source: source.close())


def test_a_stop_ends_waiting_for_the_answer():
    stop = StopSignal()

    def script(exchange):
        stop.set()
        exchange.stall()

    with tls_server(script) as server, pytest.raises(Interrupted):
        download(server, stop=stop)


def test_a_stop_ends_a_handshake_that_waits():
    stop = StopSignal()
    with socket.create_server(("127.0.0.1", 0)) as silent:

        def stop_when_connected():
            connection, _ = silent.accept()
            connection.recv(1)  # the client's first word: now it waits for ours
            stop.set()
            connection.close()

        thread = threading.Thread(target=stop_when_connected)
        thread.start()
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/disk"
        with pytest.raises(Interrupted), open_source(url, trust=TRUSTED, stop=stop):
            pass
        thread.join()


def test_nothing_is_asked_for_after_a_stop():
    stop = StopSignal()
    stop.set()
    with tls_server(lambda exchange: exchange.chunked(b"x")) as server:
        with pytest.raises(Interrupted):
            download(server, stop=stop)
        assert server.requests == []


# -- other answers


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("401 Unauthorized", PermissionMissing),
        ("403 Forbidden", PermissionMissing),
        ("404 Not Found", ServerFault),
        ("302 Found", ServerFault),
        ("204 No Content", ServerFault),
        ("429 Too Many Requests", TransferInterrupted),
        ("500 Internal Server Error", TransferInterrupted),
        ("503 Service Unavailable", TransferInterrupted),
    ],
)
def test_an_answer_other_than_200_is_an_error_of_its_kind(status, error):
    def script(exchange):
        exchange.head(status, "Content-Length: 0", "Location: https://127.0.0.1:1/elsewhere")

    with tls_server(script) as server:
        with pytest.raises(error, match=status):
            download(server)
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "encoded",
    [
        ("Content-Encoding: gzip", "Content-Length: 1"),
        ("Content-Encoding: identity", "Content-Encoding: gzip", "Content-Length: 1"),
        ("Transfer-Encoding: gzip, chunked",),
    ],
)
def test_a_compressed_body_is_refused(encoded):
    def script(exchange):
        exchange.head("200 OK", *encoded)

    with tls_server(script) as server, pytest.raises(ServerFault, match="gzip"):
        download(server)


def test_no_error_shows_the_ticket_in_the_address():
    with tls_server(lambda exchange: exchange.head("503 Busy", "Content-Length: 0")) as server:
        with pytest.raises(TransferInterrupted) as caught:
            download(server)
        assert "secret" not in str(caught.value)
        assert "disk-0.vmdk from 127.0.0.1:" in str(caught.value)


# -- trust


@pytest.mark.parametrize(
    "trust",
    [
        Trust(ca_pem=certificate().pem),
        Trust(thumbprint=certificate().sha256),
        Trust(thumbprint=certificate().sha1_with_colons),
        Trust(insecure=True),
    ],
    ids=["authority", "sha256", "sha1", "insecure"],
)
def test_a_certificate_that_is_vouched_for_is_accepted(trust):
    with tls_server(lambda exchange: exchange.chunked(b"hello")) as server:
        assert download(server, trust=trust) == b"hello"


def test_an_authority_in_a_file_is_read(tmp_path):
    (tmp_path / "ca.pem").write_text(certificate().pem)
    with tls_server(lambda exchange: exchange.chunked(b"hello")) as server:
        assert download(server, trust=Trust(ca_pem=(tmp_path / "ca.pem").read_text())) == b"hello"


@pytest.mark.parametrize(
    "trust",
    [
        Trust(),
        Trust(ca_pem=certificate("another").pem),
        Trust(thumbprint=certificate("another").sha256),
        Trust(thumbprint=certificate("another").sha1_with_colons),
        Trust(ca_pem=certificate().pem, thumbprint=certificate("another").sha256),
        Trust(insecure=True, thumbprint=certificate("another").sha256),
    ],
    ids=["system", "other authority", "other sha256", "other sha1", "authority but not pin", "insecure but not pin"],
)
def test_a_certificate_that_is_not_vouched_for_is_refused_before_anything_is_sent(trust):
    with tls_server(lambda exchange: exchange.chunked(b"hello")) as server:
        with pytest.raises(CertificateUntrusted, match=r"127\.0\.0\.1"):
            download(server, trust=trust)
        assert [request for request in server.requests if request] == []


# -- addresses


def test_a_port_where_nobody_listens_is_unreachable():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with (
        pytest.raises(ServerUnreachable, match="no connection"),
        open_source(f"https://127.0.0.1:{port}/disk", trust=TRUSTED, stop=StopSignal()),
    ):
        pass


def test_a_server_that_does_not_speak_tls_is_unreachable():
    with socket.create_server(("127.0.0.1", 0)) as plain:

        def answer():
            connection, _ = plain.accept()
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"https://127.0.0.1:{plain.getsockname()[1]}/disk"
        with pytest.raises(ServerUnreachable), open_source(url, trust=TRUSTED, stop=StopSignal()):
            pass
        thread.join()


@pytest.mark.parametrize("url", ["http://127.0.0.1/disk", "ftp://127.0.0.1/", "https://[bad/", "disk.vmdk"])
def test_an_address_that_is_not_https_is_refused(url):
    with pytest.raises(ServerFault), open_source(url, trust=TRUSTED, stop=StopSignal()):
        pass
