"""The same small request for several items, a few of them in parallel where the store is remote."""

import contextvars
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

REQUESTS: Final = 8
"""Requests in flight at once."""

A = TypeVar("A")
B = TypeVar("B")


def at_once(work: Callable[[A], B], items: Iterable[A], *, distant: bool = True) -> list[B]:
    """Call a function for each item, and return the results in the order of the items.

    Args:
        work: The function. Calls run in threads if the store is distant, so it must be thread-safe.
        items: Its arguments.
        distant: Whether a request takes much longer than its work (S3); otherwise the calls are made one by one.

    Raises:
        Exception: What the first failing call raised, in the order of the items; calls that have not begun are dropped.
    """
    if not distant:
        return [work(item) for item in items]
    threads = ThreadPoolExecutor(REQUESTS, thread_name_prefix="at-once")
    try:
        # In a copy of the context: the log lines belong to the run.
        futures = [threads.submit(contextvars.copy_context().run, work, item) for item in items]
        return [future.result() for future in futures]
    finally:
        threads.shutdown(cancel_futures=True)
