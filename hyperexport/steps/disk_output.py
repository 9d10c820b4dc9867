"""The file of a disk that an export writes itself: a delta, or a whole disk out of the store's own grains."""

import hashlib
from collections.abc import Sequence

from hyperexport.steps.block_tags import DiskTagger, Packed
from hyperexport.store.base import Sink


class DiskOutput:
    """Takes the bytes of a file in order and writes them to every store, with their SHA-256 and their tags.

    Args:
        sinks: The file in each store.
    """

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self.size = 0
        """Bytes so far."""
        self._sinks = sinks
        self._digest = hashlib.sha256()
        self._tagger = DiskTagger()

    def write(self, data: bytes) -> None:
        """Write the next bytes."""
        self._digest.update(data)
        self._tagger.write(data)
        self.size += len(data)
        for sink in self._sinks:
            sink.write(memoryview(data))

    @property
    def sha256(self) -> str:
        """Of the bytes so far, in hex."""
        return self._digest.hexdigest()

    def tags(self) -> Packed:
        """The tags of all bytes; nothing may be written afterwards."""
        return self._tagger.finish()
