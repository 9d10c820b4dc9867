"""Runs that share a budget keep to it together and share it evenly, and none waits for one that does not answer."""

import heapq
import itertools
import math
import random
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperexport.base.stop import StopSignal
from hyperexport.base.units import MIB
from hyperexport.errors import Interrupted
from hyperexport.transfer.bandwidth.shared import budget_slots, draw_from_budget, grant_size, seconds_until_next_grant
from hyperexport.transfer.bandwidth.throttle import Throttle


class Ledger:
    """A rate limit that counts as Prefect 3.8 does, faults included (prefect.server.models.concurrency_limits_v2).

    Slots are whole: what has come back is rounded down and written only when slots are taken. A request that is denied
    renews the time without writing, so what had come back is forgotten.
    """

    def __init__(self, rate, slots):
        self.rate, self.slots = rate, slots
        self.active, self.updated = 0, 0.0
        self.granted = []
        self.denied = 0

    def active_now(self, now):
        return max(0, self.active - math.floor(self.rate * (now - self.updated)))

    def take(self, now, count):
        if self.active_now(now) + count > self.slots:
            self.updated = now
            self.denied += 1
            return False
        self.active, self.updated = self.active_now(now) + count, now
        self.granted.append((now, count))
        return True


class Run:
    """One run that moves bytes as fast as its pocket lets it: it asks again when half of a lease is left."""

    def __init__(self, grant, start=0.0, rest=0.0):
        self.grant, self.start, self.rest = grant, start, rest
        self.pocket, self.drained_at, self.served = 0.0, start, float("-inf")
        self.granted = 0

    def seconds_until_it_asks(self, now, rate):
        self.pocket = max(0.0, self.pocket - (now - self.drained_at) * rate)
        self.drained_at = now
        return max(0.0, self.pocket - self.grant / 2) / rate + self.rest


def simulate(ledger, runs, *, seconds, chance):
    """Let the runs follow the rule, each request taking the time that a busy server takes."""
    order = itertools.count()
    events = [(run.start, next(order), "look", run) for run in runs]
    heapq.heapify(events)

    def after(when, what, run):
        heapq.heappush(events, (when, next(order), what, run))

    while events[0][0] < seconds:
        now, _, what, run = heapq.heappop(events)
        if what == "look":
            wait = seconds_until_next_grant(
                free=ledger.slots - ledger.active_now(now),
                grant=run.grant,
                limit=ledger.slots,
                rate=ledger.rate,
                waited=now - run.served,
            )
            after(now + (wait or 0) + chance.uniform(0.01, 0.06), "look" if wait else "take", run)
        elif ledger.take(now, run.grant):
            run.served, run.granted = now, run.granted + run.grant
            idle = run.seconds_until_it_asks(now, ledger.rate)
            run.pocket += run.grant
            after(now + idle + run.seconds_until_it_asks(now, ledger.rate), "look", run)
        else:
            after(now + chance.uniform(0.05, 0.2), "look", run)


@pytest.mark.parametrize("rate", [1, 3.3, 10, 50, 500])
@pytest.mark.parametrize("count", [1, 2, 4, 12, 24])
def test_the_whole_budget_is_used_and_nobody_is_left_behind(rate, count):
    ledger = Ledger(rate, budget_slots(rate))
    grant = grant_size(rate, ledger.slots)
    seconds = 12 * count * grant / rate
    runs = [Run(grant, start=0.01 * number) for number in range(count)]
    simulate(ledger, runs, seconds=seconds, chance=random.Random(7))
    granted = [run.granted for run in runs]
    assert 0.95 * rate * seconds <= sum(granted) <= rate * seconds + ledger.slots
    assert min(granted) >= 0.5 * sum(granted) / count


def test_what_one_does_not_need_the_others_get():
    rate = 50
    ledger = Ledger(rate, budget_slots(rate))
    grant = grant_size(rate, ledger.slots)
    runs = [Run(grant), Run(grant), Run(grant, rest=20.0)]
    simulate(ledger, runs, seconds=200, chance=random.Random(3))
    assert sum(run.granted for run in runs) >= 0.95 * rate * 200
    assert runs[2].granted < 0.1 * rate * 200


