"""Tags of a file's blocks: every other byte is found, whatever the pieces in which the file came."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperexport.errors import StreamCorrupt
from hyperexport.formats.block_tags import BLOCK, BlockTagger, BlockTags, packed_size


def tags_of(data: bytes, *cuts: int) -> BlockTags:
    tagger = BlockTagger()
    for begin, end in zip((0, *cuts), (*cuts, len(data)), strict=True):
        tagger.write(memoryview(data)[begin:end])
    return tagger.finish()


def blocks_of(data: bytes) -> list[bytes]:
    return [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]


@given(size=st.integers(0, 3 * BLOCK + 5), cuts=st.lists(st.integers(0, 3 * BLOCK + 5), max_size=5))
@settings(max_examples=30, deadline=None)
def test_every_block_matches_its_own_tag_however_the_file_came(size: int, cuts: list[int]) -> None:
    data = random.Random(size).randbytes(size)

    tags = BlockTags.unpack(tags_of(data, *sorted(min(cut, size) for cut in cuts)).pack())

    assert tags.blocks == len(blocks_of(data))
    assert all(tags.matches(number, block) for number, block in enumerate(blocks_of(data)))


def test_another_byte_a_missing_byte_and_another_block_do_not_match() -> None:
    data = random.Random(1).randbytes(2 * BLOCK)
    tags = tags_of(data)
    first, second = blocks_of(data)

    for place in (0, 1, BLOCK // 2, BLOCK - 1):
        changed = bytearray(first)
        changed[place] ^= 1
        assert not tags.matches(0, bytes(changed))
    assert not tags.matches(0, first[:-1])
    assert not tags.matches(0, first + b"\0")
    assert not tags.matches(0, second)
    assert not tags.matches(1, first)
    assert not tags.matches(2, b"")


def test_stored_tags_that_are_cut_or_of_another_kind_are_refused() -> None:
    packed = tags_of(bytes(BLOCK + 1)).pack()

    assert len(packed) == packed_size(BLOCK + 1)
    for broken in (b"", packed[:20], packed[:-1], packed + b"\0", b"X" + packed[1:]):
        with pytest.raises(StreamCorrupt, match="block tags are damaged"):
            BlockTags.unpack(broken)
