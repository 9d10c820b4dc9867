"""A short check for every grain in a disk's file, so that a stream can be compared with the file without reading it.

A tag is the AES-GMAC of a grain's *compressed* bytes under a key of its file, as for a file's blocks
(:mod:`hyperexport.formats.block_tags`, which says what it costs and what it proves). Equal compressed bytes are equal
content, so an equal tag proves a grain unchanged. Another tag proves nothing: the same content can be compressed
differently. To tag the content itself, every grain would have to be inflated while it is exported, which costs three
times what everything else on the way does; a host compresses the same grain the same way each night.

A grain that is all zeros has a tag of zeros, as one that no file holds: for the guest they are the same.
"""

import mmap
import re
import secrets
import struct
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hyperexport.errors import StreamCorrupt
from hyperexport.formats.deflate import NotInflated, compress, inflate
from hyperexport.formats.grain_records import GrainRecords
from hyperexport.formats.vmdk import GRAIN, GRAIN_SECTORS, LARGEST_CAPACITY, Header
from hyperexport.formats.vmdk_image import inflate_grain

TAG: Final = 16
TINY: Final = 512
"""Bytes of a compressed grain that may be one of zeros."""
ZERO: Final = bytes(TAG)
"""The tag of a grain of zeros."""
_KEY: Final = 16
# magic | bytes of a grain, bytes of a tag | bytes of the file, of the guest's disk | the key | bytes of the map
_HEAD: Final = struct.Struct(f"<8s II QQ {_KEY}s I")
_MAGIC: Final = b"HXGRAIN\x01"
_SET: Final = re.compile(rb"[^\0]")
_DOMAIN: Final = 1 << 64
"""Keeps a grain's nonce apart from a block's, should a key ever be used for both."""


def most_bytes(capacity: int) -> int:
    """Bytes that the tags of a file of such a disk take at most when they are stored."""
    grains = _grains(capacity)
    return _HEAD.size + 2 * _map_bytes(grains) + 1024 + grains * TAG


def is_zero(header: Header, lba: int, offset: int, compressed: memoryview | bytes) -> bool:
    """Tell whether a grain is one of zeros, looking only at those that can be.

    Raises:
        StreamCorrupt: It does not inflate.
    """
    return len(compressed) <= TINY and not any(inflate_grain(header, lba, offset, compressed))


class GrainTags:
    """The tags of one file's grains; made by :class:`GrainTagger` or :meth:`unpack`. Immutable."""

    def __init__(self, key: bytes, size: int, capacity: int, held: bytes, tags: bytes) -> None:
        self.size: Final = size
        """Bytes of the file."""
        self.capacity: Final = capacity
        """Bytes of the guest's disk."""
        self._key = key
        self._held = held
        self._tags = tags
        self._cipher = AESGCM(key)

    def numbers(self) -> Iterator[int]:
        """The grains that the file holds, ascending."""
        for found in _SET.finditer(self._held):
            at, bits = found.start(), self._held[found.start()]
            yield from (at * 8 + bit for bit in range(8) if bits >> bit & 1)

    def holds(self, number: int) -> bool:
        """Tell whether the file holds a grain."""
        return bool(self._held[number >> 3] >> (number & 7) & 1)

    def items(self) -> Iterator[tuple[int, bytes]]:
        """Each of these grains with its tag."""
        for at, number in enumerate(self.numbers()):
            yield number, self._tags[at * TAG : (at + 1) * TAG]

    @cached_property
    def zeros(self) -> frozenset[int]:
        """The grains that it holds as zeros: those that were something in the file that it builds on."""
        return frozenset(number for number, tag in self.items() if tag == ZERO) if ZERO in self._tags else frozenset()

    def tag(self, number: int, compressed: memoryview | bytes) -> bytes:
        """What a grain that is not of zeros has as its tag in this file."""
        return self._cipher.encrypt((_DOMAIN | number).to_bytes(12, "big"), b"", compressed)

    def wrong_grain(self, other: "GrainTags") -> int | None:
        """The first grain of which ``other``, made with the same key, has another tag; None where there is none."""
        one, two = dict(self.items()), dict(other.items())
        return min((n for n in one.keys() | two.keys() if one.get(n) != two.get(n)), default=None)

    def tagger(self) -> "GrainTagger":
        """A tagger with the same key: what it makes of the same bytes are these tags."""
        return GrainTagger(self._key)

    def pack(self) -> bytes:
        """The tags as they are stored."""
        held = compress(self._held)
        return _HEAD.pack(_MAGIC, GRAIN, TAG, self.size, self.capacity, self._key, len(held)) + held + self._tags

    @classmethod
    def unpack(cls, data: bytes) -> "GrainTags":
        """Read stored tags.

        Raises:
            StreamCorrupt: They are not tags, or not whole.
        """
        if len(data) < _HEAD.size:
            raise _corrupt("it is too short")
        magic, grain, tag, size, capacity, key, length = _HEAD.unpack_from(data)
        if (magic, grain, tag) != (_MAGIC, GRAIN, TAG) or capacity > LARGEST_CAPACITY:
            raise _corrupt("its header is not one that this version writes")
        grains = _grains(capacity)
        try:
            held = inflate(data[_HEAD.size : _HEAD.size + length], _map_bytes(grains))
        except NotInflated:
            raise _corrupt("its map of grains does not inflate") from None
        if len(held) != _map_bytes(grains) or (grains % 8 and held[-1] >> grains % 8):
            raise _corrupt("its map of grains is not one of the disk")
        tags = data[_HEAD.size + length :]
        if len(tags) != int.from_bytes(held, "little").bit_count() * TAG:
            raise _corrupt("it does not have a tag for each grain")
        return cls(key, size, capacity, held, tags)


