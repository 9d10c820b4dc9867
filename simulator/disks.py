"""The guests' disks: sparse, deterministic, of any size, at the cost of what the guest has written.

A disk's first content is computed from its seed (``disk_content.py``), so that an 8 TiB disk takes no memory. What the
guest writes is kept over it. A snapshot is a copy of the table of written grains, whose values never change: as many
as one likes, each at the cost of its pointers. This module knows bytes and change tracking; it must never know a
protocol.
"""

import heapq
import os
import re
import threading
import uuid
from collections import deque
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import chain, starmap
from pathlib import Path
from typing import Final

from hyperexport.base.units import MIB, SECTOR
from hyperexport.formats.vmdk import GRAIN, GRAIN_SECTORS
from hyperexport.formats.vmdk_writer import ZERO_GRAIN, StreamWriter
from hyperexport.simulator.disk_content import Content, Run

Range = tuple[int, int]
"""Offset and length, in bytes."""

_PIECE: Final = MIB
_CHANGE_ID: Final = re.compile(r"((?:[0-9a-f]{2} ){7}[0-9a-f]{2}-(?:[0-9a-f]{2} ){7}[0-9a-f]{2})/(\d{1,18})")


class _View:
    """Content with what was written over it: the reading half of a disk and of a frozen one."""

    def __init__(self, capacity: int, content: Content, written: dict[int, bytes]) -> None:
        self.capacity = capacity
        self._content = content
        self._written = written

    def _grain(self, grain: int) -> bytes:
        written = self._written.get(grain)
        if written is not None:
            return written
        return b"".join(self._content.plain(grain)) if self._content.holds(grain) else ZERO_GRAIN

    def _read(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0:
            raise ValueError(f"cannot read {length} bytes at {offset}")
        end = min(offset + length, self.capacity)
        if offset >= end:
            return b""
        first = offset // GRAIN
        grains = b"".join(map(self._grain, range(first, (end - 1) // GRAIN + 1)))
        return grains[offset - first * GRAIN : end - first * GRAIN]


class Frozen(_View):
    """A disk as it was at one moment. Immutable, so safe to share; costs the table of what the guest had written."""

    def __init__(
        self,
        capacity: int,
        content: Content,
        written: dict[int, bytes],
        change_id: str | None,
        changes: dict[int, int],
    ) -> None:
        super().__init__(capacity, content, written)
        self.change_id = change_id
        self._changes = changes

    def read(self, offset: int, length: int) -> bytes:
        """Read bytes of the guest's disk; fewer at its end."""
        return self._read(offset, length)

    @property
    def populated(self) -> int:
        """Bytes of the grains that hold anything."""
        return sum(length for _, length in self.allocated())

    def allocated(self) -> list[Range]:
        """The grains that hold anything, as ascending ranges that do not touch."""
        return _join(self._populated_runs(), self.capacity)

    def save_raw(self, path: str | os.PathLike[str]) -> None:
        """Write the disk as a raw image: a sparse file of the disk's capacity."""
        with Path(path).open("wb", buffering=0) as file:
            file.truncate(self.capacity)
            for grain in self._populated_grains():
                written = self._written.get(grain)
                parts = self._content.plain(grain) if written is None else (written,)
                os.pwritev(file.fileno(), parts, grain * GRAIN)
            file.truncate(self.capacity)

    def stream(self, *, name: str = "disk.vmdk") -> Iterator[bytes]:
        """The disk as a streamOptimized VMDK, as a host sends it, in pieces of about 1 MiB.

        Args:
            name: The file name in the descriptor.
        """
        writer = StreamWriter(self.capacity, name=name)
        pieces = [writer.header()]
        size = len(pieces[0])
        for grain in self._populated_grains():
            piece = self._encode(writer, grain)
            pieces.append(piece)
            size += len(piece)
            if size >= _PIECE:
                yield b"".join(pieces)
                pieces.clear()
                size = 0
        yield b"".join((*pieces, writer.finish()))

    def _encode(self, writer: StreamWriter, grain: int) -> bytes:
        if grain in self._written or (grain + 1) * GRAIN > self.capacity:
            return writer.grain(grain * GRAIN_SECTORS, self._grain(grain)[: self.capacity - grain * GRAIN])
        return writer.precompressed(grain * GRAIN_SECTORS, *self._content.zlib_stream(grain))

    def changed_since(self, change_id: str) -> list[Range]:
        """What changed between a change id and this moment; see :meth:`Disk.changed_since`."""
        return _changed_since(change_id, self.change_id, self._changes, self.capacity)

    def _populated_grains(self) -> Iterator[int]:
        return chain.from_iterable(starmap(range, self._populated_runs()))

    def _populated_runs(self) -> Iterator[Run]:
        """The grains that hold anything, found without looking at those that do not; ascending, some may touch."""
        added = sorted(
            grain for grain, data in self._written.items() if data is not ZERO_GRAIN and not self._content.holds(grain)
        )
        zeroed = deque(sorted(grain for grain, data in self._written.items() if data is ZERO_GRAIN))
        for first, end in heapq.merge(self._content.runs(), ((grain, grain + 1) for grain in added)):
            start = first
            while zeroed and zeroed[0] < end:
                hole = zeroed.popleft()
                if start < hole:
                    yield start, hole
                start = max(start, hole + 1)
            if start < end:
                yield start, end


class Disk(_View):
    """A live disk, which its guest writes to while others read and freeze it. Safe to share between threads.

    Args:
        capacity: Bytes that the guest sees; a multiple of 512.
        seed: What its first content is computed from; another seed gives other content everywhere.
        used: The part of the disk (0 to 1) that the first content takes.
        track: Whether changes are tracked from the beginning.

    Raises:
        ValueError: The capacity is not a multiple of 512, or ``used`` is not a part.
    """

    def __init__(self, capacity: int, seed: int, used: float = 0.25, track: bool = True) -> None:
        if capacity <= 0 or capacity % SECTOR or not 0 <= used <= 1:
            raise ValueError(f"no disk has {capacity} bytes of which {used} are used")
        super().__init__(capacity, Content(capacity, seed, used), {})
        self._lock = threading.Lock()
        self._tracker = _Tracker() if track else None
        self._added = 0
        self.written = datetime.now(UTC)
        """When its file was last written."""

    def read(self, offset: int, length: int) -> bytes:
        """Read bytes as the guest does; fewer at the disk's end."""
        with self._lock:
            return self._read(offset, length)

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write as the guest does, anywhere on the disk.

        Raises:
            ValueError: Beyond the disk's end.
        """
        view = memoryview(data).cast("B")
        with self._lock:
            if offset < 0 or offset + len(view) > self.capacity:
                raise ValueError(f"{len(view)} bytes at {offset} do not fit on a disk of {self.capacity}")
            while len(view):
                grain, start = divmod(offset, GRAIN)
                part = view[: GRAIN - start]
                self._write_grain(grain, start, part)
                offset, view = offset + len(part), view[len(part) :]

    def _write_grain(self, grain: int, start: int, part: memoryview) -> None:
        old = b"" if len(part) == GRAIN else self._grain(grain)
        new = b"".join((old[:start], part, old[start + len(part) :]))
        before, after = self._written.get(grain, ZERO_GRAIN), ZERO_GRAIN if new == ZERO_GRAIN else new
        self._written[grain] = after
        if (before is ZERO_GRAIN) != (after is ZERO_GRAIN) and not self._content.holds(grain):
            self._added += 1 if before is ZERO_GRAIN else -1
        self.written = datetime.now(UTC)
        if self._tracker:
            self._tracker.changed(grain)

    @property
    def added(self) -> int:
        """Bytes of the grains that hold something and did not at first."""
        return GRAIN * self._added

    def clear(self) -> None:
        """Forget all that was written."""
        with self._lock:
            self._written.clear()
            self._added = 0

    def freeze(self) -> Frozen:
        """The disk as it is now, unchanged by what the guest writes later."""
        with self._lock:
            written = dict(self._written)
            if self._tracker is None:
                return Frozen(self.capacity, self._content, written, None, {})
            change_id, changes = self._tracker.freeze()
            return Frozen(self.capacity, self._content, written, change_id, changes)

    def resize(self, capacity: int) -> None:
        """Grow the disk by zeros. Its change ids are void from here on, as on a real host.

        Raises:
            ValueError: It would shrink, which vSphere does not do.
        """
        if capacity < self.capacity or capacity % SECTOR:
            raise ValueError(f"a disk of {self.capacity} bytes cannot become one of {capacity}")
        with self._lock:
            last, rest = divmod(self.capacity, GRAIN)
            if rest:
                # What the last grain's computed content has beyond the old end was never the guest's.
                self._write_grain(last, rest, memoryview(ZERO_GRAIN[rest:]))
            self.capacity = capacity
            self.written = datetime.now(UTC)
            if self._tracker:
                self._tracker = _Tracker()

    def revert(self, frozen: Frozen) -> None:
        """Be as the disk was when it was frozen. Its change ids are void from here on, as on a real host."""
        with self._lock:
            self.capacity = frozen.capacity
            self._written = dict(frozen._written)
            holds = self._content.holds
            self._added = sum(data is not ZERO_GRAIN and not holds(grain) for grain, data in self._written.items())
            self.written = datetime.now(UTC)
            if self._tracker:
                self._tracker = _Tracker()

    # -- change tracking ----------------------------------------------------------------------------------------------

    @property
    def change_id(self) -> str | None:
        """The id of this moment, such as ``52 de c0 d9 b9 43 9d 10-61 d5 4c 1b e9 7b 65 63/81``; None untracked."""
        with self._lock:
            return self._tracker.observe() if self._tracker else None

    def changed_since(self, change_id: str, *, at: Frozen | None = None) -> list[Range]:
        """What changed between a change id and a frozen moment (or now): ascending ranges, whole grains.

        Raises:
            ValueError: The id is malformed, of another disk or an earlier tracking, newer than ``at``, or nothing is
                tracked.
        """
        if at is not None:
            return at.changed_since(change_id)
        with self._lock:
            if self._tracker is None:
                raise ValueError("changes are not tracked on this disk")
            return _changed_since(change_id, self._tracker.observe(), self._tracker.changes, self.capacity)

    def reset_tracking(self) -> None:
        """Forget all changes and begin under a new uuid, as after a host's crash; nothing where tracking is off."""
        with self._lock:
            if self._tracker:
                self._tracker = _Tracker()

    def set_tracking(self, tracked: bool) -> None:
        """Begin (under a new uuid) or end the tracking of changes; nothing when it is so already."""
        with self._lock:
            if tracked != (self._tracker is not None):
                self._tracker = _Tracker() if tracked else None


class _Tracker:
    """Which grains changed, by sequence number. A number that was shown to anyone is never used for a later write."""

    def __init__(self) -> None:
        text = uuid.uuid4().bytes
        self._uuid = "-".join(half.hex(" ") for half in (text[:8], text[8:]))
        self._sequence = 1
        self._shown = False
        self.changes: dict[int, int] = {}

    def changed(self, grain: int) -> None:
        if self._shown:
            self._sequence, self._shown = self._sequence + 1, False
        self.changes[grain] = self._sequence

    def observe(self) -> str:
        self._shown = True
        return f"{self._uuid}/{self._sequence}"

    def freeze(self) -> tuple[str, dict[int, int]]:
        """The moment's id and map; every snapshot counts the sequence up, whether anything changed or not."""
        change_id = self.observe()
        self._sequence, self._shown = self._sequence + 1, False
        return change_id, dict(self.changes)


def _changed_since(change_id: str, newest: str | None, changes: dict[int, int], capacity: int) -> list[Range]:
    since = _sequence(change_id, newest)
    grains = sorted(grain for grain, sequence in changes.items() if sequence > since)
    return _join(((grain, grain + 1) for grain in grains), capacity)


def _sequence(change_id: str, newest: str | None) -> int:
    """The sequence number of a change id that must belong to the same tracking as ``newest`` and not be newer."""
    if newest is None:
        raise ValueError("changes were not tracked on this disk")
    found = _CHANGE_ID.fullmatch(change_id)
    if not found:
        raise ValueError(f"{change_id!r} is not a change id")
    tracking, _, last = newest.rpartition("/")
    if found[1] != tracking:
        raise ValueError(f"change id {change_id} belongs to another disk or to a tracking that was reset")
    if int(found[2]) > int(last):
        raise ValueError(f"change id {change_id} is newer than {newest}")
    return int(found[2])


def _join(runs: Iterable[Run], capacity: int) -> list[Range]:
    """Ascending runs of grains as byte ranges: those that touch are one, and the last is cut at the disk's end."""
    joined: list[Run] = []
    for first, end in runs:
        if joined and joined[-1][1] == first:
            joined[-1] = joined[-1][0], end
        else:
            joined.append((first, end))
    return [(first * GRAIN, min(end * GRAIN, capacity) - first * GRAIN) for first, end in joined]
