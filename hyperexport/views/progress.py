"""The progress of a run: a bar for each disk at a terminal, now and then a line where there is none.

Listens to :mod:`hyperexport.model.progress` and draws on standard error. Per cent and time left go by the position
on the disk, since the length of its compressed stream is unknown beforehand; the rate is that of the bytes that moved.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import IO, Final

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from hyperexport.base.text import one_line
from hyperexport.base.units import format_bytes, format_rate
from hyperexport.model.progress import Item, Progress, Stage, subscribed
from hyperexport.model.progress_totals import ALL_FILES, WithTotals

LINE_EVERY: Final = 10.0
"""Seconds between two lines about the same item where there is no terminal."""

_NO_BYTES: Final = frozenset({Stage.REMOVE_SNAPSHOT, Stage.FLEET})
_WINDOW: Final = 5.0  # seconds over which a rate is averaged


@contextmanager
def showing_progress(console: Console, *, quiet: bool = False) -> Generator[None]:
    """While the block runs, show on standard error how far its items are.

    Args:
        console: Standard error; whether it is a terminal decides what is shown.
        quiet: Show nothing: a nightly job's mail is for what needs a person.
    """
    if quiet or console.quiet:  # a quiet console is one among JSON lines, which have the steps
        yield
        return
    if not console.is_terminal:
        with subscribed(WithTotals(Lines(console.file))):
            yield
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        _RateColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Bars(*columns, console=console, expand=True) as bars, subscribed(WithTotals(LiveBars(bars))):
        yield


def describe(progress: Progress) -> str:
    """Name what moves: the file, and what is done with it unless that is the transfer."""
    if progress.stage is Stage.FLEET:
        return f"fleet: {progress.position} of {progress.total} VMs"
    item = one_line(f"{progress.vm.name}: {ALL_FILES}" if progress.item == ALL_FILES else progress.item)
    return item if progress.stage is Stage.TRANSFER else f"{progress.stage} {item}"


class Rate:
    """Bytes per second over the last few seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()

    def update(self, moved: int) -> float:
        """Take the bytes that moved so far, and give the rate; 0 until there are two moments to compare."""
        now = self._clock()
        if self._seen and moved < self._seen[-1][1]:
            self._seen.clear()  # a new attempt began
        self._seen.append((now, moved))
        while len(self._seen) > 2 and now - self._seen[1][0] >= _WINDOW:
            self._seen.popleft()
        then, before = self._seen[0]
        return (moved - before) / (now - then) if now > then else 0.0


class LiveBars:
    """A listener that moves one bar for each item."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._lock = threading.Lock()
        self._items: dict[Item, tuple[TaskID, Rate]] = {}

    def __call__(self, progress: Progress) -> None:
        """Take a report, from any thread."""
        key = progress.of
        with self._lock:
            if key not in self._items:
                self._items[key] = self._bars.add_task(describe(progress), total=None), Rate()
            bar, rate = self._items[key]
            speed = rate.update(progress.moved)
        moves_bytes = progress.stage not in _NO_BYTES
        self._bars.update(
            bar,
            description=describe(progress),
            total=progress.total or None,
            completed=progress.total if progress.done else progress.position,
            visible=not (progress.done and progress.stage is Stage.VERIFY),  # there may be thousands
            rate=_condition(progress) or (format_rate(speed) if moves_bytes else ""),
        )


class Lines:
    """A listener that writes a line for each item now and then, and when it is done."""

    def __init__(self, stream: IO[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._lock = threading.Lock()
        self._last: dict[Item, float] = {}
        self._rates: dict[Item, Rate] = {}

    def __call__(self, progress: Progress) -> None:
        """Take a report, from any thread."""
        key = progress.of
        with self._lock:
            speed = self._rates.setdefault(key, Rate(self._clock)).update(progress.moved)
            now = self._clock()
            due = now - self._last.setdefault(key, now) >= LINE_EVERY
            if not (due or progress.done or progress.failed):
                return
            self._last[key] = now
            whole = progress.stage is Stage.FLEET or progress.item == ALL_FILES
            name = "" if whole else f"{one_line(progress.vm.name)}: "
            print(f"{name}{describe(progress)}: {state_of(progress, speed)}", file=self._stream, flush=True)


def state_of(progress: Progress, speed: float) -> str:
    """How far an item is, in words.

    Args:
        progress: Its newest report.
        speed: Bytes per second.
    """
    condition = _condition(progress)
    percent = f"{100 * progress.position // progress.total} %" if progress.total else format_bytes(progress.position)
    if progress.stage in _NO_BYTES:
        return condition or percent
    if condition:
        return f"{condition}, {format_bytes(progress.moved)}"
    return f"{percent}, {format_bytes(progress.moved)} at {format_rate(speed)}"


def _condition(progress: Progress) -> str:
    return "failed" if progress.failed else "done" if progress.done else ""


class _RateColumn(ProgressColumn):
    """The rate, which the listener has worked out."""

    def render(self, task: Task) -> Text:
        return Text(str(task.fields.get("rate", "")), justify="right")
