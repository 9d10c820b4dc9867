"""How fast each file of a run moved, moment by moment, for the chart in its closing page.

Kept by listening to :mod:`hyperexport.model.progress`, and bounded: the longer a file takes, the wider apart are the
moments that are kept of it. Nothing of it goes into the manifest.
"""

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final

from hyperexport.model.progress import Progress, Stage, subscribed
from hyperexport.model.vm import Value, VmRef

MOST_MOMENTS: Final = 120
"""Of each file. When there are more, every second one is dropped."""

_CLOSEST: Final = 0.25
"""Seconds between two moments at first."""


class Moment(Value):
    """How much of a file had come at one time.

    Args:
        at: Seconds since the recording began.
        moved: Bytes over the wire since the file's first attempt began.
    """

    at: float
    moved: int


class Rates(Value):
    """How fast one file moved.

    Args:
        item: The file's name.
        moments: From its first report to its last, in order.
    """

    item: str
    moments: tuple[Moment, ...]

    @property
    def seconds(self) -> float:
        """From its first moment to its last, waits between attempts included."""
        return self.moments[-1].at - self.moments[0].at

    @property
    def moved(self) -> int:
        """Bytes, those of failed attempts included."""
        return self.moments[-1].moved

    @property
    def curve(self) -> list[tuple[float, float]]:
        """The rate between each two moments: ``(seconds, bytes per second)``, at the time halfway between them."""
        pairs = zip(self.moments, self.moments[1:], strict=False)
        return [((a.at + b.at) / 2, (b.moved - a.moved) / (b.at - a.at)) for a, b in pairs if b.at > a.at]


class RateRecorder:
    """Keeps the moments of each file of one VM. Called from transfer threads, a few times a second for each."""

    def __init__(self, vm: VmRef, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin now.

        Args:
            vm: The VM; the files of others, whose exports may run in the same process, are left out.
            clock: Seconds.
        """
        self._vm = vm
        self._clock = clock
        self._began = clock()
        self._lock = threading.Lock()
        self._tracks: dict[str, _Track] = {}

    def note(self, progress: Progress) -> None:
        """Take one report."""
        if progress.vm != self._vm or progress.stage is not Stage.TRANSFER:
            return
        now = self._clock() - self._began
        with self._lock:
            self._tracks.setdefault(progress.item, _Track()).add(now, progress.moved, last=progress.done)

    @property
    def rates(self) -> tuple[Rates, ...]:
        """What was seen so far, by file. What came at once had no rate, and is left out."""
        with self._lock:
            seen = [Rates(item=item, moments=tuple(track.moments)) for item, track in sorted(self._tracks.items())]
        return tuple(one for one in seen if one.seconds >= _CLOSEST)


class _Track:
    """The moments of one file."""

    def __init__(self) -> None:
        self.moments: list[Moment] = []
        self._apart = _CLOSEST
        self._earlier = 0  # bytes of the attempts before this one
        self._moved = 0

    def add(self, at: float, moved: int, *, last: bool) -> None:
        if moved < self._moved:  # a new attempt
            self._earlier += self._moved
        self._moved = moved
        if self.moments and at - self.moments[-1].at < self._apart:
            if not last:
                return
            if len(self.moments) > 1:  # over so short a time, the last rate would mean nothing
                self.moments.pop()
        self.moments.append(Moment(at=at, moved=self._earlier + moved))
        if len(self.moments) > MOST_MOMENTS:
            self.moments = [*self.moments[:-1:2], self.moments[-1]]
            self._apart *= 2


@contextmanager
def recording_rates(vm: VmRef) -> Generator[RateRecorder]:
    """Record how fast a VM's files move while the block runs."""
    recorder = RateRecorder(vm)
    with subscribed(recorder.note):
        yield recorder
