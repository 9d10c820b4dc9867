"""The same request for several things: side by side where that is worth it, in order in any case."""

import threading
from contextvars import ContextVar

import pytest

from hyperexport.store.at_once import REQUESTS, at_once

RUN: ContextVar[str] = ContextVar("run")


def test_a_distant_stores_requests_are_on_their_way_together() -> None:
    together = threading.Barrier(REQUESTS, timeout=60)
    assert at_once(lambda _: together.wait() >= 0, range(REQUESTS)) == [True] * REQUESTS


def test_a_near_stores_follow_one_another_in_the_callers_thread() -> None:
    threads = at_once(lambda _: threading.current_thread(), range(3), distant=False)
    assert threads == [threading.current_thread()] * 3


def test_results_are_in_the_order_of_the_items_whichever_comes_first() -> None:
    last = threading.Event()

    def work(item: int) -> int:
        if item == 1:
            last.set()
        return item if last.wait(60) else -1

    assert at_once(work, [0, 1]) == [0, 1]


def test_of_several_failures_the_first_items_is_raised_though_it_came_last() -> None:
    failed = threading.Event()

    def work(item: int) -> None:
        if item == 1:
            failed.set()
            raise ValueError("the second")
        failed.wait(60)
        raise LookupError("the first")

    with pytest.raises(LookupError, match="the first"):
        at_once(work, [0, 1])


def test_a_near_stores_failure_ends_what_follows() -> None:
    begun: list[int] = []

    def work(item: int) -> None:
        begun.append(item)
        raise LookupError("the first")

    with pytest.raises(LookupError):
        at_once(work, range(3), distant=False)
    assert begun == [0]


def test_the_work_belongs_to_the_run_that_asked_for_it() -> None:
    token = RUN.set("nightly")
    try:
        assert at_once(lambda _: RUN.get(), range(3)) == ["nightly"] * 3
    finally:
        RUN.reset(token)
