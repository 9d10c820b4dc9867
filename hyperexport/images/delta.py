"""Makes a delta out of a disk's whole stream while it passes: the grains that differ from those of its base.

Every grain of the stream is compared with the base's, whatever change tracking says, so nothing that changed can be
left out. Grains are kept as they came, without recompressing them. A grain that the base holds and the stream does
not is zero now, and becomes an explicit grain of zeros.

Nothing of the base counts before it is proved: its files are read from beginning to end beside the stream, and their
SHA-256 is compared at the end of each. Until :meth:`DeltaWriter.finish` returns, no byte that was written counts.
"""

import zlib
from collections.abc import Callable, Iterator
from typing import Final

from hyperexport.base.units import SECTOR
from hyperexport.errors import ExportNotFound, StoreUnreachable, StoreUnusable, VerificationFailed
from hyperexport.formats.vmdk import GRAIN, GRAIN_HEADER, MARKER, MARKER_END, Header, Parent, corrupt
from hyperexport.formats.vmdk_image import inflate_grain
from hyperexport.formats.vmdk_writer import ZERO_GRAIN, StreamWriter
from hyperexport.images.layer import Layer, naming
from hyperexport.images.stream import StoredGrain

_ZEROS: Final = zlib.compress(ZERO_GRAIN, 9)
_TINY: Final = 512
"""Bytes of a compressed grain that may be one of zeros."""

BaseGrains = Iterator[tuple[Layer, StoredGrain]]
"""The visible grains of the base, ascending, as :meth:`hyperexport.images.stream.StreamedDisk.ascending` reads them."""


class BaseUnusable(Exception):
    """The base cannot be built on: it is damaged, gone, or of another form. No error that a user sees."""