@settings(max_examples=30, deadline=None)
@given(
    rate=st.floats(0.5, 50),
    slots=st.integers(10, 500),
    starts=st.lists(st.floats(0, 60), min_size=1, max_size=8),
    seed=st.integers(),
)
def test_in_no_stretch_of_time_is_more_leased_than_the_limit_and_what_came_in(rate, slots, starts, seed):
    ledger = Ledger(rate, slots)
    grant = grant_size(rate, slots)
    simulate(ledger, [Run(grant, start) for start in starts], seconds=30, chance=random.Random(seed))
    level, last = 0.0, 0.0
    for when, count in ledger.granted:
        level, last = max(0.0, level - rate * (when - last)) + count, when
        assert level <= slots + 1e-6


@given(rate=st.floats(0.01, 10_000), limit=st.integers(1, 100_000))
def test_a_lease_fits_the_limit_and_is_a_seconds_worth_where_it_can_be(rate, limit):
    grant = grant_size(rate, limit)
    assert 1 <= grant <= max(1, limit // 2)
    assert grant >= min(2 * rate, limit // 2)
    assert grant_size(rate, budget_slots(rate)) >= 2 * rate


# -- the pocket -------------------------------------------------------------------------------------------------------


class FakeBudget:
    """Hands out leases while it has any, and notes them."""

    def __init__(self, leases=1000, grant=1):
        self.rate, self.grant = 100.0, grant
        self.left = leases
        self.asked = 0
        self.failing = False

    def acquire(self):
        self.asked += 1
        if self.failing:
            raise ConnectionError("no route to the server")
        if not self.left:
            return 0.01
        self.left -= 1
        return 0


def test_bytes_pass_only_out_of_what_was_leased():
    budget, stop = FakeBudget(leases=3, grant=2), StopSignal()
    passed = []

    def move():
        try:
            while True:
                allowance.draw(MIB // 4, stop)
                passed.append(MIB // 4)
                if len(passed) == 24:
                    all_spent.set()
        except Interrupted:
            pass

    all_spent = threading.Event()
    with draw_from_budget(budget, warn=pytest.fail) as allowance:
        threads = [threading.Thread(target=move) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert all_spent.wait(30)
        stop.set()
        for thread in threads:
            thread.join()
    assert sum(passed) == allowance.granted == 3 * 2 * MIB


def test_nothing_is_leased_before_a_byte_wants_to_move():
    budget = FakeBudget()
    with draw_from_budget(budget, warn=pytest.fail):
        pass
    assert budget.asked == 0


def test_a_lease_is_asked_for_before_the_last_one_is_used_up():
    budget = FakeBudget(grant=4)
    with draw_from_budget(budget, warn=pytest.fail) as allowance:
        for _ in range(16):
            assert allowance.draw(MIB, StopSignal()) >= 0
    assert 4 <= 1000 - budget.left <= 6, "one or two leases ahead, and not more"


def test_a_budget_that_does_not_answer_is_told_of_once_and_holds_nobody_up():
    budget, warnings = FakeBudget(), []
    budget.failing = True
    with draw_from_budget(budget, warn=warnings.append, timeout=0) as allowance:
        for _ in range(10):
            allowance.draw(100 * MIB, StopSignal())
    assert len(warnings) == 1
    assert "ConnectionError" in warnings[0]
    assert "own limit" in warnings[0]


def test_a_stop_ends_the_wait_for_a_lease():
    stop = StopSignal()
    with draw_from_budget(FakeBudget(leases=0), warn=pytest.fail) as allowance:
        threading.Timer(0.05, stop.set).start()
        with pytest.raises(Interrupted):
            allowance.draw(MIB, stop)


def test_the_throttle_counts_the_wait_for_a_lease():
    class Slow(FakeBudget):
        def acquire(self):
            return 0.05 if self.asked < 3 and super().acquire() == 0 else 0

    with draw_from_budget(Slow(grant=8), warn=pytest.fail) as allowance:
        throttle = Throttle(None, allowance=allowance)
        throttle.take(4 * MIB, StopSignal())
    assert throttle.waited > 0
    assert throttle.account.taken == 4 * MIB
