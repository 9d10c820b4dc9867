"""A bounded queue between two threads."""

from queue import SimpleQueue
from typing import Final, Generic, TypeVar

T = TypeVar("T")


class BoundedQueue(Generic[T]):
    """Of two unbounded queues in C: queue.Queue's own bound costs many times as much."""

    def __init__(self, most: int) -> None:
        self._full: Final = SimpleQueue[T]()
        self._free: Final = SimpleQueue[None]()
        for _ in range(most):
            self._free.put(None)

    def put(self, item: T) -> None:
        """Add an item; waits for room."""
        self._free.get()
        self._full.put(item)

    def get(self) -> T:
        """Take the next item; waits for one."""
        item = self._full.get()
        self._free.put(None)
        return item
