"""Reads one stored file once from beginning to end, and computes everything that is checked on the way."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from hyperexport.base.units import MIB
from hyperexport.errors import StreamCorrupt
from hyperexport.formats.vmdk_image import Readable, open_image
from hyperexport.model.manifest import FileEntry, FileRole
from hyperexport.verify.findings import Finding

if TYPE_CHECKING:
    from hyperexport.formats.block_tags import BlockTagger, BlockTags
    from hyperexport.formats.grain_tags import GrainTagger, GrainTags

_LARGEST_TEXT = 16 * MIB
DISK_ROLES: Final = frozenset({FileRole.DISK, FileRole.BASE})
"""What is a VMDK."""
_TEXTS = frozenset({FileRole.DESCRIPTOR, FileRole.CHECKSUMS})


class Stretches:
    """A file's bytes in order, handed out stretch by stretch, and the hash of all of them.

    Args:
        chunks: The bytes.
        watch: Called after each chunk with how many bytes were read; may raise to end the reading.
    """

    def __init__(self, chunks: Iterator[bytes], watch: Callable[[int], None]) -> None:
        self._chunks = chunks
        self._watch = watch
        self._rest = b""
        self._hash = hashlib.sha256()
        self._fetched = 0

    @property
    def position(self) -> int:
        """Bytes handed out so far."""
        return self._fetched - len(self._rest)

    @property
    def sha256(self) -> str:
        """The hash of the bytes read so far; of the whole file once :meth:`finish` was called."""
        return self._hash.hexdigest()

    def take(self, length: int) -> Iterator[bytes]:
        """The next ``length`` bytes; fewer only at the end of the file."""
        while length > 0 and (self._rest or self._fetch()):
            part, self._rest = self._rest[:length], self._rest[length:]
            length -= len(part)
            yield part

    def skip_to(self, offset: int) -> None:
        """Read on until an offset, or the end of the file."""
        for _ in self.take(offset - self.position):
            pass

    def finish(self) -> int:
        """Read the rest of the file; returns its size."""
        while self._fetch():
            pass
        self._rest = b""
        return self._fetched

    def _fetch(self) -> bool:
        self._rest = next(self._chunks, b"")
        self._hash.update(self._rest)
        self._fetched += len(self._rest)
        self._watch(self._fetched)
        return bool(self._rest)


@dataclass
class Content:
    """What was seen of one file's bytes."""

    size: int = 0
    sha256: str = ""
    text: bytes | None = None
    """The bytes of the descriptor or the checksums; None for any other file."""
    damage: list[tuple[int | None, str]] = field(default_factory=list[tuple[int | None, str]])
    capacity: int | None = None
    """Bytes that the guest sees of a disk; None where it could not be told."""
    wrong_tag: int | None = None
    """The first block of a disk whose tag, as the export left it, is not that of its bytes; None where all are."""
    wrong_grain: int | None = None
    """The same of the grains that the disk holds."""


def read_content(
    entry: FileEntry,
    chunks: Iterator[bytes],
    whole: Readable,
    tags: "BlockTags | None" = None,
    grains: "GrainTags | None" = None,
) -> Content:
    """Hash a file's bytes and, if it is a disk, prove its structure in the same pass.

    Args:
        entry: What the manifest says of it.
        chunks: Its bytes in order; all of them are taken.
        whole: The same file, to look up a disk's directory in.
        tags: The file's block tags, which are compared with its bytes in the same pass.
        grains: Its grain tags; so are they.
    """
    content = Content()
    tagger, grain_tagger = tags.tagger() if tags else None, grains.tagger() if grains else None
    stream = _hashing(entry, _tagged(chunks, tagger, grain_tagger, content), content)
    if entry.role in DISK_ROLES:
        try:
            image = open_image(whole)
            image.walk(stream)
            content.capacity = image.capacity
        except StreamCorrupt as error:
            content.damage.append((error.offset, error.what))
    for _ in stream:
        pass
    content.wrong_tag = tags.wrong_block(tagger.finish()) if tags and tagger else None
    found = grain_tagger.finish() if grain_tagger and not content.damage else None
    content.wrong_grain = grains.wrong_grain(found) if grains and found else None
    return content


def _tagged(
    chunks: Iterator[bytes], blocks: "BlockTagger | None", grains: "GrainTagger | None", content: Content
) -> Iterator[bytes]:
    for chunk in chunks:
        if blocks:
            blocks.write(chunk)
        yield chunk
        if grains and not content.damage:  # it takes only what was found to be sound
            grains.write(chunk)


def wrong_capacity(entry: FileEntry, content: Content) -> list[tuple[int | None, str]]:
    """What is wrong with the size of a disk, if anything."""
    if content.capacity is None or entry.capacity in {None, content.capacity}:
        return []
    return [(0, f"its disk has {content.capacity} bytes, the manifest says {entry.capacity}")]


def _hashing(entry: FileEntry, chunks: Iterator[bytes], content: Content) -> Iterator[bytes]:
    digest = hashlib.sha256()
    kept = bytearray() if entry.role in _TEXTS and entry.size <= _LARGEST_TEXT else None
    for chunk in chunks:
        digest.update(chunk)
        content.size += len(chunk)
        if kept is not None and content.size <= _LARGEST_TEXT:
            kept += chunk
        yield chunk
    content.sha256 = digest.hexdigest()
    content.text = None if kept is None else bytes(kept)


def compare(entry: FileEntry, size: int, sha256: str, damage: list[tuple[int | None, str]]) -> Finding | None:
    """Say what is wrong with a file, all of it as one finding; None when it is as the manifest says."""
    damage = list(damage)
    if size != entry.size:
        damage.append((min(size, entry.size), f"it has {size} bytes, the manifest says {entry.size}"))
    if sha256 != entry.sha256:
        damage.append((None, "its SHA-256 is not the one in the manifest"))
    if not damage:
        return None
    offset = next((offset for offset, _ in damage if offset is not None), None)
    return Finding(file=entry.name, offset=offset, problem="; ".join(problem for _, problem in damage))
