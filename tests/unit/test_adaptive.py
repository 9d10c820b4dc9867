"""A run gives way at once and always comes back: never above its limit, never below its floor. Time is simulated."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from hyperexport.base.units import MIB
from hyperexport.transfer.bandwidth.adaptive import (
    AFTER_DELAY,
    AFTER_TROUBLE,
    FLOOR,
    LOWEST,
    PAUSE,
    RECOVERY,
    AdaptiveRate,
)

LIMIT = 100.0 * MIB


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def move(adaptive, clock, *, rate, seconds, cost=0.0):
    """Let bytes pass for a while, at ``rate`` bytes per second, of which each MiB takes the link ``cost`` seconds."""
    for _ in range(int(seconds * 10)):
        clock.now += 0.1
        adaptive.observe("read", int(rate / 10), rate / 10 / MIB * cost)


def rate_of(adaptive: AdaptiveRate, ceiling: float | None) -> float:
    """The rate, where there is one."""
    rate = adaptive.rate(ceiling)
    assert rate is not None
    return rate


def test_without_trouble_the_limit_holds():
    clock = Clock()
    adaptive = AdaptiveRate(clock=clock)
    move(adaptive, clock, rate=LIMIT, seconds=60, cost=0.001)
    assert adaptive.rate(LIMIT) == LIMIT
    assert adaptive.rate(None) is None


def test_a_failure_slows_down_at_once():
    adaptive = AdaptiveRate(clock=Clock())
    adaptive.rate(LIMIT)
    adaptive.trouble()
    assert adaptive.rate(LIMIT) == LIMIT * AFTER_TROUBLE


def test_streams_that_fail_together_are_one_failure():
    adaptive = AdaptiveRate(clock=Clock())
    adaptive.rate(LIMIT)
    for _ in range(16):
        adaptive.trouble()
    assert adaptive.rate(LIMIT) == LIMIT * AFTER_TROUBLE


def test_failures_that_go_on_lead_to_the_floor_and_not_below():
    clock = Clock()
    adaptive = AdaptiveRate(clock=clock)
    adaptive.rate(LIMIT)
    for _ in range(100):
        clock.now += PAUSE
        adaptive.trouble()
    assert FLOOR * LIMIT <= rate_of(adaptive, LIMIT) <= 0.25 * LIMIT


def test_what_the_link_really_carries_is_what_is_lessened():
    clock = Clock()
    adaptive = AdaptiveRate(clock=clock)
    adaptive.rate(LIMIT)
    move(adaptive, clock, rate=20 * MIB, seconds=5)
    adaptive.trouble()
    assert abs(rate_of(adaptive, LIMIT) - 20 * MIB * AFTER_TROUBLE) < MIB


def test_without_a_limit_the_measured_rate_is_lessened_and_then_set_free_again():
    clock = Clock()
    adaptive = AdaptiveRate(clock=clock)
    adaptive.trouble()
    assert adaptive.rate(None) is None, "nothing has moved yet"
    clock.now += PAUSE
    move(adaptive, clock, rate=50 * MIB, seconds=5)
    adaptive.trouble()
    assert abs(rate_of(adaptive, None) - 50 * MIB * AFTER_TROUBLE) < MIB
    clock.now += RECOVERY
    assert adaptive.rate(None) is None


def test_it_comes_back_in_equal_steps():
    clock = Clock()
    adaptive = AdaptiveRate(clock=clock)
    adaptive.rate(LIMIT)
    adaptive.trouble()
    rates = []
    for _ in range(5):
        clock.now += 1
        rates.append(adaptive.rate(LIMIT))
    steps = [round(after - before) for before, after in pairwise(rates)]
    assert len(set(steps)) == 1
    assert steps[0] > 0


def test_bytes_that_take_longer_slow_down_mildly():
    clock = Clock()
    adaptive = AdaptiveRate(clock=clock)
    adaptive.rate(LIMIT)
    move(adaptive, clock, rate=LIMIT, seconds=30, cost=0.005)
    assert adaptive.rate(LIMIT) == LIMIT
    slowest = LIMIT
    for _ in range(5):
        move(adaptive, clock, rate=LIMIT, seconds=1, cost=0.1)
        slowest = min(slowest, adaptive.rate(LIMIT))
    assert FLOOR * LIMIT < slowest <= LIMIT * (AFTER_DELAY + 1 / RECOVERY)


def test_a_latency_that_stays_high_becomes_the_usual_one():
    clock = Clock()
    adaptive = AdaptiveRate(clock=clock)
    move(adaptive, clock, rate=LIMIT, seconds=30, cost=0.005)
    for _ in range(180):
        move(adaptive, clock, rate=LIMIT, seconds=1, cost=0.1)
        adaptive.rate(LIMIT)
    assert adaptive.rate(LIMIT) == LIMIT


def test_answers_that_take_longer_slow_down():
    clock = Clock()
    adaptive = AdaptiveRate(clock=clock)
    adaptive.rate(LIMIT)
    for _ in range(20):
        adaptive.answered("write", 0.05)
    assert adaptive.rate(LIMIT) == LIMIT
    for _ in range(3):
        adaptive.answered("write", 5.0)
    assert adaptive.rate(LIMIT) == LIMIT * AFTER_DELAY


def test_small_changes_of_a_short_latency_are_nothing():
    clock = Clock()
    adaptive = AdaptiveRate(clock=clock)
    adaptive.rate(LIMIT)
    move(adaptive, clock, rate=LIMIT, seconds=30, cost=0.0005)
    move(adaptive, clock, rate=LIMIT, seconds=30, cost=0.005)
    assert adaptive.rate(LIMIT) == LIMIT


EVENT = st.one_of(
    st.just(("trouble", 0.0)),
    st.tuples(st.just("wait"), st.floats(0, 20)),
    st.tuples(st.just("move"), st.floats(1, 1000)),
    st.tuples(st.just("slow"), st.floats(1, 1000)),
    st.tuples(st.just("answer"), st.floats(0, 60)),
)


def happen(adaptive, clock, event):
    kind, value = event
    if kind == "trouble":
        adaptive.trouble()
    elif kind == "wait":
        clock.now += value
    elif kind == "answer":
        adaptive.answered("write", value)
    else:
        move(adaptive, clock, rate=value * MIB, seconds=1.1, cost=0.3 if kind == "slow" else 0.001)


@settings(max_examples=150, deadline=None)
@given(st.lists(EVENT, max_size=40), st.floats(0.01, 1000))
def test_whatever_happens_it_is_between_floor_and_limit_and_recovers(events, limit):
    clock, ceiling = Clock(), limit * MIB
    adaptive = AdaptiveRate(clock=clock)
    adaptive.rate(ceiling)
    for event in events:
        happen(adaptive, clock, event)
        assert min(ceiling, max(LOWEST, FLOOR * ceiling)) * 0.999 <= rate_of(adaptive, ceiling) <= ceiling
    clock.now += RECOVERY
    assert adaptive.rate(ceiling) == ceiling


@settings(max_examples=100, deadline=None)
@given(st.lists(EVENT, max_size=40))
def test_without_a_limit_too_it_never_stops_and_always_recovers(events):
    clock = Clock()
    adaptive = AdaptiveRate(clock=clock)
    for event in events:
        happen(adaptive, clock, event)
        rate = adaptive.rate(None)
        assert rate is None or rate >= LOWEST
    clock.now += RECOVERY
    assert adaptive.rate(None) is None


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(EVENT, st.floats(0.01, 1000)), min_size=1, max_size=40))
def test_a_limit_that_changes_on_the_way_holds_at_once(events):
    clock = Clock()
    adaptive = AdaptiveRate(clock=clock)
    for event, limit in events:
        happen(adaptive, clock, event)
        assert adaptive.rate(limit * MIB) <= limit * MIB
