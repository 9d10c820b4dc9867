"""Work that follows a thread in one of its own: the caller goes on, and nothing that it handed over is forgotten."""

import contextvars
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

from hyperexport.transfer.bounded_queue import BoundedQueue

T = TypeVar("T")


class _End:
    """What follows the last item."""


class Behind(Generic[T]):
    """Does something with each item, in the order in which they come; what it raises, a later call raises.

    Args:
        work: Called with an item.
        most: How many may wait.
        name: Of the thread.
    """

    def __init__(self, work: Callable[[T], object], *, most: int, name: str) -> None:
        self._work = work
        self._items: Final = BoundedQueue[T | _End](most)
        self._error: BaseException | None = None
        self._left = False
        self._ended = False
        context = contextvars.copy_context()  # what is logged belongs to the run
        self._thread = threading.Thread(target=lambda: context.run(self._run), name=name, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        """End the thread; what waits is given up."""
        self._left = True
        self._end()

    def put(self, item: T) -> None:
        """Hand over an item; waits while too many wait."""
        self._raise()
        self._items.put(item)

    def finish(self) -> None:
        """Wait until all was done; nothing may be handed over afterwards."""
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
            except BaseException as error:  # noqa: BLE001 - raised again in the thread that handed it over
                self._error = error
