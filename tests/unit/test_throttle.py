"""The limit holds for all streams together, exactly, and nobody is left out. Time is simulated."""

import heapq
import random

import pytest

from hyperexport.base.stop import StopSignal
from hyperexport.base.units import KIB, MIB
from hyperexport.errors import Interrupted
from hyperexport.transfer.bandwidth.throttle import CHUNK, MIN_SLEEP, Throttle


class Clock:
    """Seconds that pass only when somebody sleeps."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class SleepingStop(StopSignal):
    """Sleeps in the clock's time; every nap lasts longer than asked for, as a real one does."""

    def __init__(self, clock, late=0.0):
        super().__init__()
        self.clock = clock
        self.late = late
        self.naps = []

    def wait(self, seconds):
        self.naps.append(seconds)
        self.clock.now += seconds + self.late
        return self.is_set()


def seconds_for(throttle, clock, *, chunk, count, stop=None):
    """Let one stream take ``count`` chunks; returns the seconds that it took."""
    stop = stop or SleepingStop(clock)
    began = clock.now
    for _ in range(count):
        throttle.take(chunk, stop)
    return clock.now - began


def run_many(throttle, clock, *, chunks, seconds):
    """Streams side by side, each taking its own size of chunk; returns the bytes that each moved."""
    moved = [0] * len(chunks)
    until = clock.now + seconds
    wakes = [(clock.now, stream) for stream in range(len(chunks))]
    while wakes[0][0] < until:
        clock.now, stream = heapq.heappop(wakes)
        place = throttle.charge(chunks[stream])
        moved[stream] += chunks[stream]
        heapq.heappush(wakes, (clock.now + max(throttle.due(place), 1e-6), stream))
    return moved


