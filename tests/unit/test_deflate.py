"""Tests: the streams of grains, by ISA-L and by zlib."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperexport.formats import deflate

MOST = 1024
LEVELS = st.integers(0, 9)
CONTENT = st.one_of(
    st.binary(max_size=MOST), st.binary(min_size=1, max_size=32).map(lambda piece: (piece * MOST)[:MOST])
)


@pytest.fixture(scope="module", autouse=True, params=["isal", "zlib"])
def library(request: pytest.FixtureRequest) -> object:
    """Both, wherever both are."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "zlib":
            patch.setattr(deflate, "library", zlib)
        elif deflate.library is zlib:
            pytest.skip("isal has no wheel for this machine")
        yield request.param


def by_zlib(stream: bytes) -> bytes | None:
    """What zlib itself says that the stream holds; None where it is no whole stream of MOST bytes."""
    inflating = zlib.decompressobj()
    try:
        content = inflating.decompress(stream, MOST + 1)
    except zlib.error:
        return None
    return content if inflating.eof and len(content) <= MOST else None


def inflated(stream: bytes) -> bytes | None:
    try:
        return deflate.inflate(stream, MOST)
    except deflate.NotInflated:
        return None


@given(CONTENT)
def test_zlib_inflates_what_was_compressed(content: bytes) -> None:
    assert zlib.decompress(deflate.compress(content)) == content


@given(CONTENT, LEVELS)
def test_what_zlib_compressed_is_inflated(content: bytes, level: int) -> None:
    assert deflate.inflate(memoryview(zlib.compress(content, level)), MOST) == content


@given(CONTENT, LEVELS, st.data())
def test_a_damaged_stream_is_refused_where_zlib_refuses_it(content: bytes, level: int, data: st.DataObject) -> None:
    stream = bytearray(zlib.compress(content, level))
    at = data.draw(st.integers(0, len(stream) - 1))
    if data.draw(st.booleans()):
        stream[at] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del stream[at:]
    assert inflated(bytes(stream)) == by_zlib(bytes(stream))


def test_a_stream_of_more_than_was_asked_for_is_refused() -> None:
    for length in (MOST + 1, 50 << 20):
        with pytest.raises(deflate.NotInflated, match=f"after {MOST + 1} bytes"):
            deflate.inflate(zlib.compress(bytes(length)), MOST)