class DeltaWriter:
    """Takes the bytes of a whole disk's stream in order, as a sink does, and hands out those of the delta.

    The stream must have been checked before (:class:`hyperexport.formats.vmdk_stream.StreamCheck`).

    Args:
        base: The base's grains, each of 64 KiB.
        capacity: Bytes that the guest sees.
        out: Takes the delta's bytes.
        name: The delta's file name, for its descriptor.
        content_id: Its CID.
        parent: The base, as the delta's descriptor names it.
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
    ) -> None:
        self.changed = 0
        """Grains that the delta holds so far."""
        self._base = base
        self._out = out
        self._capacity = capacity
        self._writer = StreamWriter(capacity, name=name, content_id=content_id, parent=parent)
        self._held: tuple[Layer, StoredGrain] | None = None
        self._header: Header | None = None
        self._ended = False
        self._rest = b""
        self._seen = 0
        """Bytes of the stream before ``_rest``."""
        self._next = 0
        """Where the stream's next record begins."""

    def write(self, data: memoryview) -> None:
        """Take the next bytes of the stream.

        Raises:
            BaseUnusable: The base is damaged, or the stream's grains are not of 64 KiB.
            StreamCorrupt: The stream is damaged.
        """
        view = memoryview(self._rest + data) if self._rest else memoryview(data)
        used = self._records(view)
        self._rest = bytes(view[used:])
        self._seen += used

    def finish(self) -> None:
        """End the delta, once the stream was whole; the base is then proved.

        Raises:
            BaseUnusable: The base is damaged.
        """
        if self._header is None:
            raise corrupt(self._seen, "the stream ended before the VMDK's header")
        self._without_grains_until(-(-self._capacity // GRAIN))
        if self._held is not None:
            raise BaseUnusable("the base has grains beyond the disk's end")
        self._out(self._writer.finish())

    # -- the stream ---------------------------------------------------------------------------------------------------

    def _records(self, view: memoryview) -> int:
        """Go through the whole records of a stretch; returns how many bytes of it were used."""
        if self._header is None:
            if len(view) < SECTOR:
                return 0
            self._begin(bytes(view[:SECTOR]))
        at = self._next - self._seen
        while not self._ended and at + SECTOR <= len(view):
            lba, size = GRAIN_HEADER.unpack_from(view, at)
            if not size:
                length, _, kind = MARKER.unpack_from(view, at)
                self._ended = kind == MARKER_END
                at += (1 + length) * SECTOR
                continue
            end = at + GRAIN_HEADER.size + size
            if end > len(view):
                break
            self._grain(lba, self._seen + at, view[at + GRAIN_HEADER.size : end])
            at += -(-(GRAIN_HEADER.size + size) // SECTOR) * SECTOR
        self._next = self._seen + at
        return len(view) if self._ended else min(max(at, 0), len(view))

    def _begin(self, sector: bytes) -> None:
        header = Header.parse(sector, 0)
        if header.grain_bytes != GRAIN or header.capacity_bytes != self._capacity:
            raise BaseUnusable(f"the stream's grains have {header.grain_bytes} bytes, and a delta's {GRAIN}")
        self._header = header
        self._next = header.overhead * SECTOR
        self._out(self._writer.header())
        self._advance()

    # -- the comparison -----------------------------------------------------------------------------------------------

    def _grain(self, lba: int, offset: int, compressed: memoryview) -> None:
        assert self._header is not None
        number = lba * SECTOR // GRAIN
        self._without_grains_until(number)
        held = self._held
        if held is None or held[1].number != number:
            if len(compressed) <= _TINY and not any(inflate_grain(self._header, lba, offset, compressed)):
                return
            self._keep(number, bytes(compressed))
            return
        if bytes(held[1].compressed) != bytes(compressed):
            content = inflate_grain(self._header, lba, offset, compressed)
            if not self._equal(number, content, self._content(*held)):
                self._keep(number, bytes(compressed))
        self._advance()

    def _without_grains_until(self, number: int) -> None:
        """The base's grains before that one, which the stream does not have: they are zero now."""
        while self._held is not None and self._held[1].number < number:
            if not self._equal(self._held[1].number, b"", self._content(*self._held)):
                self._keep(self._held[1].number, _ZEROS)
            self._advance()

    def _equal(self, number: int, one: bytes, other: bytes) -> bool:
        """Compare what the guest sees of two contents; what one of them lacks at its end is zero."""
        length = min(GRAIN, self._capacity - number * GRAIN)
        return one[:length].ljust(length, b"\0") == other[:length].ljust(length, b"\0")

    def _keep(self, number: int, compressed: bytes) -> None:
        self.changed += 1
        self._out(self._writer.precompressed(number * (GRAIN // SECTOR), compressed))

    # -- the base -----------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        try:
            self._held = next(self._base, None)
        except UNUSABLE as error:
            raise BaseUnusable(error.what) from error

    def _content(self, layer: Layer, grain: StoredGrain) -> bytes:
        try:
            return _inflated(layer, grain)
        except VerificationFailed as error:
            raise BaseUnusable(error.what) from error


def whole_stream(base: BaseGrains, writer: StreamWriter) -> Iterator[bytes]:
    """The base as one whole streamOptimized VMDK: its grains' zlib streams as they are stored, without those of zeros.

    Not a byte of it counts before the iteration has ended without an error.

    Raises:
        BaseUnusable: The base is damaged, or cannot be read.
    """
    yield writer.header()
    try:
        for layer, grain in base:
            if len(grain.compressed) <= _TINY and not any(_inflated(layer, grain)):
                continue
            yield writer.precompressed(grain.number * (GRAIN // SECTOR), bytes(grain.compressed))
    except UNUSABLE as error:
        raise BaseUnusable(error.what) from error
    yield writer.finish()


def _inflated(layer: Layer, grain: StoredGrain) -> bytes:
    with naming(layer.where):
        place = grain.number * layer.header.grain, grain.sector * SECTOR
        return inflate_grain(layer.header, *place, grain.compressed)


UNUSABLE: Final = (VerificationFailed, ExportNotFound, StoreUnusable, StoreUnreachable)
"""Errors of reading the base for which the disk is kept whole instead."""
