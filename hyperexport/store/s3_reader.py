"""Reads an object, or a stretch of one, at any place: ranged GETs that go on where a broken one ended.

The object must not change while it is read: every request names its ETag.
"""

import time
from collections.abc import Generator, Iterator
from typing import Self

from hyperexport.base.stop import StopSignal
from hyperexport.errors import StoreUnreachable
from hyperexport.store.s3_bucket import S3Bucket
from hyperexport.store.s3_errors import FAILURES, retrying, translate
from hyperexport.store.s3_parts import Throttle


class S3Reader:
    """A stretch of an object as a file of its own; a context manager.

    Args:
        bucket: Where the object is.
        key: Its key.
        etag: Its ETag when it was opened.
        start: Where in the object the file begins (a member of an OVA), in bytes.
        size: The file's length in bytes.
        whole: Whether the file is the whole object.
        stop: Ends a long reading.
        throttle: The run's budget of bytes, charged for every byte that is read; None for no limit.
    """

    def __init__(
        self,
        bucket: S3Bucket,
        key: str,
        *,
        etag: str,
        start: int,
        size: int,
        whole: bool = True,
        stop: StopSignal,
        throttle: Throttle | None = None,
    ) -> None:
        self.size = size
        self.identity = f"{key} {etag}" if whole and etag else ""
        self._throttle = throttle
        self._bucket = bucket
        self._key = key
        self._etag = etag
        self._start = start
        self._stop = stop

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing stays open between two requests."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Read ``length`` bytes at ``offset``; fewer only at the end of the file.

        Raises:
            StoreUnreachable: The store did not answer, also not when asked again.
            StoreUnusable: The object changed or went away while it was being read.
        """
        end = min(offset + length, self.size)
        if offset >= end:
            return b""
        return retrying(self._stop, self._what)(lambda: b"".join(self._stream(offset, end, end - offset)))

    def chunks(self, size: int = 1 << 20) -> Iterator[bytes]:
        """Read the whole file in order, in chunks of at most ``size`` bytes.

        Raises:
            StoreUnreachable, StoreUnusable: As :meth:`read_at`.
        """
        position = 0
        while position < self.size:
            # The first chunk of each request is what may fail and be asked for again; so progress renews the patience.
            stream, first = retrying(self._stop, self._what)(self._begin, position, size)
            try:
                position += len(first)
                yield first
                for chunk in stream:
                    position += len(chunk)
                    yield chunk
            except StoreUnreachable:
                continue
            finally:
                stream.close()

    @property
    def _what(self) -> str:
        return f"reading {self._bucket.url(self._key)}"

    def _begin(self, position: int, size: int) -> tuple[Generator[bytes], bytes]:
        stream = self._stream(position, self.size, size)
        return stream, next(stream)

    def _stream(self, position: int, end: int, size: int) -> Generator[bytes]:
        body = self._bucket.read_range(self._key, self._start + position, self._start + end - 1, self._etag)
        # Throttled between two chunks: what the network has buffered meanwhile is bounded, and is paid for as it comes.
        try:
            while position < end:
                self._stop.check()
                asked = time.monotonic()
                chunk: bytes = body.read(min(size, end - position))
                if not chunk:
                    raise StoreUnreachable(f"{self._what}: the answer ended early")
                if self._throttle is not None:
                    self._throttle.observe("read", len(chunk), time.monotonic() - asked)
                    self._throttle.take(len(chunk), self._stop)
                position += len(chunk)
                yield chunk
        except FAILURES as error:
            if self._throttle is not None:
                self._throttle.trouble()
            raise translate(error, self._what) from error
        finally:
            body.close()
