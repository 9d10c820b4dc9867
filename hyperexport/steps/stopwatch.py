"""The seconds that an export's stages took so far, and how long its snapshot was on the VM."""

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

from hyperexport.model.manifest import StageName


class Stopwatch:
    """Measures one export. Its methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: dict[StageName, float] = {}
        self._at_work: dict[StageName, int] = {}
        self._since: dict[StageName, float] = {}
        self._snapshot: tuple[str, float] | None = None
        self.snapshot_held: float | None = None
        """Seconds from the making of the run's snapshot to the end of its removal; None before that."""

    @contextmanager
    def running(self, name: StageName) -> Generator[None]:
        """Count the block to a stage. Blocks that overlap count once; one after the other, each counts."""
        with self._lock:
            self._at_work[name] = self._at_work.get(name, 0) + 1
            self._since.setdefault(name, time.monotonic())
        try:
            yield
        finally:
            with self._lock:
                self._at_work[name] -= 1
                if not self._at_work[name]:
                    self._seconds[name] = self._seconds.get(name, 0.0) + time.monotonic() - self._since.pop(name)

    @property
    def stages(self) -> dict[StageName, float]:
        """Seconds of each stage that has ended, in the order in which they first did."""
        with self._lock:
            return {name: round(seconds, 3) for name, seconds in self._seconds.items()}

    def snapshot_made(self, moref: str) -> None:
        """The run's own snapshot is there."""
        self._snapshot = (moref, time.monotonic())

    def snapshot_removed(self, moref: str) -> None:
        """A snapshot is gone; if it is the run's own, its time is over."""
        if self._snapshot and self._snapshot[0] == moref:
            self.snapshot_held = round(time.monotonic() - self._snapshot[1], 3)
