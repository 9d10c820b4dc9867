"""A short check for every 256 KiB of a file, so that any part of it can be proved without reading the rest.

A tag is the AES-GMAC of a block under a key of its own file: a 128-bit universal hash that the processor computes at
memory speed (19 GB/s where SHA-256 does 1), so an export can leave tags at no cost. The key is random and lies beside
the tags, so a tag finds rot, cuts and mix-ups with a chance of failure of 2^-100 at worst; it is no signature against
somebody who rewrites a store on purpose. That is what the SHA-256 of the whole file in the manifest is for, which the
tags never replace: it is computed wherever a file is read to its end. This module must never know where the tags lie.
"""

import secrets
import struct
from typing import Final

from cryptography.hazmat.primitives.ciphers import AEADEncryptionContext, Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hyperexport.base.units import KIB
from hyperexport.errors import StreamCorrupt

BLOCK: Final = 256 * KIB
"""Bytes that one tag covers. A reader reads at least so much at once; from S3 that takes no longer than 4 KiB would."""
TAG: Final = 16
_KEY: Final = 16
# magic | bytes of a block, bytes of a tag | bytes of the file | the key
_HEAD: Final = struct.Struct(f"<8s II Q {_KEY}s")
_MAGIC: Final = b"HXTAGS\x00\x01"


def packed_size(size: int) -> int:
    """Bytes that the tags of a file of ``size`` bytes take when they are stored."""
    return _HEAD.size + -(-size // BLOCK) * TAG


class BlockTags:
    """The tags of one file; made by :class:`BlockTagger` or :meth:`unpack`. Immutable."""

    def __init__(self, key: bytes, size: int, tags: bytes) -> None:
        self.size: Final = size
        """Bytes of the file."""
        self._key = key
        self._tags = tags
        self._cipher = AESGCM(key)

    @property
    def blocks(self) -> int:
        """How many blocks the file has; the last may be shorter."""
        return -(-self.size // BLOCK)

    def matches(self, block: int, data: bytes) -> bool:
        """Tell whether these are the bytes of that block, all of them."""
        expected = self._tags[block * TAG : (block + 1) * TAG]
        return self._cipher.encrypt(_nonce(block), b"", data) == expected

    def wrong_block(self, other: "BlockTags") -> int | None:
        """The first block whose tag in ``other`` differs; None where none does, or another key was used."""
        if self._key != other._key or (self.size, self._tags) == (other.size, other._tags):
            return None
        places = range(0, min(len(self._tags), len(other._tags)), TAG)
        differ = (at for at in places if self._tags[at : at + TAG] != other._tags[at : at + TAG])
        return next(differ, places.stop) // TAG

    def tagger(self) -> "BlockTagger":
        """A tagger with the same key: what it makes of the same bytes are these tags."""
        return BlockTagger(self._key)

    def pack(self) -> bytes:
        """The tags as they are stored."""
        return _HEAD.pack(_MAGIC, BLOCK, TAG, self.size, self._key) + self._tags

    @classmethod
    def unpack(cls, data: bytes) -> "BlockTags":
        """Read stored tags.

        Raises:
            StreamCorrupt: They are not tags, or not whole.
        """
        if len(data) < _HEAD.size:
            raise _corrupt("it is too short")
        magic, block, tag, size, key = _HEAD.unpack_from(data)
        if (magic, block, tag) != (_MAGIC, BLOCK, TAG):
            raise _corrupt("its header is not one that this version writes")
        if len(data) != packed_size(size):
            raise _corrupt(f"it has {len(data)} bytes, a file of {size} bytes needs {packed_size(size)}")
        return cls(key, size, data[_HEAD.size :])


class BlockTagger:
    """Takes the bytes of one file in order, in pieces of any length, as a sink does; gives their tags at the end.

    Args:
        key: Of 16 bytes; a random one if None, as every file must have to be stored.
    """

    def __init__(self, key: bytes | None = None) -> None:
        self._key = key or secrets.token_bytes(_KEY)
        self._tags = bytearray()
        self._size = 0
        self._room = BLOCK
        self._context = self._begin(0)

    def write(self, data: memoryview | bytes) -> None:
        """Hash the next bytes of the file."""
        view = memoryview(data)
        self._size += len(view)
        while len(view) >= self._room:
            self._context.authenticate_additional_data(view[: self._room])
            view = view[self._room :]
            self._close()
        if len(view):
            self._context.authenticate_additional_data(view)
            self._room -= len(view)

    def finish(self) -> BlockTags:
        """The tags of everything that was written; nothing may be written afterwards."""
        if self._room != BLOCK:
            self._close()
        return BlockTags(self._key, self._size, bytes(self._tags))

    def _close(self) -> None:
        self._context.finalize()
        self._tags += self._context.tag
        self._room = BLOCK
        self._context = self._begin(len(self._tags) // TAG)

    def _begin(self, block: int) -> AEADEncryptionContext:
        return Cipher(algorithms.AES(self._key), modes.GCM(_nonce(block))).encryptor()


def _nonce(block: int) -> bytes:
    return block.to_bytes(12, "big")


def _corrupt(problem: str) -> StreamCorrupt:
    return StreamCorrupt(f"the block tags are damaged: {problem}", fix="Verify the export with --verify=deep")
