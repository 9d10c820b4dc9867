"""Tags of the grains of a disk's file: which grain of a stream is as it was, told without the file."""

import random
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperexport.errors import StreamCorrupt
from hyperexport.formats.grain_tags import ZERO, ChainTags, GrainTagger, GrainTags, holder, most_bytes
from hyperexport.formats.vmdk import GRAIN, GRAIN_SECTORS
from hyperexport.formats.vmdk_writer import StreamWriter

CAPACITY = 600 * GRAIN + 512 * 5
CONTENTS = {0: b"a", 1: random.Random(1).randbytes(GRAIN), 7: b"", 8: b"", 511: b"b" * 9000, 512: b"c", 600: b"d"}


def vmdk_of(contents: dict[int, bytes], level: int = 1) -> bytes:
    writer = StreamWriter(CAPACITY)
    grains = (
        writer.precompressed(number * GRAIN_SECTORS, zlib.compress(content.ljust(GRAIN, b"\0"), level))
        for number, content in sorted(contents.items())
    )
    return b"".join((writer.header(), *grains, writer.finish()))


def tags_of(data: bytes, piece: int = 1 << 20) -> GrainTags:
    tagger = GrainTagger()
    for at in range(0, len(data), piece):
        tagger.write(memoryview(data)[at : at + piece])
    tags = tagger.finish()
    assert tags is not None
    return tags


def compressed(content: bytes, level: int = 1) -> bytes:
    return zlib.compress(content.ljust(GRAIN, b"\0"), level)


@given(piece=st.integers(1000, 100_000))
@settings(max_examples=20, deadline=None)
def test_each_grain_has_a_tag_of_its_compressed_bytes_however_the_file_came(piece: int) -> None:
    data = vmdk_of(CONTENTS)

    tags = GrainTags.unpack(tags_of(data, piece).pack())

    assert (tags.size, tags.capacity) == (len(data), CAPACITY)
    assert list(tags.numbers()) == list(CONTENTS)
    expected = {n: tags.tag(n, compressed(c)) if c else ZERO for n, c in CONTENTS.items()}
    assert dict(tags.items()) == expected
    assert len(tags.pack()) <= most_bytes(CAPACITY)


def test_the_newest_file_that_holds_a_grain_decides() -> None:
    base = tags_of(vmdk_of({0: b"old", 1: b"base", 2: b"gone", 9: b""}))
    delta = tags_of(vmdk_of({0: b"new", 2: b"", 5: b"later"}))

    chain = ChainTags([base, delta])

    assert chain.is_equal(0, compressed(b"new"))
    assert not chain.is_equal(0, compressed(b"old"))
    assert chain.is_equal(1, compressed(b"base"))
    assert not chain.is_equal(1, compressed(b"base", 9))
    assert not chain.is_equal(2, compressed(b"gone"))
    assert not chain.is_equal(3, compressed(b"base"))
    assert [chain.is_zero(number) for number in (0, 1, 2, 3, 9)] == [False, False, True, True, True]
    assert list(chain.with_data(0, 601)) == [0, 1, 5]
    assert list(chain.with_data(1, 5)) == [1]


def test_the_newest_file_that_holds_a_grain_is_found_also_where_it_holds_zeros() -> None:
    layers = [tags_of(vmdk_of({0: b"a", 9: b"b", 600: b"c"})), tags_of(vmdk_of({9: b"", 17: b"d"}))]

    assert {n: holder(layers, n) for n in (0, 1, 9, 17, 600)} == {0: 0, 1: None, 9: 1, 17: 1, 600: 0}
    assert [layers[0].holds(n) for n in (0, 1, 8, 9)] == [True, False, False, True]


def test_a_grain_at_another_place_and_one_of_another_file_have_other_tags() -> None:
    one, other = tags_of(vmdk_of({0: b"x", 1: b"x"})), tags_of(vmdk_of({0: b"x", 1: b"x"}))
    tags = [*dict(one.items()).values(), *dict(other.items()).values()]
    assert len(set(tags)) == 4


def test_what_differs_between_tags_and_their_file_is_found() -> None:
    tags = tags_of(vmdk_of(CONTENTS))
    for changed, found in (({**CONTENTS, 511: b"c"}, 511), ({**CONTENTS, 3: b"new"}, 3), ({1: CONTENTS[1]}, 0)):
        tagger = tags.tagger()
        tagger.write(vmdk_of(changed))
        other = tagger.finish()
        assert other is not None
        assert tags.wrong_grain(other) == found
    tagger = tags.tagger()
    tagger.write(vmdk_of(CONTENTS))
    same = tagger.finish()
    assert same is not None
    assert tags.wrong_grain(same) is None


def test_stored_tags_that_are_cut_or_of_another_kind_are_refused() -> None:
    packed = tags_of(vmdk_of(CONTENTS)).pack()
    for broken in (b"", packed[:20], packed[:-1], packed + b"\0", b"X" + packed[1:], packed[:60]):
        with pytest.raises(StreamCorrupt, match="grain tags are damaged"):
            GrainTags.unpack(broken)


def test_a_flipped_bit_of_stored_tags_never_makes_another_content_equal() -> None:
    """What reads tags proves them by their SHA-256 first; even without that they never say equal of what is not."""
    packed = tags_of(vmdk_of(CONTENTS)).pack()
    for at in range(len(packed)):
        rotten = bytearray(packed)
        rotten[at] ^= 1 << at % 8
        try:
            chain = ChainTags([GrainTags.unpack(bytes(rotten))])
        except StreamCorrupt:
            continue
        if chain.capacity == CAPACITY:
            assert not any(chain.is_equal(number, compressed(b"other")) for number in CONTENTS)


def test_a_file_of_other_grains_has_no_tags() -> None:
    other = bytearray(vmdk_of({}))
    other[20:28] = (64).to_bytes(8, "little")
    tagger = GrainTagger()
    tagger.write(bytes(other))
    assert tagger.finish() is None
