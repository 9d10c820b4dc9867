"""A worker thread that processes items in order while the caller continues."""

import contextvars
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

from hyperexport.transfer.bounded_queue import BoundedQueue

T = TypeVar("T")


class _End:
    """Marks the end of the queue."""


class Behind(Generic[T]):
    """Process items in order, in a thread of its own; an error is raised by the caller's next call.

    Args:
        work: Called with each item.
        most: How many items may wait.
        name: The thread's name.
    """

    def __init__(self, work: Callable[[T], object], *, most: int, name: str) -> None:
        self._work = work
        self._items: Final = BoundedQueue[T | _End](most)
        self._error: BaseException | None = None
        self._left = False
        self._ended = False
        context = contextvars.copy_context()  # its log lines belong to the run
        self._thread = threading.Thread(target=lambda: context.run(self._run), name=name, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        """End the thread; items that still wait are dropped."""
        self._left = True
        self._end()

    def put(self, item: T) -> None:
        """Queue an item; blocks while the queue is full. Raises what an earlier item raised."""
        self._raise()
        self._items.put(item)

    def finish(self) -> None:
        """Wait until all items are processed, and raise what any of them raised. Nothing may be queued afterwards."""
        self._end()
        self._raise()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._items.put(_End())
        self._thread.join()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while not isinstance(item := self._items.get(), _End):
            if self._left or self._error is not None:
                continue
            try:
                self._work(item)
            except BaseException as error:  # noqa: BLE001 - raised again in the thread that queued the item
                self._error = error
