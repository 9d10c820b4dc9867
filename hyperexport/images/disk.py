"""A disk as the guest saw it: the overlay of the grain tables of its files, with a bounded cache of inflated grains."""

import os
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple, Self

from hyperexport.base.units import KIB, MIB, SECTOR
from hyperexport.errors import VerificationFailed
from hyperexport.formats.vmdk import TABLE_ENTRIES
from hyperexport.images.cache import SharedCache
from hyperexport.images.layer import NOTHING, ZERO, Layer
from hyperexport.images.verified import VerifiedFile

CACHED_BYTES: Final = 64 * MIB
"""Inflated grains that a disk keeps; what one NBD client or filesystem goes back to lies well within it."""
_CACHED_TABLES: Final = 4096
"""Each is 2.5 KiB and covers 32 MiB of the disk: 128 GiB in 10 MiB of memory."""
_GAP: Final = 128 * KIB
"""Grains of one file that are no further apart are fetched together."""


class Extent(NamedTuple):
    """A stretch of the guest's disk that is either data or known to be zero."""

    offset: int
    length: int
    data: bool


class Place(NamedTuple):
    """Where a grain is stored: in which layer (0 is the base), and at which sector of its file.

    ``until`` is the sector at which the layer's next grain begins, where that is known, else 0.
    """

    layer: int
    sector: int
    until: int = 0


class _Table(NamedTuple):
    """32 MiB of the overlay: each grain's sector, and the layer that it is in."""

    sectors: "array[int]"
    layers: bytes | bytearray


_EMPTY: Final = _Table(array("I", bytes(4 * TABLE_ENTRIES)), bytes(TABLE_ENTRIES))


