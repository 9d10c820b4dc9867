"""The zlib streams of grains (RFC 1950): by Intel's ISA-L where it has a wheel, by zlib elsewhere.

ISA-L (package isal) inflates a grain in about half of zlib's time and compresses it in a fifth, to the same size
(docs/benchmarks.md). Both make and accept the same streams; the bytes that they make differ. Both work without the
interpreter's lock.
"""

import zlib
from typing import Any

try:
    from isal import isal_zlib
except ImportError:
    library: Any = zlib
else:
    library = isal_zlib
"""What does the work here: one of two modules with the same functions."""


class NotInflated(Exception):
    """The bytes are no whole zlib stream of at most the length asked for. No error that a user sees."""


def compress(content: bytes | memoryview) -> bytes:
    """Make a grain's zlib stream, fast rather than small (level 1)."""
    return library.compress(content, 1)


def inflate(stream: bytes | memoryview, most: int) -> bytes:
    """Inflate a zlib stream, and prove its Adler-32.

    Args:
        stream: It; what follows its end is not looked at.
        most: Bytes of content at most. A few bytes of a stream may stand for a thousand times as many.

    Raises:
        NotInflated: It is damaged, not whole, or longer.
    """
    inflating = library.decompressobj()
    try:
        # One byte more than the content may have: so the decoder reaches the checksum behind it.
        content = inflating.decompress(stream, most + 1)
    except (library.error, zlib.error) as error:
        raise NotInflated(str(error)) from error
    if not inflating.eof or len(content) > most:
        raise NotInflated(f"it goes on after {len(content)} bytes")
    return content
