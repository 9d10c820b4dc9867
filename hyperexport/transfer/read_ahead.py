"""Bytes read and hashed in threads of their own, while the thread that asked for them sends what came before.

hashlib, ssl and the system's reads all let go of Python's lock, so each of them takes a core of its own where there is
one. At most a few MiB are ahead.
"""

import contextvars
import hashlib
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from hyperexport.base.stop import StopSignal
from hyperexport.base.units import KIB
from hyperexport.transfer.behind import Behind
from hyperexport.transfer.bounded_queue import BoundedQueue

SMALLEST: Final = 256 * KIB
"""Bytes that are handed on at once; the grains of a merged disk are smaller, and a hand-over costs as much as one."""
AHEAD: Final = 3
"""Pieces that wait for the sender, and for each hash; they are as large as the source's chunks, usually 1 MiB."""


class ReadAhead:
    """A stream that is read and hashed ahead. Made by :func:`read_ahead`; iterated once, by one thread."""

    def __init__(self, chunks: Iterable[bytes], algorithms: Sequence[str], stop: StopSignal) -> None:
        self._chunks = chunks
        self._stop = stop
        self._pieces = BoundedQueue[bytes | None](AHEAD)
        self._error: BaseException | None = None
        self._left = threading.Event()
        self._ended = False
        self._hashes = {name: hashlib.new(name, usedforsecurity=False) for name in dict.fromkeys(algorithms)}
        self._hashing = [
            Behind[bytes](each.update, most=AHEAD, name=f"hash-{name}") for name, each in self._hashes.items()
        ]
        context = contextvars.copy_context()  # what the store's reader logs belongs to the run
        self._thread = threading.Thread(target=lambda: context.run(self._read), name="read-ahead", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[bytes]:
        """The pieces, in order.

        Raises:
            HyperExportError: Whatever the source raises; Interrupted if the run was asked to stop.
        """
        while (piece := self._next()) is not None:
            yield piece
        if self._error is not None:
            raise self._error

    def digests(self) -> dict[str, str]:
        """The digests of all bytes, by algorithm; to be asked for when the iteration has ended."""
        for each in self._hashing:
            each.finish()
        return {name: each.hexdigest() for name, each in self._hashes.items()}

    def close(self) -> None:
        """End the threads: no chunk is read after the one that is being read now."""
        self._left.set()
        while self._next() is not None:
            pass
        self._thread.join()
        self.digests()

    def _next(self) -> bytes | None:
        piece = None if self._ended else self._pieces.get()
        self._ended = piece is None
        return piece

    def _read(self) -> None:
        try:
            for piece in _joined(self._chunks):
                if self._left.is_set():
                    break
                self._stop.check()
                for each in self._hashing:
                    each.put(piece)
                self._pieces.put(piece)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that asked for the bytes
            self._error = error
        finally:
            if close := getattr(self._chunks, "close", None):
                close()  # a generator closes what it holds open here, not when it is collected
            self._pieces.put(None)


@contextmanager
def read_ahead(chunks: Iterable[bytes], *, digests: Sequence[str], stop: StopSignal) -> Generator[ReadAhead]:
    """Read and hash a stream ahead of the block, which iterates over it; the threads end with the block.

    Args:
        chunks: The bytes, in order; iterated in another thread.
        digests: Names of algorithms that hashlib knows.
        stop: Ends the reading.
    """
    ahead = ReadAhead(chunks, digests, stop)
    try:
        yield ahead
    finally:
        ahead.close()


def _joined(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces that are worth a hand-over."""
    small: list[bytes] = []
    size = 0
    for chunk in chunks:
        if not small and len(chunk) >= SMALLEST:
            yield chunk
            continue
        small.append(chunk)
        size += len(chunk)
        if size >= SMALLEST:
            yield b"".join(small)
            small, size = [], 0
    if small:
        yield b"".join(small)