class Disk:
    """A disk that can be read at any place, by several threads at once; a context manager.

    Args:
        layers: Its files, the base first and the newest delta last.
        files: The same files where they are read in ranges, to fetch neighbours together.

    Raises:
        VerificationFailed: Their grains differ in size, so they are no stack.
    """

    def __init__(self, layers: Sequence[Layer], files: Sequence[VerifiedFile] = ()) -> None:
        self.layers: Final = tuple(layers)
        newest = layers[-1].header
        for layer in layers:
            if layer.header.grain != newest.grain:
                raise VerificationFailed(
                    f"{layer.where} has grains of {layer.header.grain_bytes} bytes, {layers[-1].where} of "
                    f"{newest.grain_bytes}: it cannot be its base"
                )
            if layer.header.capacity != newest.capacity:
                raise VerificationFailed(
                    f"{layer.where} is a disk of {layer.header.capacity_bytes} bytes, {layers[-1].where} of "
                    f"{newest.capacity_bytes}: it cannot be its base"
                )
        self.capacity: Final = newest.capacity_bytes
        """Bytes that the guest sees."""
        self.grain: Final = newest.grain_bytes
        self._files = tuple(files)
        self._tables = SharedCache[_Table](_CACHED_TABLES)
        self._grains = SharedCache[bytes](max(CACHED_BYTES // self.grain, 1))
        self._last: tuple[int, _Table] = (-1, _EMPTY)
        self._zero = memoryview(bytes(self.grain))
        self._workers = os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="inflate")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads that inflate."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(self, offset: int, length: int) -> bytes:
        """Read bytes as the guest would; fewer only at the disk's end.

        Raises:
            VerificationFailed: A byte on the way is not the one that was exported; the message has file and offset.
            StoreUnusable, StoreUnreachable: The store did not give them.
        """
        buffers = self.buffers(offset, length)
        return bytes(buffers[0]) if len(buffers) == 1 else b"".join(buffers)

    def buffers(self, offset: int, length: int) -> list[memoryview]:
        """As :meth:`read`, without joining what lies in several grains."""
        end = min(offset + length, self.capacity)
        if offset < 0 or offset >= end:
            return []
        first, last = offset // self.grain, (end - 1) // self.grain
        found: list[memoryview] = []
        step = max(self._most_at_once, 1)
        for begin in range(first, last + 1, step):
            numbers = range(begin, min(begin + step, last + 1))
            found += (self._zero if grain is None else memoryview(grain) for grain in self._contents(numbers))
        found[-1] = found[-1][: end - last * self.grain]
        found[0] = found[0][offset - first * self.grain :]
        return found

    @property
    def _most_at_once(self) -> int:
        return CACHED_BYTES // self.grain // 4

    def _contents(self, numbers: Sequence[int]) -> list[bytes | None]:
        held = [number for number in numbers if self._sector(number) > ZERO]

        def load(missing: Sequence[int]) -> list[bytes]:
            return self._inflate([(number, place) for number in missing if (place := self.place(number))])

        stored = iter(self._grains.get(held, load))
        if len(held) == len(numbers):
            return list(stored)
        there = set(held)
        return [next(stored) if number in there else None for number in numbers]

    def _inflate(self, grains: Sequence[tuple[int, Place]]) -> list[bytes]:
        if len(grains) == 1:
            return self._inflate_some(grains)
        self._warm(grains)
        share = -(-len(grains) // self._workers)
        parts = [grains[at : at + share] for at in range(0, len(grains), share)]
        return [content for part in self._pool.map(self._inflate_some, parts) for content in part]

    def _inflate_some(self, grains: Sequence[tuple[int, Place]]) -> list[bytes]:
        return [self.layers[layer].content(number, sector, until) for number, (layer, sector, until) in grains]

    def _warm(self, grains: Sequence[tuple[int, Place]]) -> None:
        """Fetch grains that lie together in one request, not one for each."""
        for index, file in enumerate(self._files):
            offsets = sorted(place.sector * SECTOR for _, place in grains if place.layer == index)
            begin = 0
            for at in range(1, len(offsets) + 1):
                if at == len(offsets) or offsets[at] - offsets[at - 1] > _GAP:
                    file.warm(offsets[begin], offsets[at - 1] - offsets[begin] + 1)
                    begin = at

    # -- the overlay --------------------------------------------------------------------------------------------------

    def place(self, number: int) -> Place | None:
        """Where the grain with this number is stored; None where it is zero."""
        return _place(self._table(number // TABLE_ENTRIES), number % TABLE_ENTRIES)

    def content_in(self, layer: int, number: int) -> bytes | None:
        """The content of a grain as one of the files has it, without a look at the others; None where it holds none.

        Args:
            layer: The file's place in the chain; 0 is the base.
            number: The grain.

        Raises:
            VerificationFailed: It is damaged.
        """
        table = self.layers[layer].table(number // TABLE_ENTRIES)
        sector = table[number % TABLE_ENTRIES] if table else NOTHING
        if sector <= ZERO:
            return None
        return self.layers[layer].content(number, sector)[: self.capacity - number * self.grain]

    def places(self) -> Iterator[tuple[int, Place]]:
        """Every grain that holds anything, ascending by number, with its place."""
        for index in range(self.layers[-1].tables):
            table = self._table(index)
            for entry in range(TABLE_ENTRIES):
                if place := _place(table, entry):
                    yield index * TABLE_ENTRIES + entry, place

    def compressed(self, number: int, place: Place) -> bytes:
        """The zlib stream of a grain, as it is stored.

        Raises:
            VerificationFailed: It is damaged.
        """
        return self.layers[place.layer].compressed(number, place.sector, place.until)

    def extents(self, offset: int = 0, length: int | None = None) -> Iterator[Extent]:
        """The stretch as alternating extents of data and zeros, ascending, without a gap.

        Args:
            offset: Where it begins, in bytes.
            length: Bytes of it; to the disk's end if None.
        """
        end = self.capacity if length is None else min(offset + length, self.capacity)
        begin, data = offset, None
        at = offset
        while at < end:
            number = at // self.grain
            table = self._table(number // TABLE_ENTRIES)
            entry = number % TABLE_ENTRIES
            if table is _EMPTY:
                found, at_next = False, (number - entry + TABLE_ENTRIES) * self.grain
            else:
                found, at_next = table.sectors[entry] > ZERO, (number + 1) * self.grain
            if data is not None and found != data:
                yield Extent(begin, at - begin, data)
                begin = at
            data, at = found, at_next
        if data is not None:
            yield Extent(begin, end - begin, data)

    def _sector(self, number: int) -> int:
        return self._table(number // TABLE_ENTRIES).sectors[number % TABLE_ENTRIES]

    def _table(self, index: int) -> _Table:
        last, table = self._last
        if last == index:
            return table
        table = self._tables.peek(index) or self._tables.get((index,), self._merge)[0]
        self._last = index, table
        return table

    def _merge(self, indexes: Sequence[int]) -> list[_Table]:
        return [self._merged(index) for index in indexes]

    def _merged(self, index: int) -> _Table:
        merged: array[int] | None = None
        layers = bytearray()
        for number, layer in enumerate(self.layers):
            table = layer.table(index)
            if table is None:
                continue
            if merged is None:
                merged, layers = table, bytearray([number]) * TABLE_ENTRIES
                continue
            for entry, sector in enumerate(table):
                if sector != NOTHING:
                    merged[entry], layers[entry] = sector, number
        return _EMPTY if merged is None or not any(merged) else _Table(merged, layers)


def _place(table: _Table, entry: int) -> Place | None:
    sector = table.sectors[entry]
    if sector <= ZERO:
        return None
    layer = table.layers[entry]
    following = entry + 1
    known = following < TABLE_ENTRIES and table.layers[following] == layer
    return Place(layer, sector, table.sectors[following] if known else 0)