@pytest.mark.parametrize("rate", [1 * MIB, 10 * MIB, 100 * MIB, 500 * MIB])
@pytest.mark.parametrize("chunk", [1 * KIB, 64 * KIB, 256 * KIB, 1 * MIB, 100 * MIB])
@pytest.mark.parametrize("burst", [0, 1 * MIB, None])
def test_one_stream_gets_exactly_the_rate_with_any_chunk_and_any_bucket(rate, chunk, burst):
    clock = Clock()
    count = max(1, min(1000, 1000 * MIB // chunk))
    full = {None: 2 * rate, 0: 0.05 * rate}.get(burst, burst)
    paid = max(0.0, chunk * count - max(full, 0.05 * rate)) / rate
    seconds = seconds_for(Throttle(rate, burst, clock=clock), clock, chunk=chunk, count=count)
    # At the end a debt of less than the shortest nap is left.
    assert paid - MIN_SLEEP <= seconds <= paid + 1e-6


def test_naps_that_last_too_long_are_made_up_for():
    clock = Clock()
    stop = SleepingStop(clock, late=0.002)
    seconds = seconds_for(Throttle(100 * MIB, 0, clock=clock), clock, chunk=256 * KIB, count=4000, stop=stop)
    assert seconds == pytest.approx(10 - 0.05, abs=0.01)


def test_nobody_sleeps_for_less_than_a_few_milliseconds():
    clock = Clock()
    stop = SleepingStop(clock)
    seconds_for(Throttle(500 * MIB, 0, clock=clock), clock, chunk=64 * KIB, count=4000, stop=stop)
    assert min(stop.naps) >= MIN_SLEEP


@pytest.mark.parametrize(("burst", "at_once"), [(20 * MIB, 20 * MIB), (None, 10 * MIB)])
@pytest.mark.parametrize("idle", [0, 3600])
def test_a_burst_shows_at_the_start_of_a_run(burst, at_once, idle):
    clock = Clock()
    throttle = Throttle(5 * MIB, burst, clock=clock)
    clock.now += idle  # between the start of the run and its first byte
    stop = SleepingStop(clock)
    throttle.take(at_once, stop)
    assert stop.naps == []
    throttle.take(50 * MIB, stop)
    assert sum(stop.naps) == pytest.approx(10, abs=0.01)


@pytest.mark.parametrize("burst", [0, 20 * MIB, None])
@pytest.mark.parametrize("streams", [1, 4])
def test_no_span_of_a_run_has_more_than_the_limit_and_one_burst(burst, streams):
    clock = Clock()
    rate = 5 * MIB
    most = {None: 2 * rate, 0: 0.05 * rate}.get(burst, burst)
    throttle = Throttle(rate, burst, clock=clock)
    moved = [(clock.now, 0)]
    wakes = [(clock.now, stream) for stream in range(streams)]
    pauses = iter(random.Random(7).choices([0, 0, 0, 0.3, 5, 60], k=3000))
    for pause in pauses:
        at, stream = heapq.heappop(wakes)
        clock.now = max(clock.now, at) + (pause if len(wakes) == streams - 1 and stream == 0 else 0)
        place = throttle.charge(CHUNK)
        moved.append((clock.now, place))
        heapq.heappush(wakes, (clock.now + throttle.due(place), stream))
    for begin in range(0, len(moved), 40):
        since, before = moved[begin]
        for now, place in moved[begin + 1 :]:
            assert place - before <= rate * (now - since) + most + (streams + 1) * CHUNK


def test_a_lowered_rate_lets_no_credit_of_the_old_one_pass():
    clock = Clock()
    throttle = Throttle(50 * MIB, 20 * MIB, clock=clock)
    stop = SleepingStop(clock)
    throttle.take(1 * MIB, stop)
    throttle.set_rate(1 * MIB)
    throttle.take(10 * MIB, stop)
    assert sum(stop.naps) == pytest.approx(10, abs=0.01)


def test_a_raised_rate_keeps_the_credit_that_was_saved():
    clock = Clock()
    throttle = Throttle(1 * MIB, 20 * MIB, clock=clock)
    stop = SleepingStop(clock)
    throttle.take(1 * MIB, stop)
    throttle.set_rate(2 * MIB)
    throttle.take(19 * MIB, stop)
    assert stop.naps == []


def test_a_rate_that_changes_before_the_first_byte_does_not_spend_the_burst():
    clock = Clock()
    throttle = Throttle(50 * MIB, clock=clock)
    throttle.set_rate(1 * MIB)
    clock.now += 1
    throttle.set_rate(10 * MIB)
    stop = SleepingStop(clock)
    throttle.take(20 * MIB, stop)
    assert stop.naps == []
    throttle.take(10 * MIB, stop)
    assert sum(stop.naps) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(("burst", "free"), [(None, 2 * MIB), (5 * MIB, 5 * MIB), (0, 0.05 * MIB)])
def test_a_pause_saves_up_the_burst_and_no_more(burst, free):
    clock = Clock()
    stop = SleepingStop(clock)
    throttle = Throttle(1 * MIB, burst, clock=clock)
    throttle.take(60 * MIB, stop)
    clock.now += 3600
    began = clock.now
    throttle.take(20 * MIB, stop)
    assert clock.now - began == pytest.approx((20 * MIB - free) / MIB, abs=0.01)


@pytest.mark.parametrize("streams", [2, 4, 16])
def test_streams_share_one_rate_evenly(streams):
    clock = Clock()
    moved = run_many(Throttle(50 * MIB, 0, clock=clock), clock, chunks=[256 * KIB] * streams, seconds=20)
    assert sum(moved) == pytest.approx(50 * MIB * 20, rel=0.02)
    assert min(moved) == pytest.approx(max(moved), rel=0.02)


def test_a_stream_that_takes_large_parts_lets_the_others_in_between():
    clock = Clock()
    throttle = Throttle(1 * MIB, 0, clock=clock)
    waits = []

    class AnotherStreamComes(SleepingStop):
        def wait(self, seconds):
            waits.append(throttle.due(throttle.charge(CHUNK)))
            return super().wait(seconds)

    throttle.take(16 * MIB, AnotherStreamComes(clock))
    assert len(waits) >= 64
    # It waits for one turn of the large part and its own, and not for the sixteen seconds of the whole.
    assert max(waits) <= 3 * CHUNK / MIB


def test_no_limit_never_waits_and_still_counts():
    clock = Clock()
    stop = SleepingStop(clock)
    throttle = Throttle(None, clock=clock)
    for _ in range(1000):
        throttle.take(1 * MIB, stop)
    assert (stop.naps, throttle.waited, throttle.taken) == ([], 0, 1000 * MIB)


def test_the_seconds_waited_are_counted():
    clock = Clock()
    throttle = Throttle(1 * MIB, clock=clock)
    throttle.take(5 * MIB, SleepingStop(clock))
    assert throttle.waited == pytest.approx(3, abs=0.01)


def test_a_changed_rate_holds_for_those_who_wait_already():
    clock = Clock()
    throttle = Throttle(1 * MIB, clock=clock)

    class Hurrying(SleepingStop):
        def wait(self, seconds):
            super().wait(seconds)
            throttle.set_rate(100 * MIB)

    throttle.take(256 * KIB, SleepingStop(clock))
    began = clock.now
    throttle.take(50 * MIB, Hurrying(clock))
    assert clock.now - began < 1


def test_lifting_the_limit_frees_those_who_wait():
    clock = Clock()
    throttle = Throttle(1 * MIB, clock=clock)
    place = throttle.charge(100 * MIB)
    assert throttle.due(place) == pytest.approx(98)
    throttle.set_rate(None)
    assert throttle.due(place) == 0


def test_a_limit_set_later_does_not_ask_for_what_went_before():
    clock = Clock()
    throttle = Throttle(None, clock=clock)
    throttle.take(1000 * MIB, SleepingStop(clock))
    throttle.set_rate(1 * MIB)
    assert throttle.due(throttle.charge(1 * MIB)) == pytest.approx(1)


def test_a_stop_ends_the_wait():
    clock = Clock()

    class StoppedInItsSleep(SleepingStop):
        def wait(self, seconds):
            self.set()
            return super().wait(seconds)

    stop = StoppedInItsSleep(clock)
    with pytest.raises(Interrupted):
        Throttle(1, clock=clock).take(1 * MIB, stop)
    assert len(stop.naps) == 1


@pytest.mark.parametrize("rate", [0, -1])
def test_a_rate_that_moves_nothing_is_refused(rate):
    with pytest.raises(ValueError, match="is too low"):
        Throttle(rate)
