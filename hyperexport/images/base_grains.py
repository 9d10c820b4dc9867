"""What a base export's disk has in each grain, compared with a stream that passes: by tags, or by its own bytes."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

from hyperexport.base.units import SECTOR
from hyperexport.errors import ExportNotFound, StoreUnreachable, StoreUnusable, VerificationFailed
from hyperexport.formats.grain_records import GrainRecord
from hyperexport.formats.grain_tags import ChainTags, is_zero
from hyperexport.formats.vmdk import GRAIN, GRAIN_SECTORS, Header
from hyperexport.formats.vmdk_image import inflate_grain
from hyperexport.images.disk import Disk
from hyperexport.images.layer import Layer, naming
from hyperexport.images.stream import StoredGrain

UNUSABLE: Final = (VerificationFailed, ExportNotFound, StoreUnusable, StoreUnreachable)
"""Errors of reading the base for which the disk is kept whole instead."""


class BaseUnusable(Exception):
    """The base cannot be built on: it is damaged, gone, or of another form. No error that a user sees."""


class BaseGrains(Protocol):
    """The grains of the base, asked about once each, ascending."""

    def with_data(self, end: int) -> Iterator[int]:
        """The grains before ``end`` that were not asked about yet and are not of zeros.

        Raises:
            BaseUnusable: The base is damaged.
        """
        ...

    def is_equal(self, header: Header, record: GrainRecord) -> bool:
        """Tell whether the base has the same content as a grain of the stream; False may be wrong.

        Raises:
            BaseUnusable: The base is damaged.
            StreamCorrupt: The grain is.
        """
        ...

    def differs(self, number: int, content: bytes) -> bool:
        """Tell for certain whether the base has another content in a grain than the one given.

        Raises:
            BaseUnusable: The base is damaged.
        """
        ...

    def finish(self) -> None:
        """Every grain was asked about.

        Raises:
            BaseUnusable: The base is damaged.
        """
        ...


class ReadGrains:
    """The base's own bytes, read from beginning to end beside the stream.

    Nothing of the base counts before :meth:`finish` returns: its files' SHA-256 is compared at the end of each.

    Args:
        grains: Its visible grains, as :meth:`hyperexport.images.stream.StreamedDisk.ascending` reads them.
        capacity: Bytes of the disk.
    """

    def __init__(self, grains: Iterator[tuple[Layer, StoredGrain]], capacity: int) -> None:
        self._grains = grains
        self._capacity = capacity
        self._begun = False
        self._held: tuple[Layer, StoredGrain] | None = None

    def with_data(self, end: int) -> Iterator[int]:
        """See :class:`BaseGrains`."""
        while (held := self._now()) is not None and held[1].number < end:
            number = held[1].number
            if any(self._content(*held)[: self._capacity - number * GRAIN]):
                yield number
            self._advance()

    def is_equal(self, header: Header, record: GrainRecord) -> bool:
        """See :class:`BaseGrains`; False is certain."""
        number, held = record.lba // GRAIN_SECTORS, self._now()
        if held is None or held[1].number != number:
            return is_zero(header, *record)
        equal = bytes(held[1].compressed) == bytes(record.compressed)
        if not equal:
            equal = same_content(self._capacity, number, inflate_grain(header, *record), self._content(*held))
        self._advance()
        return equal

    def differs(self, number: int, content: bytes) -> bool:
        """Each grain was compared by its content already."""
        del number, content
        return True

    def finish(self) -> None:
        """See :class:`BaseGrains`; only now the base is proved."""
        if self._now() is not None:
            raise BaseUnusable("the base has grains beyond the disk's end")

    def _now(self) -> tuple[Layer, StoredGrain] | None:
        if not self._begun:
            self._begun = True
            self._advance()
        return self._held

    def _advance(self) -> None:
        try:
            self._held = next(self._grains, None)
        except UNUSABLE as error:
            raise BaseUnusable(error.what) from error

    def _content(self, layer: Layer, grain: StoredGrain) -> bytes:
        try:
            return inflated(layer, grain)
        except VerificationFailed as error:
            raise BaseUnusable(error.what) from error


class TaggedGrains:
    """The tags of the base's grains: nothing of the base itself is read, but for single grains that have to be certain.

    The tags are verified when they are read. They describe the base's files as they were written; a caller that builds
    on those files must verify that they have not changed since.

    Args:
        tags: What the tags of its files say.
        open_base: Opens the base to be read in ranges; called once, and only where a grain has to be looked at.
    """

    def __init__(self, tags: ChainTags, open_base: Callable[[], Disk]) -> None:
        self._tags = tags
        self._open = open_base
        self._base: Disk | None = None
        self._next = 0

    def with_data(self, end: int) -> Iterator[int]:
        """See :class:`BaseGrains`."""
        begin, self._next = self._next, end
        return self._tags.with_data(begin, end)

    def is_equal(self, header: Header, record: GrainRecord) -> bool:
        """See :class:`BaseGrains`."""
        number = record.lba // GRAIN_SECTORS
        self._next = number + 1
        if self._tags.is_equal(number, record.compressed):
            return True
        return self._tags.is_zero(number) and is_zero(header, *record)

    def differs(self, number: int, content: bytes) -> bool:
        """See :class:`BaseGrains`; reads one grain of the base."""
        try:
            if self._base is None:
                self._base = self._open()
            stored = self._base.read(number * GRAIN, GRAIN)
        except UNUSABLE as error:
            raise BaseUnusable(error.what) from error
        return not same_content(self._base.capacity, number, content, stored)

    def finish(self) -> None:
        """See :class:`BaseGrains`."""


class TrackedAreas:
    """What change tracking says may have changed since the base.

    Args:
        areas: Offset and length of each, in bytes, ascending and apart.
    """

    def __init__(self, areas: Sequence[tuple[int, int]]) -> None:
        self._areas = areas
        self._at = 0

    def touches(self, number: int) -> bool:
        """Tell whether any part of a grain may have changed; to be asked in ascending order."""
        while self._at < len(self._areas) and sum(self._areas[self._at]) <= number * GRAIN:
            self._at += 1
        return self._at < len(self._areas) and self._areas[self._at][0] < (number + 1) * GRAIN


def same_content(capacity: int, number: int, one: bytes, other: bytes) -> bool:
    """Compare what the guest sees of two contents of a grain; what one of them lacks at its end is zero."""
    length = min(GRAIN, capacity - number * GRAIN)
    return one[:length].ljust(length, b"\0") == other[:length].ljust(length, b"\0")


def inflated(layer: Layer, grain: StoredGrain) -> bytes:
    """The content of a stored grain.

    Raises:
        VerificationFailed: It is damaged.
    """
    with naming(layer.where):
        place = grain.number * layer.header.grain, grain.sector * SECTOR
        return inflate_grain(layer.header, *place, grain.compressed)
