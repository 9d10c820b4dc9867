"""Comparisons that go on in a thread of their own while the caller reads further; none is forgotten."""

import contextvars
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Final, Self

MOST_WAITING: Final = 32
"""Blocks of 64 KiB that wait to be compared."""


class Comparisons:
    """Compares blocks in the order in which they come; what a comparison raises, a later call or :meth:`finish` raises.

    To read what is stored waits for the store, and reads a larger stretch than the block to prove it.

    Args:
        compare: Called with a block's number and content.
    """

    def __init__(self, compare: Callable[[int, bytes], None]) -> None:
        self._compare = compare
        self._context = contextvars.copy_context()  # what is logged belongs to the run
        self._waiting = deque[Future[None]]()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="compare")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)

    def add(self, number: int, content: bytes) -> None:
        """Have a block compared; waits while too many wait."""
        while self._waiting and (len(self._waiting) >= MOST_WAITING or self._waiting[0].done()):
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(self._context.run, self._compare, number, content))

    def finish(self) -> None:
        """Wait until every block was compared."""
        while self._waiting:
            self._waiting.popleft().result()
