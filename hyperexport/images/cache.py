"""A bounded cache for several threads, in which each value is made once however many ask for it at once."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar, cast

Value = TypeVar("Value")


class SharedCache(Generic[Value]):
    """The ``most`` values that were asked for last, by number. A value may be anything but a future.

    A load must not wait for a value that the same thread is loading.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._held: OrderedDict[int, Value | Future[Value]] = OrderedDict()

    def get(self, numbers: Sequence[int], load: Callable[[Sequence[int]], Sequence[Value]]) -> list[Value]:
        """The values with these numbers.

        Args:
            numbers: Which.
            load: Makes those that are missing; called with their numbers, in the order of ``numbers``. What it raises
                is raised here and wherever the same values were waited for; it is forgotten then.
        """
        missing: dict[int, Future[Value]] = {}
        with self._lock:
            wanted = [self._reserve(number, missing) for number in numbers]
            while len(self._held) > self._most:
                self._held.popitem(last=False)
        if missing:
            self._load(missing, load)
        return [_value(each) for each in wanted]

    def peek(self, number: int) -> Value | None:
        """A value if it is there and finished."""
        with self._lock:
            held = self._held.get(number)
            if held is None or isinstance(held, Future):
                return None
            self._held.move_to_end(number)
            return held

    def _reserve(self, number: int, missing: dict[int, Future[Value]]) -> Value | Future[Value]:
        held = self._held.get(number)
        if held is None:
            held = self._held[number] = missing[number] = Future()
        else:
            self._held.move_to_end(number)
        return held

    def _load(self, missing: dict[int, Future[Value]], load: Callable[[Sequence[int]], Sequence[Value]]) -> None:
        try:
            values = load(list(missing))
        except BaseException as error:
            with self._lock:
                for number, future in missing.items():
                    if self._held.get(number) is future:
                        del self._held[number]
            for future in missing.values():
                future.set_exception(error)
            raise
        with self._lock:
            for (number, future), value in zip(missing.items(), values, strict=True):
                if self._held.get(number) is future:
                    self._held[number] = value
        for future, value in zip(missing.values(), values, strict=True):
            future.set_result(value)


def _value(held: Value | Future[Value]) -> Value:
    return cast("Future[Value]", held).result() if isinstance(held, Future) else held
