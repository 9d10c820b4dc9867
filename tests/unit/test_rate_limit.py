"""The rate that holds now: of the window, below the fleet's budget, and less while the link is in trouble."""

from datetime import datetime, timedelta

import pytest

from hyperexport.base.stop import StopSignal
from hyperexport.base.units import KIB, MIB
from hyperexport.model.bandwidth_windows import parse_window
from hyperexport.transfer.bandwidth.adaptive import AFTER_TROUBLE, AdaptiveRate
from hyperexport.transfer.bandwidth.rate_limit import RateLimit, wall_clock
from hyperexport.transfer.bandwidth.throttle import Throttle

MONDAY = datetime(2026, 11, 23)  # noqa: DTZ001 - a wall clock shows no zone


class Clock:
    """Seconds since Monday 17:59:50 that pass only when somebody sleeps."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def wall(self):
        return MONDAY + timedelta(hours=17, minutes=59, seconds=50 + self.now)


class SleepingStop(StopSignal):
    """Sleeps in the clock's time."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock

    def wait(self, seconds):
        self.clock.now += seconds
        return self.is_set()


def rate_limit(clock, limit=0.0, **more):
    return RateLimit(limit, clock=clock, wall=clock.wall, **more)


def test_the_limit_changes_with_the_window_also_for_a_stream_that_waits():
    clock = Clock()
    throttle = Throttle(None, 0, rate_limit=rate_limit(clock, 10, windows=[parse_window("08:00-18:00=1")]), clock=clock)
    stop = SleepingStop(clock)
    while clock.now < 20:
        throttle.take(64 * KIB, stop)
    assert throttle.taken / MIB == pytest.approx(10 * 1 + 10 * 10, rel=0.12)
    account = throttle.account
    assert account.lowest == 1 * MIB
    assert account.mean == pytest.approx(5.5 * MIB, rel=0.12)
    assert account.achieved == pytest.approx(5.5 * MIB, rel=0.12)


def test_a_window_of_zero_lifts_the_limit():
    clock = Clock()
    office = rate_limit(clock, 5, windows=[parse_window("18:00-06:00=0")])
    assert office.rate() == 5 * MIB
    clock.now = 11
    assert office.rate() is None


@pytest.mark.parametrize(("limit", "most", "holds"), [(0, None, None), (5, None, 5), (0, 8, 8), (5, 8, 5), (9, 8, 8)])
def test_the_budget_of_the_fleet_is_never_exceeded(limit, most, holds):
    rate = rate_limit(Clock(), limit, most=most and most * MIB).rate()
    assert rate == (holds and holds * MIB)


def test_a_failure_slows_the_next_bytes_down():
    clock = Clock()
    throttle = Throttle(None, rate_limit=rate_limit(clock, 10, adaptive=AdaptiveRate(clock=clock)), clock=clock)
    stop = SleepingStop(clock)
    throttle.take(MIB, stop)
    assert throttle.rate == 10 * MIB
    throttle.trouble()
    throttle.take(KIB, stop)
    assert throttle.rate == pytest.approx(AFTER_TROUBLE * 10 * MIB)
    assert throttle.account.lowest == throttle.rate


def test_without_adaptive_nothing_that_is_told_changes_the_rate():
    clock = Clock()
    throttle = Throttle(None, rate_limit=rate_limit(clock, 10), clock=clock)
    throttle.trouble()
    for _ in range(100):
        throttle.answered("write", 60)
        throttle.observe("read", KIB, 60)
        clock.now += 1
    throttle.take(KIB, SleepingStop(clock))
    assert throttle.rate == 10 * MIB


def test_an_account_of_nothing_is_empty():
    account = Throttle(None).account
    assert (account.taken, account.achieved, account.lowest, account.mean) == (0, None, None, None)


def test_the_wall_clock_shows_the_local_time():
    assert abs(wall_clock() - datetime.now().astimezone()) < timedelta(minutes=1)