class GrainTagger:
    """Takes the bytes of one VMDK in order, in pieces of any length, as a sink does; gives the tags of its grains.

    Args:
        key: Of 16 bytes; a random one if None, as every file must have to be stored.
    """

    def __init__(self, key: bytes | None = None) -> None:
        self._key = key or secrets.token_bytes(_KEY)
        self._cipher = AESGCM(self._key)
        self._records = GrainRecords()
        self._held = bytearray()
        self._tags = bytearray()
        self._size = 0

    def write(self, data: memoryview | bytes) -> None:
        """Tag the grains in the next bytes of the file."""
        self._size += len(data)
        for lba, offset, compressed in self._records.take(data):
            header = self._records.header
            if header is None or header.grain_bytes != GRAIN:
                continue
            if not self._held:
                self._held = bytearray(_map_bytes(header.grains))
            number = lba // GRAIN_SECTORS
            self._held[number >> 3] |= 1 << (number & 7)
            if len(compressed) <= TINY and _is_zero(header, lba, offset, compressed):
                self._tags += ZERO
            else:
                self._tags += self._cipher.encrypt((_DOMAIN | number).to_bytes(12, "big"), b"", compressed)

    def finish(self) -> GrainTags | None:
        """The tags of everything that was written; None for a file whose grains are not of 64 KiB."""
        header = self._records.header
        if header is None or header.grain_bytes != GRAIN:
            return None
        held = self._held or bytes(_map_bytes(header.grains))
        return GrainTags(self._key, self._size, header.capacity_bytes, bytes(held), bytes(self._tags))


def holder(layers: Sequence[GrainTags], number: int) -> int | None:
    """The newest file of a chain that holds a grain, by its place in the chain; None where none does.

    Args:
        layers: The tags of each file, the base first.
        number: The grain.
    """
    return next((at for at in range(len(layers) - 1, -1, -1) if layers[at].holds(number)), None)


class ChainTags:
    """What the tags of a chain's files say of each grain of the disk: the newest file that holds it decides.

    Takes 17 bytes of memory for each 64 KiB of the disk that any of the files holds: 272 MiB for a full disk of 1 TiB.

    Args:
        layers: The tags of each file, the base first.
    """

    def __init__(self, layers: Sequence[GrainTags]) -> None:
        self.capacity: Final = layers[-1].capacity
        self._layers = layers
        grains = _grains(self.capacity)
        # Mapped memory takes room only where something is written to it.
        self._owner, self._tags = mmap.mmap(-1, grains), mmap.mmap(-1, grains * TAG)
        for index, layer in enumerate(layers, 1):
            for number, tag in layer.items():
                self._owner[number] = index
                self._tags[number * TAG : (number + 1) * TAG] = tag

    def is_zero(self, number: int) -> bool:
        """Tell whether the guest has only zeros there."""
        return self._tag(number) == ZERO

    def is_equal(self, number: int, compressed: memoryview | bytes) -> bool:
        """Tell whether the disk has that grain, compressed in the same way; False proves nothing."""
        owner = self._owner[number]
        return owner > 0 and self._layers[owner - 1].tag(number, compressed) == self._tag(number)

    def with_data(self, begin: int, end: int) -> Iterator[int]:
        """The grains from ``begin`` up to but without ``end`` that are not of zeros, ascending."""
        for found in _SET.finditer(self._owner, begin, end):
            if not self.is_zero(found.start()):
                yield found.start()

    def _tag(self, number: int) -> bytes:
        return self._tags[number * TAG : (number + 1) * TAG]


def _is_zero(header: Header, lba: int, offset: int, compressed: memoryview) -> bool:
    try:
        return is_zero(header, lba, offset, compressed)
    except StreamCorrupt:
        return False  # found where the disk is read back; its tag is that of its bytes, as of any other grain


def _grains(capacity: int) -> int:
    return -(-capacity // GRAIN)


def _map_bytes(grains: int) -> int:
    return -(-grains // 8)


def _corrupt(problem: str) -> StreamCorrupt:
    return StreamCorrupt(f"the grain tags are damaged: {problem}", fix="Verify the export with --verify=deep")
