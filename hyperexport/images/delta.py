"""Makes a delta out of a disk's whole stream while it passes: the grains that differ from those of its base.

Every grain of the stream is compared with the base's, whatever change tracking says, so nothing that changed can be
left out; and a grain that differs where change tracking says that nothing changed proves change tracking wrong. Grains
are kept as they came, without recompressing them. A grain that the base holds and the stream does not is zero now, and
becomes an explicit grain of zeros.
"""

import zlib
from collections.abc import Callable, Iterator
from typing import Final

from hyperexport.formats.grain_records import GrainRecord, GrainRecords
from hyperexport.formats.grain_tags import TINY
from hyperexport.formats.vmdk import GRAIN, GRAIN_SECTORS, Header, Parent, corrupt
from hyperexport.formats.vmdk_image import inflate_grain
from hyperexport.formats.vmdk_writer import ZERO_GRAIN, StreamWriter
from hyperexport.images.base_grains import UNUSABLE, BaseGrains, BaseUnusable, TrackedAreas, inflated
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


def whole_stream(base: Iterator[tuple[Layer, StoredGrain]], writer: StreamWriter) -> Iterator[bytes]:
    """The base as one whole streamOptimized VMDK: its grains' zlib streams as they are stored, without those of zeros.

    Not a byte of it counts before the iteration has ended without an error.

    Raises:
        BaseUnusable: The base is damaged, or cannot be read.
    """
    yield writer.header()
    try:
        for layer, grain in base:
            if len(grain.compressed) <= TINY and not any(inflated(layer, grain)):
                continue
            yield writer.precompressed(grain.number * GRAIN_SECTORS, bytes(grain.compressed))
    except UNUSABLE as error:
        raise BaseUnusable(error.what) from error
    yield writer.finish()
