"""Bytes take one way: from TLS through throttle, check and hash into every sink, and stop where something breaks."""

import hashlib
import random
import threading

import pytest

from hyperexport.base.stop import StopSignal
from hyperexport.errors import DiskFull, Interrupted, StreamCorrupt, TransferInterrupted
from hyperexport.model.tls import Trust
from hyperexport.store.direct_io import FileSink
from hyperexport.transfer import pipeline
from hyperexport.transfer.bandwidth.throttle import Throttle
from hyperexport.transfer.pipeline import PIECE, transfer
from hyperexport.transfer.source import open_source
from tests.engine.support import certificate, tls_server

DATA = random.Random(11).randbytes(3 * 1024 * 1024 + 12_345)
TRUSTED = Trust(ca_pem=certificate().pem)


class Bytes:
    """A source of bytes in memory."""

    def __init__(self, data):
        self.data = data
        self.at = 0

    def readinto(self, buffer):
        count = min(len(buffer), len(self.data) - self.at)
        buffer[:count] = self.data[self.at : self.at + count]
        self.at += count
        return count


class Memory:
    """A sink that keeps the bytes, until it is full."""

    def __init__(self, room=1 << 40):
        self.data = b""
        self.room = room

    def write(self, data):
        if len(self.data) + len(data) > self.room:
            raise DiskFull("the memory is full")
        self.data += bytes(data)


class HalfwayCheck:
    """Says that it has come half as far into the disk as it has seen bytes, and what it has seen."""

    def __init__(self, refuse_at=1 << 40):
        self.seen = 0
        self.finished = False
        self.refuse_at = refuse_at

    @property
    def position(self):
        return self.seen // 2

    def feed(self, data):
        self.seen += len(data)
        if self.seen > self.refuse_at:
            raise StreamCorrupt("it is no disk")

    def finish(self):
        self.finished = True


def run(source, sinks, *, throttle=None, stop=None, **options):
    return transfer(source, sinks, throttle=throttle or Throttle(None), stop=stop or StopSignal(), **options)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def test_a_file_arrives_over_tls_in_several_sinks_at_once_with_its_hash(tmp_path):
    path, memory = tmp_path / "disk", Memory()
    file = FileSink(path)
    pieces = [DATA[at : at + 100_000] for at in range(0, len(DATA), 100_000)]
    with (
        tls_server(lambda exchange: exchange.chunked(*pieces)) as server,
        open_source(server.url, trust=TRUSTED, stop=StopSignal()) as source,
    ):
        received = run(source, [file, memory])
    file.finish()
    assert (received.size, received.digests) == (len(DATA), {"sha256": sha256(DATA)})
    assert path.read_bytes() == memory.data == DATA


def test_several_digests_are_taken_in_one_go():
    received = run(Bytes(DATA), [], digests=("sha1", "sha256"))
    assert received.digests == {"sha1": hashlib.sha1(DATA).hexdigest(), "sha256": sha256(DATA)}


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1])
def test_files_of_any_size_arrive_whole(size):
    memory = Memory()
    received = run(Bytes(DATA[:size]), [memory])
    assert (memory.data, received.size, received.digests["sha256"]) == (DATA[:size], size, sha256(DATA[:size]))


def test_the_throttle_is_charged_once_for_each_byte_however_many_sinks_there_are():
    throttle = Throttle(None)
    run(Bytes(DATA), [Memory(), Memory()], throttle=throttle)
    assert throttle.taken == len(DATA)


def test_the_check_sees_every_byte_and_is_finished_at_the_end():
    check = HalfwayCheck()
    run(Bytes(DATA), [Memory()], check=check)
    assert (check.seen, check.finished) == (len(DATA), True)


def test_what_the_check_refuses_reaches_no_sink():
    check, memory = HalfwayCheck(refuse_at=2 * PIECE), Memory()
    with pytest.raises(StreamCorrupt):
        run(Bytes(DATA), [memory], check=check)
    assert memory.data == DATA[: 2 * PIECE]
    assert not check.finished


def test_a_stream_that_breaks_is_not_taken_for_a_whole_one():
    check, memory = HalfwayCheck(), Memory()
    with (
        tls_server(lambda exchange: exchange.chunked(DATA[:1_000_000], end=False)) as server,
        open_source(server.url, trust=TRUSTED, stop=StopSignal()) as source,
        pytest.raises(TransferInterrupted),
    ):
        run(source, [memory], check=check)
    assert not check.finished
    assert DATA.startswith(memory.data)


def test_a_sink_that_fails_ends_the_transfer_with_its_own_error():
    other = Memory()
    with pytest.raises(DiskFull, match="the memory is full"):
        run(Bytes(DATA), [other, Memory(room=1_000_000)])
    assert len(other.data) <= 1_000_000 + PIECE


def test_a_stop_ends_the_transfer_between_two_pieces():
    stop = StopSignal()

    class StopsAfterAWhile(Memory):
        def write(self, data):
            super().write(data)
            if len(self.data) >= 2 * PIECE:
                stop.set()

    sink = StopsAfterAWhile()
    with pytest.raises(Interrupted):
        run(Bytes(DATA), [sink], stop=stop)
    assert len(sink.data) == 2 * PIECE


def test_a_stop_ends_a_transfer_that_waits_for_the_network():
    stop, arrived = StopSignal(), threading.Event()

    def then_stall(exchange):
        exchange.chunked(DATA[:PIECE], end=False)
        exchange.stall()

    class Tells(Memory):
        def write(self, data):
            super().write(data)
            arrived.set()

    def stop_then():
        arrived.wait()
        stop.set()

    thread = threading.Thread(target=stop_then)
    thread.start()
    with (
        tls_server(then_stall) as server,
        open_source(server.url, trust=TRUSTED, stop=stop) as source,
        pytest.raises(Interrupted),
    ):
        run(source, [Tells()], stop=stop)
    thread.join()


def test_a_stop_ends_a_transfer_that_waits_for_the_throttle():
    stop = StopSignal()
    thread = threading.Timer(0.1, stop.set)
    thread.start()
    with pytest.raises(Interrupted):
        run(Bytes(DATA), [], throttle=Throttle(1), stop=stop)
    thread.join()


def test_progress_tells_the_position_on_the_disk_and_the_bytes_moved(monkeypatch):
    monkeypatch.setattr(pipeline, "PROGRESS_INTERVAL", 0)
    reports = []
    run(Bytes(DATA[: 3 * PIECE]), [], check=HalfwayCheck(), on_progress=lambda *report: reports.append(report))
    assert reports == [
        *((PIECE * number // 2, PIECE * number) for number in (1, 2, 3)),
        (3 * PIECE // 2, 3 * PIECE),
    ]


def test_progress_without_a_check_tells_the_bytes_moved(monkeypatch):
    monkeypatch.setattr(pipeline, "PROGRESS_INTERVAL", 3600)
    reports = []
    run(Bytes(DATA[: 3 * PIECE]), [], on_progress=lambda *report: reports.append(report))
    assert reports == [(3 * PIECE, 3 * PIECE)]
