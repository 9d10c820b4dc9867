"""The file of a disk that an export writes itself: a delta, or a whole disk out of the store's own grains."""

import hashlib
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from hyperexport.formats.block_tags import BLOCK
from hyperexport.steps.block_tags import DiskTagger, Packed
from hyperexport.store.base import Sink
from hyperexport.transfer.behind import Behind

WAITING: Final = 4
"""Pieces of about 256 KiB that wait to be written."""


class DiskOutput:
    """Takes the bytes of a file in order and writes them to every store, with their SHA-256 and their tags.

    A thread of its own hashes, tags and writes them while the caller produces the next. It takes pieces of about
    256 KiB: handling each grain separately takes longer.

    Args:
        sinks: The file in each store; only that thread uses them until :meth:`finish` returns.
    """

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self.size = 0
        """Bytes so far."""
        self._sinks = sinks
        self._digest = hashlib.sha256()
        self._tagger = DiskTagger()
        self._gathered: list[bytes] = []
        self._gathered_size = 0
        self._writing = Behind(self._write, most=WAITING, name="write-disk")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        """End the thread; bytes that it has not written yet are dropped."""
        self._writing.__exit__(kind, error, trace)

    def write(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            HyperExportError: A store refused these bytes or earlier ones.
        """
        self._gathered.append(data)
        self._gathered_size += len(data)
        self.size += len(data)
        if self._gathered_size >= BLOCK:
            self._hand_over()

    def finish(self) -> None:
        """Wait until every sink has all bytes; raises as :meth:`write` does."""
        self._hand_over()
        self._writing.finish()

    @property
    def sha256(self) -> str:
        """The SHA-256 of all bytes, in hex; valid after :meth:`finish`."""
        return self._digest.hexdigest()

    def tags(self) -> Packed:
        """The tags of all bytes; valid after :meth:`finish`."""
        return self._tagger.finish()

    def _hand_over(self) -> None:
        self._writing.put(b"".join(self._gathered))
        self._gathered.clear()
        self._gathered_size = 0

    def _write(self, data: bytes) -> None:
        self._digest.update(data)
        self._tagger.write(data)
        for sink in self._sinks:
            sink.write(memoryview(data))
