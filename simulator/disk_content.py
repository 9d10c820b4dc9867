"""What a simulated disk holds before its guest writes: computed from a seed, grain by grain, on demand.

Made for speed: a grain is a first sector that no other grain has and a body out of a small pool whose compressed form
exists already, so that gigabytes of VMDK stream out without compressing anything. This module must never know who
reads, writes or freezes.
"""

import random
import zlib
from collections.abc import Iterator
from functools import cache
from typing import Final, NamedTuple

from hyperexport.base.units import KIB, SECTOR
from hyperexport.formats.vmdk import GRAIN

Run = tuple[int, int]
"""Numbers of the first grain and of the one after the last."""

_POOL: Final = 16
_BODY: Final = GRAIN - SECTOR
_MEAN_RUN: Final = 256
_FEWEST_RUNS: Final = 8
_ADLER_MODULUS: Final = 65521


class _Body(NamedTuple):
    """What follows a grain's first sector, plain and as the deflate blocks that end a zlib stream."""

    plain: bytes
    deflated: bytes
    adler: int


@cache
def _bodies() -> tuple[_Body, ...]:
    """A few bodies, made once in a process: random and repeating KiBs in turn, which deflate to about 0.55."""
    source = random.Random("hyperexport simulator")
    bodies: list[_Body] = []
    for number in range(_POOL):
        text = b"".join(b"%04d the guest's data, body %02d\n" % (line, number) for line in range(KIB))
        halves = (source.randbytes(KIB // 2) + text[at : at + KIB // 2] for at in range(0, _BODY, KIB // 2))
        plain = b"".join(halves)[:_BODY]
        deflate = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
        bodies.append(_Body(plain, deflate.compress(plain) + deflate.flush(), zlib.adler32(plain)))
    return tuple(bodies)


def _mix(value: int) -> int:
    """Spread a number over 64 bits (the finaliser of splitmix64): the same everywhere, and cheap."""
    value = (value * 0x9E3779B97F4A7C15) & 0xFFFF_FFFF_FFFF_FFFF
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFF_FFFF_FFFF_FFFF
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & 0xFFFF_FFFF_FFFF_FFFF
    return value ^ (value >> 31)


class Content:
    """What a disk holds before its guest writes: runs of populated grains, one in each region of equal size."""

    def __init__(self, capacity: int, seed: int, used: float) -> None:
        self._seed = seed
        self._grains = -(-capacity // GRAIN)
        mean = max(min(_MEAN_RUN, round(self._grains * used / _FEWEST_RUNS)), 1)
        self._region = max(min(round(mean / used), self._grains), 1) if used else 0
        # Runs vary around the mean, as far as fits into a region on both sides.
        self._mean, self._spread = mean, max(min(mean * 15 // 16, self._region - mean), 0)

    def runs(self) -> Iterator[Run]:
        """First grain and end of each run, ascending."""
        if not self._region:
            return
        for region in range(-(-self._grains // self._region)):
            first, end = self._run(region)
            if first < end:
                yield first, end

    def holds(self, grain: int) -> bool:
        """Whether the grain is populated."""
        if not self._region or grain >= self._grains:
            return False
        first, end = self._run(grain // self._region)
        return first <= grain < end

    def _run(self, region: int) -> Run:
        chance = _mix(self._seed * 0x1_0000_0001 + region)
        length = self._mean - self._spread + chance % (2 * self._spread + 1)
        # The first run begins where the disk does: there is no guest without a boot sector.
        first = region * self._region + ((chance >> 32) % (self._region - length + 1) if region else 0)
        return first, min(first + length, self._grains)

    def plain(self, grain: int) -> tuple[bytes, bytes]:
        """A populated grain's first sector, which no other grain of any disk has, and its body."""
        return self._label(grain), self._body(grain).plain

    def zlib_stream(self, grain: int) -> tuple[bytes, ...]:
        """The same as a zlib stream (RFC 1950), put together without compressing anything.

        The label travels in a stored block, which ends on a byte's boundary, so that the body's ready-made blocks fit
        after it; the checksum of both is combined from theirs.
        """
        label, body = self._label(grain), self._body(grain)
        return _STREAM_HEAD, label, body.deflated, _combine(zlib.adler32(label), body.adler).to_bytes(4)

    def _label(self, grain: int) -> bytes:
        return (b"HyperExport simulated disk, seed %d, grain %d\n" % (self._seed, grain)).ljust(SECTOR, b".")

    def _body(self, grain: int) -> _Body:
        return _bodies()[(grain * 0x9E3779B1 + self._seed >> 7) % _POOL]


_STREAM_HEAD: Final = b"\x78\x01" + b"\x00" + SECTOR.to_bytes(2, "little") + (SECTOR ^ 0xFFFF).to_bytes(2, "little")
"""zlib's own two bytes, then a block that is stored (type 00, not the last), its length and the complement."""


def _combine(first: int, second: int) -> int:
    """The Adler-32 of a label followed by a body, from those of each (RFC 1950, section 8)."""
    low = ((first & 0xFFFF) + (second & 0xFFFF) - 1) % _ADLER_MODULUS
    high = ((first >> 16) + (second >> 16) + _BODY * ((first & 0xFFFF) - 1)) % _ADLER_MODULUS
    return high << 16 | low
