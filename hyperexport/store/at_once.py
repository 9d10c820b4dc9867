"""The same small request for several things: a few side by side where the answers come from afar."""

import contextvars
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

REQUESTS: Final = 8
"""So many are on their way at once."""

A = TypeVar("A")
B = TypeVar("B")


def at_once(work: Callable[[A], B], items: Iterable[A], *, distant: bool = True) -> list[B]:
    """Do the same for each item, and give the results in the order of the items.

    Args:
        work: Done in threads if the store is distant, so it may change nothing that another one changes.
        items: What it is done for.
        distant: Whether a request takes much longer than its work does (S3); else one follows the other.

    Raises:
        Exception: Whatever the work raised for the first item, in their order, that failed; what has not begun by then
            never does.
    """
    if not distant:
        return [work(item) for item in items]
    threads = ThreadPoolExecutor(REQUESTS, thread_name_prefix="at-once")
    try:
        # In a copy of the context, as the log lines belong to the run.
        futures = [threads.submit(contextvars.copy_context().run, work, item) for item in items]
        return [future.result() for future in futures]
    finally:
        threads.shutdown(cancel_futures=True)
