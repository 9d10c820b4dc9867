"""A stored file that is read in ranges, of which no byte is handed out before its block was proved."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Final

from hyperexport.base.stop import StopSignal
from hyperexport.errors import USE_ANOTHER_EXPORT, VerificationFailed
from hyperexport.formats.block_tags import BLOCK, BlockTagger, BlockTags
from hyperexport.images.cache import SharedCache
from hyperexport.model.manifest import FileEntry
from hyperexport.store.base import RangeReader

CACHED_BLOCKS: Final = 96
"""24 MiB of stored bytes a file."""
MOST_AHEAD: Final = 32
"""Blocks (8 MiB) that one request to a distant store fetches when a reader goes straight on."""


class VerifiedFile:
    """A file of an export, readable at any place and by several threads.

    Args:
        reader: The stored file.
        entry: What the manifest says of it.
        tags: The tags of its blocks.
        where: What an error calls the file.
        distant: Whether a request costs much more than its bytes (S3). Then a reader that goes straight on is given
            ever longer stretches, up to ``MOST_AHEAD``.
        stop: Ends the reading.
    """

    def __init__(
        self, reader: RangeReader, entry: FileEntry, tags: BlockTags, *, where: str, distant: bool, stop: StopSignal
    ) -> None:
        if not reader.size == entry.size == tags.size:
            raise wrong_size(where, entry, reader.size)
        self.size: Final = entry.size
        self._reader = reader
        self._tags = tags
        self._where = where
        self._distant = distant
        self._stop = stop
        self._cache = SharedCache[bytes](CACHED_BLOCKS)
        self._next = -1
        self._ahead = 1

    def read_at(self, offset: int, length: int) -> bytes:
        """Read ``length`` bytes at ``offset``; fewer only at the end of the file.

        Raises:
            VerificationFailed: They are not the bytes that were exported.
            StoreUnusable, StoreUnreachable: The store did not give them.
        """
        end = min(offset + length, self.size)
        if offset >= end:
            return b""
        first, last = offset // BLOCK, (end - 1) // BLOCK
        if first == last:
            (block,) = self._blocks(range(first, first + 1))
            return block[offset - first * BLOCK : end - first * BLOCK]
        # Piece by piece: a longer stretch than the cache holds would be loaded twice.
        parts = [block for at in range(first, last + 1, MOST_AHEAD) for block in self._blocks(_run(at, last))]
        parts[-1] = parts[-1][: end - last * BLOCK]
        parts[0] = parts[0][offset - first * BLOCK :]
        return b"".join(parts)

    def warm(self, offset: int, length: int) -> None:
        """Fetch a stretch that is about to be read in parts, in as few requests as can be."""
        end = min(offset + length, self.size)
        if end > offset:
            self._blocks(_run(offset // BLOCK, (end - 1) // BLOCK))

    def _blocks(self, numbers: Sequence[int]) -> list[bytes]:
        stretched = self._stretched(numbers)
        try:
            return self._cache.get(stretched, self._load)[: len(numbers)]
        except VerificationFailed:
            if len(stretched) == len(numbers):
                raise
            return self._cache.get(numbers, self._load)  # the damage may lie behind what was asked for

    def _stretched(self, numbers: Sequence[int]) -> Sequence[int]:
        """The numbers, and behind them those that a reader who goes straight on will ask for next."""
        if not self._distant or all(self._cache.peek(number) is not None for number in numbers):
            return numbers
        # Two threads may count wrong here; that costs a request, never a byte.
        self._ahead = min(self._ahead * 2, MOST_AHEAD) if numbers[0] == self._next else 1
        last = min(max(numbers[-1], numbers[0] + self._ahead - 1), self._tags.blocks - 1)
        self._next = last + 1
        return range(numbers[0], last + 1)

    def _load(self, numbers: Sequence[int]) -> list[bytes]:
        """Read and prove blocks, each run of neighbours in one request."""
        self._stop.check()
        blocks: list[bytes] = []
        begin = 0
        for at in range(1, len(numbers) + 1):
            if at == len(numbers) or numbers[at] != numbers[at - 1] + 1:
                blocks += self._load_run(numbers[begin], numbers[at - 1])
                begin = at
        return blocks

    def _load_run(self, first: int, last: int) -> list[bytes]:
        data = self._reader.read_at(first * BLOCK, min((last + 1) * BLOCK, self.size) - first * BLOCK)
        blocks = [data] if first == last else [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]
        for number in range(first, last + 1):
            block = blocks[number - first] if number - first < len(blocks) else b""
            if not self._tags.matches(number, block):
                raise VerificationFailed(
                    f"{self._where} is damaged between byte {number * BLOCK} and byte {(number + 1) * BLOCK}: "
                    "its bytes are not those that were exported",
                    fix=USE_ANOTHER_EXPORT,
                )
        return blocks


Listener = Callable[[str, int, int], None]
"""Called with a file's name, how many of its bytes have been read, and how many there are."""


def verify_whole(
    reader: RangeReader, entry: FileEntry, *, where: str, stop: StopSignal, progress: Listener | None = None
) -> BlockTags:
    """Read a whole file, prove it by the manifest's SHA-256, and tag its blocks for the ranges read after that.

    Args:
        reader: The stored file.
        entry: What the manifest says of it.
        where: What an error calls the file.
        stop: Ends the reading.
        progress: Told how far it is.

    Raises:
        VerificationFailed: It is not the file that was exported.
    """
    if reader.size != entry.size:
        raise wrong_size(where, entry, reader.size)
    digest, tagger, done = hashlib.sha256(), BlockTagger(), 0
    for chunk in reader.chunks():
        stop.check()
        digest.update(chunk)
        tagger.write(chunk)
        done += len(chunk)
        if progress is not None:
            progress(entry.name, done, entry.size)
    if digest.hexdigest() != entry.sha256:
        raise wrong_sha256(where)
    return tagger.finish()


def wrong_sha256(where: str) -> VerificationFailed:
    """The error of a file that was read to its end and is another than the manifest's."""
    return VerificationFailed(
        f"{where} is damaged: its SHA-256 is not the one in the manifest",
        fix=USE_ANOTHER_EXPORT,
    )


def wrong_size(where: str, entry: FileEntry, size: int) -> VerificationFailed:
    """The error of a file that is longer or shorter than the manifest's."""
    return VerificationFailed(
        f"{where} is damaged at byte {min(size, entry.size)}: it has {size} bytes, the manifest says {entry.size}",
        fix=USE_ANOTHER_EXPORT,
    )


def _run(first: int, last: int) -> range:
    """Blocks from the first to the last, but no more than are fetched at once."""
    return range(first, min(last + 1, first + MOST_AHEAD))
