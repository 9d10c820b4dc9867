"""Ranges that are read in order while the next ones are on their way: bounds, retries and ends, whatever fails."""

from collections import deque
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperexport.base.stop import StopSignal
from hyperexport.errors import Interrupted, ServerUnreachable, TransferInterrupted, TransportUnavailable
from hyperexport.transfer.bandwidth.throttle import Throttle
from hyperexport.transfer.ranges import AHEAD, ATTEMPTS, LARGEST_AHEAD, LARGEST_RANGE, Range, read_ranges

KIB = 1 << 10


class Patient(StopSignal):
    """Does not wait between two attempts."""

    def wait(self, seconds: float) -> bool:  # noqa: ARG002 - as it is called
        return self.is_set()


class Disk:
    """A disk in memory that fails as it is told, each time in one of its calls."""

    name = "a disk"
    capacity = 1 << 40

    def __init__(self, *failures: Exception | None) -> None:
        self.on_their_way = deque[Range]()
        self.asked: list[Range] = []
        self.most = (0, 0)
        self.resets = 0
        self._failures = iter(failures)

    def ask(self, part: Range) -> None:
        self._fail()
        self.asked.append(part)
        self.on_their_way.append(part)
        self.most = max(self.most, (len(self.on_their_way), sum(each.length for each in self.on_their_way)))

    def answer(self) -> bytes:
        self._fail()
        return content(self.on_their_way.popleft())

    def reset(self) -> None:
        self.resets += 1
        self.on_their_way.clear()

    def cut(self) -> None: ...

    def _fail(self) -> None:
        if failure := next(self._failures, None):
            raise failure


def content(part: Range) -> bytes:
    return f"{part.offset}+{part.length}".encode()


def read(disk: Disk, parts: list[Range], stop: StopSignal | None = None) -> list[tuple[Range, bytes]]:
    return list(read_ranges(disk, parts, throttle=Throttle(None), stop=stop or Patient()))


def scattered(count: int, length: int = 64 * KIB) -> list[Range]:
    return [Range(number * 2 * length, length) for number in range(count)]


def test_small_ranges_are_on_their_way_together_up_to_a_number() -> None:
    disk, parts = Disk(), scattered(50)
    assert read(disk, parts) == [(part, content(part)) for part in parts]
    assert disk.most[0] == AHEAD > 1
    assert (disk.asked, disk.resets) == (parts, 0)


def test_large_ranges_are_on_their_way_together_up_to_their_bytes() -> None:
    disk = Disk()
    read(disk, scattered(9, LARGEST_RANGE))
    assert disk.most[1] == LARGEST_AHEAD
    assert disk.most[0] < AHEAD


@given(
    st.integers(0, 12),
    st.lists(st.sampled_from([None, None, TransferInterrupted("broke off"), ServerUnreachable("gone")]), max_size=60),
)
def test_what_fails_for_a_moment_is_read_again_in_order(count: int, failures: list[Exception | None]) -> None:
    parts, disk = scattered(count), Disk(*failures)
    got: list[tuple[Range, bytes]] = []
    try:
        for each in read_ranges(disk, parts, throttle=Throttle(None), stop=Patient()):
            got.append(each)
    except (TransferInterrupted, ServerUnreachable):
        assert disk.resets >= ATTEMPTS
        assert len(got) < count
    else:
        assert len(got) == count
    assert got == [(part, content(part)) for part in parts[: len(got)]]
    assert not disk.on_their_way


def test_a_range_that_fails_again_and_again_is_an_error() -> None:
    disk = Disk(*[TransferInterrupted("broke off")] * ATTEMPTS)
    with pytest.raises(TransferInterrupted):
        read(disk, scattered(3))
    disk = Disk(*[TransferInterrupted("broke off")] * (ATTEMPTS - 1))
    assert len(read(disk, scattered(3))) == 3


def test_after_a_failure_fewer_ranges_are_ahead() -> None:
    refused_beyond_two = [None, None, ServerUnreachable("too many connections")]
    disk = Disk(*refused_beyond_two)
    reading = read_ranges(disk, scattered(20), throttle=Throttle(None), stop=Patient())
    next(reading)
    disk.most = (0, 0)
    assert len(list(reading)) == 19
    assert disk.most[0] == AHEAD // 2


def test_what_cannot_pass_is_not_tried_again() -> None:
    disk = Disk(None, TransportUnavailable("no ranges"))
    with pytest.raises(TransportUnavailable):
        read(disk, scattered(5))
    assert disk.resets == 1


def test_a_reader_that_is_left_leaves_nothing_unanswered() -> None:
    disk = Disk()
    reading = read_ranges(disk, scattered(20), throttle=Throttle(None), stop=Patient())
    assert len(list(islice(reading, 3))) == 3
    assert disk.on_their_way
    reading.close()
    assert not disk.on_their_way


def test_a_run_that_is_stopped_reads_nothing_more() -> None:
    disk, stop = Disk(), Patient()
    reading = read_ranges(disk, scattered(20), throttle=Throttle(None), stop=stop)
    next(reading)
    stop.set()
    with pytest.raises(Interrupted):
        next(reading)
    assert not disk.on_their_way


def test_each_range_is_paid_for_once_before_it_is_asked_for() -> None:
    disk, throttle, parts = Disk(None, TransferInterrupted("broke off")), Throttle(None), scattered(7)
    paid: list[int] = []
    for _ in read_ranges(disk, parts, throttle=throttle, stop=Patient()):
        paid.append(throttle.taken - sum(part.length for part in {*disk.asked}))
    assert throttle.taken == sum(part.length for part in parts)
    assert min(paid) >= 0
