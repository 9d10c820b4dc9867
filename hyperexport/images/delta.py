"""Makes the file of a disk that builds on a base, or is made of one: of its whole stream, or of what changed alone.

:class:`DeltaWriter` makes a delta of the whole stream while it passes: the grains that differ from the base's. Every
grain is compared with the base's, whatever change tracking says, so nothing that changed can be left out; and a grain
that differs where change tracking says that nothing changed proves change tracking wrong. Grains are kept as they came,
without recompressing them. A grain that the base holds and the stream does not is zero now, and becomes an explicit
grain of zeros. Where only the changed grains are read, :func:`delta_stream` makes a delta of them, and
:func:`whole_stream` merges them into the base's own grains.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from hyperexport.formats.grain_records import GrainRecord, GrainRecords
from hyperexport.formats.grain_tags import TINY
from hyperexport.formats.vmdk import GRAIN, GRAIN_SECTORS, Header, Parent, corrupt
from hyperexport.formats.vmdk_image import inflate_grain
from hyperexport.formats.vmdk_writer import ZERO_GRAIN, StreamWriter
from hyperexport.images.base_grains import UNUSABLE, BaseGrains, BaseUnusable, TrackedAreas, inflated
from hyperexport.images.disk import Disk
from hyperexport.images.layer import Layer
from hyperexport.images.stream import StoredGrain

ZERO_STREAM: Final = zlib.compress(ZERO_GRAIN, 9)
"""A compressed grain of zeros."""


class TrackingWrong(Exception):
    """A grain changed that change tracking calls unchanged. No error that a user sees.

    Args:
        number: The grain.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"bytes {number * GRAIN} to {(number + 1) * GRAIN} changed outside of the areas that it names")


class DeltaWriter:
    """Takes the bytes of a whole disk's stream in order, as a sink does, and hands out those of the delta.

    The stream must have been checked before (:class:`hyperexport.formats.vmdk_stream.StreamCheck`). Until
    :meth:`finish` returns, no byte that was handed out counts.

    Args:
        base: What the base has in each grain.
        capacity: Bytes that the guest sees.
        out: Takes the delta's bytes.
        name: The delta's file name, for its descriptor.
        content_id: Its CID.
        parent: The base, as the delta's descriptor names it.
        tracked: What change tracking says may have changed; None where it says nothing.
    """

    def __init__(
        self,
        base: BaseGrains,
        *,
        capacity: int,
        out: Callable[[bytes], object],
        name: str,
        content_id: int,
        parent: Parent,
        tracked: TrackedAreas | None = None,
    ) -> None:
        self.changed = 0
        """Grains that the delta holds so far."""
        self._base = base
        self._out = out
        self._capacity = capacity
        self._tracked = tracked
        self._writer = StreamWriter(capacity, name=name, content_id=content_id, parent=parent)
        self._records = GrainRecords()
        self._begun = False

    def write(self, data: memoryview) -> None:
        """Take the next bytes of the stream.

        Raises:
            BaseUnusable: The base is damaged, or the stream's grains are not of 64 KiB.
            StreamCorrupt: The stream is damaged.
            TrackingWrong: Change tracking left out what changed.
        """
        for record in self._records.take(data):
            self._grain(self._begin(), record)

    def finish(self) -> None:
        """End the delta, once the stream was whole.

        Raises:
            BaseUnusable, TrackingWrong: As for :meth:`write`.
        """
        self._begin()
        self._without_grains_until(-(-self._capacity // GRAIN))
        self._base.finish()
        self._out(self._writer.finish())

    def _begin(self) -> Header:
        header = self._records.header
        if header is None:
            raise corrupt(self._records.seen, "the stream ended before the VMDK's header")
        if not self._begun:
            if header.grain_bytes != GRAIN or header.capacity_bytes != self._capacity:
                raise BaseUnusable(f"the stream's grains have {header.grain_bytes} bytes, and a delta's {GRAIN}")
            self._begun = True
            self._out(self._writer.header())
        return header

    def _grain(self, header: Header, record: GrainRecord) -> None:
        number = record.lba // GRAIN_SECTORS
        self._without_grains_until(number)
        if not self._base.is_equal(header, record) and self._changed(number, lambda: inflate_grain(header, *record)):
            self._keep(number, bytes(record.compressed))

    def _without_grains_until(self, number: int) -> None:
        """The base's grains before that one, which the stream does not have: they are zero now."""
        for missing in self._base.with_data(number):
            if self._changed(missing, lambda: b""):
                self._keep(missing, ZERO_STREAM)

    def _changed(self, number: int, content: Callable[[], bytes]) -> bool:
        """Whether to keep a grain that is not known to be equal."""
        if self._tracked is None or self._tracked.touches(number):
            return True
        if self._base.differs(number, content()):
            raise TrackingWrong(number)
        return False

    def _keep(self, number: int, compressed: bytes) -> None:
        self.changed += 1
        self._out(self._writer.precompressed(number * GRAIN_SECTORS, compressed))


class ChangedGrain(NamedTuple):
    """One grain as the guest has it now; the last one of a disk may be shorter."""

    number: int
    content: bytes

    @property
    def is_zero(self) -> bool:
        """Whether it holds nothing but zeros."""
        return self.content == ZERO_GRAIN[: len(self.content)]


def whole_stream(
    base: Iterator[tuple[Layer, StoredGrain]], writer: StreamWriter, changed: Iterable[ChangedGrain] = ()
) -> Iterator[bytes]:
    """A disk as one whole streamOptimized VMDK: the base's zlib streams as they are stored, and what changed since.

    Grains of zeros are left out. Not a byte of it counts before the iteration has ended without an error.

    Args:
        base: The grains of the base, ascending.
        writer: Writes the file, which has no parent.
        changed: The grains that take the place of the base's, ascending.

    Raises:
        BaseUnusable: The base is damaged, or cannot be read.
    """
    yield writer.header()
    changes = iter(changed)
    change = next(changes, None)
    for grain in _with_content(base):
        while change is not None and change.number < grain.number:
            yield writer.grain(change.number * GRAIN_SECTORS, change.content)
            change = next(changes, None)
        if change is None or change.number != grain.number:
            yield writer.precompressed(grain.number * GRAIN_SECTORS, bytes(grain.compressed))
    while change is not None:
        yield writer.grain(change.number * GRAIN_SECTORS, change.content)
        change = next(changes, None)
    yield writer.finish()


def _with_content(base: Iterator[tuple[Layer, StoredGrain]]) -> Iterator[StoredGrain]:
    """The grains that are not of zeros."""
    try:
        for layer, grain in base:
            if len(grain.compressed) > TINY or any(inflated(layer, grain)):
                yield grain
    except UNUSABLE as error:
        raise BaseUnusable(error.what) from error


def delta_stream(base: Disk, writer: StreamWriter, changed: Iterable[ChangedGrain]) -> Iterator[bytes]:
    """A delta of nothing but what changed: a grain that became zero is an explicit one where the base has data.

    Args:
        base: What it builds on.
        writer: Writes the file, whose parent is the base.
        changed: The grains, ascending.

    Raises:
        BaseUnusable: The base is damaged, or cannot be read.
    """
    yield writer.header()
    for grain in changed:
        if not grain.is_zero:
            yield writer.grain(grain.number * GRAIN_SECTORS, grain.content)
        elif _holds(base, grain.number):
            yield writer.precompressed(grain.number * GRAIN_SECTORS, ZERO_STREAM)
    yield writer.finish()


def _holds(base: Disk, number: int) -> bool:
    try:
        return base.place(number) is not None
    except UNUSABLE as error:
        raise BaseUnusable(error.what) from error
