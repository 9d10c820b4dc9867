"""A stored VMDK read once from beginning to end: every grain on the way, and the file proved at the end."""

import hashlib
import heapq
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from hyperexport.base.stop import StopSignal
from hyperexport.base.units import KIB, MIB, SECTOR
from hyperexport.formats.vmdk import GRAIN_HEADER, MARKER, MARKER_END, corrupt
from hyperexport.formats.vmdk_stream import StreamCheck
from hyperexport.images.disk import Disk
from hyperexport.images.layer import Layer, naming
from hyperexport.images.verified import wrong_sha256
from hyperexport.model.manifest import FileEntry
from hyperexport.store.base import RangeReader

_CHUNK: Final = MIB
_LEAST_CHUNK: Final = 128 * KIB


class StoredGrain(NamedTuple):
    """One grain as it stands in its file."""

    number: int
    sector: int
    """Where its record begins in the file."""
    compressed: memoryview
    """Its zlib stream; not to be kept, because it holds the whole chunk in memory."""


class StreamedPart(NamedTuple):
    """One file of a disk that is read from beginning to end."""

    layer: Layer
    reader: RangeReader
    entry: FileEntry


class StreamedDisk:
    """A disk whose files are read once each, in the order in which they are stored.

    Args:
        disk: The overlay of their tables.
        parts: The files, the base first.
        stop: Ends the reading.
    """

    def __init__(self, disk: Disk, parts: Sequence[StreamedPart], stop: StopSignal) -> None:
        self.disk: Final = disk
        self.size: Final = sum(part.entry.size for part in parts)
        """Stored bytes that will be read."""
        self._parts = parts
        self._stop = stop

    def grains(self, progress: Callable[[int], None] | None = None) -> Iterator[tuple[Layer, list[StoredGrain]]]:
        """The guest's grains, a stretch of a file at a time, each grain once; see :func:`stored_grains` for the proof.

        Args:
            progress: Told how many stored bytes were read so far.

        Raises:
            VerificationFailed: A file is damaged; the message names it and the offset.
        """
        before = 0

        def watch(position: int) -> None:
            if progress is not None:
                progress(before + position)

        for index, (layer, reader, entry) in enumerate(self._parts):
            for grains in stored_grains(layer, reader, entry, stop=self._stop, progress=watch):
                yield layer, [grain for grain in grains if self._is_visible(index, grain)]
            before += entry.size

    def ascending(self, progress: Callable[[int], None] | None = None) -> Iterator[tuple[Layer, StoredGrain]]:
        """The guest's grains by their place on the disk, with all files read side by side; else as :meth:`grains`."""
        done = [0] * len(self._parts)

        def flat(index: int, part: StreamedPart) -> Iterator[tuple[int, int, StoredGrain]]:
            def watch(position: int) -> None:
                done[index] = position
                if progress is not None:
                    progress(sum(done))

            layer, reader, entry = part
            chunk = max(_CHUNK // len(self._parts), _LEAST_CHUNK)
            for grains in stored_grains(layer, reader, entry, stop=self._stop, progress=watch, chunk=chunk):
                for grain in grains:
                    if self._is_visible(index, grain):
                        yield grain.number, index, grain

        streams = [flat(index, part) for index, part in enumerate(self._parts)]
        for _, index, grain in heapq.merge(*streams, key=lambda one: one[0]):
            yield self._parts[index].layer, grain

    def _is_visible(self, layer: int, grain: StoredGrain) -> bool:
        place = self.disk.place(grain.number)
        return place is not None and (place.layer, place.sector) == (layer, grain.sector)


def stored_grains(
    layer: Layer,
    reader: RangeReader,
    entry: FileEntry,
    *,
    stop: StopSignal,
    progress: Callable[[int], None] | None = None,
    chunk: int = _CHUNK,
) -> Iterator[list[StoredGrain]]:
    """Read a disk's file from beginning to end; the grains of each stretch as they come, ascending.

    Nothing of it counts before the iteration has ended without an error: only then is the SHA-256 of the whole file
    known to be the manifest's, its structure sound, and its directory found to name exactly the grains that came.

    Args:
        layer: The file's tables.
        reader: The file.
        entry: What the manifest says of it.
        stop: Ends the reading.
        progress: Told after each stretch how many bytes were read.
        chunk: Bytes of a stretch.

    Raises:
        VerificationFailed: It is damaged; the message names file and offset.
    """
    with naming(layer.where):
        yield from _Reading(layer, entry).grains(_watched(reader.chunks(chunk), stop, progress))


def _watched(chunks: Iterator[bytes], stop: StopSignal, progress: Callable[[int], None] | None) -> Iterator[bytes]:
    position = 0
    for chunk in chunks:
        stop.check()
        yield chunk
        position += len(chunk)
        if progress is not None:
            progress(position)


class _Reading:
    """One pass over one file."""

    def __init__(self, layer: Layer, entry: FileEntry) -> None:
        self._layer = layer
        self._entry = entry
        self._check = StreamCheck(capacity=layer.header.capacity_bytes)
        self._named = layer.entries()
        self._next = layer.header.overhead * SECTOR
        """Where the next record begins."""
        self._rest = b""
        self._ended = False

    def grains(self, chunks: Iterator[bytes]) -> Iterator[list[StoredGrain]]:
        digest = hashlib.sha256()
        size = 0
        for chunk in chunks:
            digest.update(chunk)
            self._check.feed(chunk)
            begin = size - len(self._rest)
            size += len(chunk)
            data = self._rest + chunk if self._rest else chunk
            found, used = self._records(memoryview(data), begin)
            self._rest = data[used:]
            if found:
                yield found
        self._check.finish()
        if (left := next(self._named, None)) is not None:
            raise corrupt(left[1] * SECTOR, f"grain {left[0]} of the disk is not where its directory says")
        if size != self._entry.size:
            raise corrupt(min(size, self._entry.size), f"it has {size} bytes, the manifest says {self._entry.size}")
        if digest.hexdigest() != self._entry.sha256:
            raise wrong_sha256(self._layer.where)

    def _records(self, data: memoryview, begin: int) -> tuple[list[StoredGrain], int]:
        """The whole records in a stretch that begins at that byte of the file; and how much of it they took."""
        found: list[StoredGrain] = []
        while not self._ended and (at := self._next - begin) + SECTOR <= len(data):
            lba, size = GRAIN_HEADER.unpack_from(data, at)
            if not size:
                length, _, kind = MARKER.unpack_from(data, at)
                self._ended = kind == MARKER_END
                self._next += (1 + length) * SECTOR
                continue
            if at + GRAIN_HEADER.size + size > len(data):
                return found, at
            sector = self._next // SECTOR
            number = lba // self._layer.header.grain
            if next(self._named, None) != (number, sector):
                raise corrupt(self._next, f"the grain for sector {lba} of the disk is not the one of its directory")
            start = at + GRAIN_HEADER.size
            found.append(StoredGrain(number, sector, data[start : start + size]))
            self._next += -(-(GRAIN_HEADER.size + size) // SECTOR) * SECTOR
        return found, min(max(self._next - begin, 0), len(data)) if not self._ended else len(data)
