"""The check of a disk's stream as it passes: what it lets through, and what it stops and where."""

import contextlib
import random
import struct
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperexport.base.units import KIB, MIB, SECTOR
from hyperexport.errors import StreamCorrupt
from hyperexport.formats import vmdk_stream
from hyperexport.formats.vmdk import GRAIN, GRAIN_SECTORS, LARGEST_CAPACITY, MARKER, Header
from hyperexport.formats.vmdk_stream import StreamCheck
from hyperexport.formats.vmdk_writer import StreamWriter
from hyperexport.simulator.disks import Disk

CAPACITY = 40 * MIB
FIRST = 128 * SECTOR
"""Where the first grain begins."""


def small_disk() -> bytes:
    """Two grains in the first table, two in the second, the last of them partial."""
    chance = random.Random(1)
    writer = StreamWriter(CAPACITY + SECTOR)
    grains = [
        writer.grain(lba, chance.randbytes(3000) + bytes(GRAIN - 3000))
        for lba in (0, 5 * GRAIN_SECTORS, 600 * GRAIN_SECTORS)
    ]
    last = writer.grain(CAPACITY // SECTOR, b"x" * SECTOR)
    return b"".join((writer.header(), *grains, last, writer.finish()))


DISK = small_disk()


def check(data: bytes, *, capacity: int | None = None, feed: int = 1 << 20) -> StreamCheck:
    checker = StreamCheck(capacity=capacity)
    view = memoryview(data)
    for at in range(0, len(data), feed):
        checker.feed(view[at : at + feed])
    checker.finish()
    return checker


def changed(at: int, new: bytes) -> bytes:
    return DISK[:at] + new + DISK[at + len(new) :]


def refused(data: bytes, reason: str, *, capacity: int | None = None) -> None:
    for feed in (1 << 20, 700):
        with pytest.raises(StreamCorrupt, match=reason):
            check(data, capacity=capacity, feed=feed)


@given(st.lists(st.integers(0, len(DISK)), max_size=50))
@settings(deadline=None)
def test_a_whole_disk_passes_however_it_is_cut_into_buffers(cuts: list[int]) -> None:
    checker = StreamCheck(capacity=CAPACITY + SECTOR)
    positions = []
    for begin, end in pairwise([0, *sorted(cuts), len(DISK)]):
        checker.feed(memoryview(DISK)[begin:end])
        positions.append(checker.position)
    checker.finish()
    assert positions == sorted(positions)
    assert checker.bytes == len(DISK)
    assert checker.position == checker.capacity == CAPACITY + SECTOR
    assert checker.populated == 3 * GRAIN + SECTOR


def test_a_whole_disk_passes_byte_by_byte() -> None:
    check(DISK, feed=1)


def test_a_simulated_host_stream_passes_and_its_position_is_the_place_on_the_disk() -> None:
    frozen = Disk(200 * MIB, 3).freeze()
    checker = StreamCheck(capacity=frozen.capacity)
    for piece in frozen.stream():
        checker.feed(piece)
        assert any(start <= checker.position < start + length for start, length in frozen.allocated()) or (
            checker.position == frozen.capacity
        )
    checker.finish()
    assert checker.populated == frozen.populated


def test_an_empty_disk_passes() -> None:
    writer = StreamWriter(MIB)
    assert check(writer.header() + writer.finish()).populated == 0


@pytest.mark.parametrize("feed", [1 << 20, 5000])
def test_every_truncation_is_found(feed: int) -> None:
    ends = {*range(0, len(DISK), 97), *range(len(DISK) - 3 * SECTOR, len(DISK))}
    for end in ends:
        with pytest.raises(StreamCorrupt, match="ended"):
            check(DISK[:end], feed=feed)


def test_an_empty_stream_and_one_of_something_else_are_refused() -> None:
    refused(b"", "ended before")
    refused(b"<html>502 Bad Gateway</html>".ljust(SECTOR), "begins with b'<htm', not")
    refused(b"# Disk DescriptorFile\n" * 40, "not with a VMDK")


def test_the_disk_of_another_capacity_is_refused() -> None:
    refused(DISK, rf"has {CAPACITY + SECTOR} bytes, the VM's disk has {CAPACITY}", capacity=CAPACITY)


@pytest.mark.parametrize(
    ("at", "new", "reason"),
    [
        (4, struct.pack("<I", 4), "version is 4"),
        (8, struct.pack("<I", 3), "not streamOptimized"),
        (12, struct.pack("<Q", 0), "capacity is 0"),
        (12, struct.pack("<Q", LARGEST_CAPACITY // SECTOR + 1), "capacity is"),
        (20, struct.pack("<Q", 1 << 40), "grains have"),
        (44, struct.pack("<I", 1 << 31), "tables have"),
        (56, struct.pack("<Q", 1 << 50), "grain directory would be"),
        (64, struct.pack("<Q", 0), "first grain would be"),
        (64, struct.pack("<Q", 1 << 60), "first grain would be"),
        (28, struct.pack("<Q", 1 << 60), "descriptor would be"),
        (73, b"\r\n  ", "line ends"),
        (77, struct.pack("<H", 2), "compression method"),
    ],
)
def test_an_absurd_header_is_refused(at: int, new: bytes, reason: str) -> None:
    refused(changed(at, new), reason)


def grain(lba: int, size: int, begin: bytes = b"\x78\x01") -> bytes:
    return struct.pack("<QI", lba, size) + begin


@pytest.mark.parametrize(
    ("new", "reason"),
    [
        (grain(1, 3000), "out of order or off"),
        (grain(CAPACITY // SECTOR + GRAIN_SECTORS, 3000), "out of order or off"),
        (grain(0, GRAIN * 2), "not compressed"),
        (grain(0, 3000, b"\x79\x01"), "not compressed"),
        (grain(0, 3000, b"\x78\x02"), "not compressed"),
        (MARKER.pack(4, 0, 9), "marker of kind 9"),
        (MARKER.pack(5, 0, 1), "marker of kind 1 with 5"),
        (MARKER.pack(1 << 40, 0, 2), "marker of kind 2"),
        (MARKER.pack(1, 0, 3), "marker of kind 3"),
        (MARKER.pack(1 << 60, 0, 4), "marker of kind 4"),
        (bytes(SECTOR), "marker of kind 0"),
    ],
)
def test_a_wrong_grain_or_marker_is_refused_with_its_place(new: bytes, reason: str) -> None:
    refused(changed(FIRST, new), f"byte {FIRST}: .*{reason}")


def test_grains_that_go_back_are_refused() -> None:
    first = DISK.index(grain(5 * GRAIN_SECTORS, 0)[:8], FIRST)
    refused(changed(first, struct.pack("<Q", 0)), f"byte {first}: a grain for sector 0 of the disk is out of order")


def test_the_tail_must_be_directory_footer_and_end() -> None:
    end = len(DISK)
    directory, footer = end - 5 * SECTOR, end - 3 * SECTOR
    assert DISK[directory : directory + SECTOR] == MARKER.pack(1, 0, 2)
    refused(DISK[:directory] + DISK[footer:], "marker of kind 3")
    refused(DISK[:footer] + bytes(SECTOR), "marker of kind 0")
    refused(DISK[:directory] + bytes(SECTOR), "marker of kind 0")
    refused(changed(end - 2 * SECTOR + 12, struct.pack("<Q", 128)), "another disk")
    refused(changed(end - 2 * SECTOR + 56, struct.pack("<Q", 128)), "grain directory at sector 128")
    refused(changed(footer, DISK[FIRST : FIRST + SECTOR]), "grain for sector 0")
    late = grain(CAPACITY // SECTOR, 100).ljust(SECTOR, b"\0")
    writer = StreamWriter(CAPACITY + SECTOR)
    tail = writer.finish()
    refused(writer.header() + tail[: 2 * SECTOR] + late + tail[2 * SECTOR :], "follows the grain directory")


def test_nothing_may_follow_the_end_because_readers_find_the_footer_by_the_files_size() -> None:
    for more in (bytes(SECTOR), b"\0", b"\n", DISK):
        refused(DISK + more, "something follows its end")


def head_style(more: bytes = b"") -> bytes:
    """An empty disk as qemu writes it: the directory and its table in front, zeros behind the end."""
    header = Header(capacity=128, directory=21, overhead=128, flags=0x30003).pack()
    return header.ljust(FIRST, b"\0") + bytes(SECTOR) + more


def test_a_few_zeros_may_follow_the_end_where_the_directory_is_in_front() -> None:
    check(head_style())
    check(head_style(bytes(126 * SECTOR)))
    refused(head_style(bytes(130 * SECTOR)), "continues after its end")
    refused(head_style(b"\n"), "something follows its end")
    refused(head_style()[:56] + struct.pack("<Q", 128) + head_style()[64:], "grain directory would be at sector 128")


def test_a_stream_without_end_is_stopped() -> None:
    checker = StreamCheck()
    checker.feed(DISK[:FIRST])
    with pytest.raises(StreamCorrupt, match="more markers"):
        checker.feed(MARKER.pack(0, 0, 4) * 1000)


def test_memory_does_not_grow_with_the_stream() -> None:
    checker = StreamCheck()
    pieces = list(Disk(400 * MIB, 1, used=0.5).freeze().stream())
    own = tracemalloc.Filter(inclusive=True, filename_pattern=vmdk_stream.__file__)  # other threads allocate, too
    held: list[int] = []
    tracemalloc.start()
    for number, piece in enumerate(pieces):
        checker.feed(memoryview(piece))
        if number % 50 == 0:
            held.append(sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([own]).traces))
    checker.finish()
    tracemalloc.stop()
    assert max(held) < 16 * KIB


@given(st.binary(max_size=3 * SECTOR), st.integers(0, len(DISK)))
@settings(deadline=None)
def test_nothing_but_a_corrupt_stream_comes_out_of_hostile_bytes(noise: bytes, at: int) -> None:
    checker = StreamCheck()
    with contextlib.suppress(StreamCorrupt):
        checker.feed(DISK[:at] + noise + DISK[at + len(noise) :])
        checker.finish()
