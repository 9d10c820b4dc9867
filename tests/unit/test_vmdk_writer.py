"""The writer of streamOptimized VMDKs: what it refuses, and that it needs no memory."""

import tracemalloc

import pytest

from hyperexport.base.units import KIB, MIB, SECTOR
from hyperexport.formats import vmdk_writer
from hyperexport.formats.vmdk import GRAIN, GRAIN_SECTORS, Header
from hyperexport.formats.vmdk_writer import StreamWriter


def test_the_descriptor_names_the_disk() -> None:
    head = StreamWriter(MIB, name='d"b\n01.vmdk', content_id=0x1234ABCD).header()
    assert len(head) == 64 * KIB
    assert Header.parse(head[:SECTOR], 0).capacity_bytes == MIB
    text = head[SECTOR:].rstrip(b"\0").decode()
    assert "CID=1234abcd\nparentCID=ffffffff\n" in text
    assert 'createType="streamOptimized"' in text
    assert 'RW 2048 SPARSE "d_b_01.vmdk"\n' in text


def test_zero_grains_are_left_out() -> None:
    writer = StreamWriter(MIB)
    assert writer.grain(0, bytes(GRAIN)) == b""
    assert writer.grain(GRAIN_SECTORS, b"x" * GRAIN)
    assert writer.populated == GRAIN


def test_grains_out_of_order_off_the_disk_or_of_a_wrong_size_are_refused() -> None:
    writer = StreamWriter(MIB + SECTOR)
    data = b"x" * GRAIN
    writer.grain(GRAIN_SECTORS, data)
    for lba, wrong in (
        (0, data),
        (GRAIN_SECTORS, data),
        (GRAIN_SECTORS * 2 + 1, data),
        (GRAIN_SECTORS * 17, data),
        (GRAIN_SECTORS * 2, data[1:]),
        (GRAIN_SECTORS * 2, data + b"x"),
    ):
        with pytest.raises(ValueError, match="sector"):
            writer.grain(lba, wrong)
    assert writer.grain(MIB // SECTOR, b"x" * SECTOR)
    assert writer.populated == GRAIN + SECTOR


@pytest.mark.parametrize("capacity", [0, -512, 513, 1 << 60])
def test_a_capacity_that_no_disk_has_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match="capacity"):
        StreamWriter(capacity)


def test_the_same_content_gives_the_same_bytes() -> None:
    def write() -> bytes:
        writer = StreamWriter(MIB)
        return writer.header() + writer.grain(0, b"x" * GRAIN) + writer.finish()

    assert write() == write()


def test_memory_does_not_grow_with_what_is_written() -> None:
    writer = StreamWriter(8 << 40)
    writer.header()
    own = tracemalloc.Filter(inclusive=True, filename_pattern=vmdk_writer.__file__)  # other threads allocate, too
    held: list[int] = []
    tracemalloc.start()
    for number in range(20_000):
        writer.precompressed(number * GRAIN_SECTORS * 7, b"x" * 100)
        if number % 2_000 == 0:
            held.append(sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([own]).traces))
    tracemalloc.stop()
    assert max(held) < 100 * KIB
