"""Reading disks back: any content survives, any damage is found or does no harm, and nothing hostile gets through."""

import contextlib
import random
import struct
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperexport.base.units import MIB, SECTOR
from hyperexport.errors import StreamCorrupt
from hyperexport.formats.vmdk import GD_AT_END, GRAIN, GRAIN_SECTORS, LARGEST_CAPACITY, Header
from hyperexport.formats.vmdk_image import DiskImage, open_image
from hyperexport.formats.vmdk_writer import StreamWriter
from hyperexport.simulator.disks import Disk
from tests.memory import Memory


def image_of(data: bytes | bytearray) -> DiskImage:
    return open_image(Memory(data))


def write(capacity: int, grains: dict[int, bytes]) -> bytes:
    writer = StreamWriter(capacity)
    pieces = [writer.header()]
    for number, content in sorted(grains.items()):
        pieces.append(writer.grain(number * GRAIN_SECTORS, content[: capacity - number * GRAIN]))
    return b"".join((*pieces, writer.finish()))


def small_disk() -> bytes:
    chance = random.Random(3)
    grains = {number: (chance.randbytes(40) + b"the guest's data " * 4000)[:GRAIN] for number in (0, 5, 600, 640)}
    return write(40 * MIB + SECTOR, grains)


DISK = small_disk()
CONTENT = image_of(DISK).read(0, 41 * MIB)
FIRST = 128 * SECTOR


@given(
    capacity=st.integers(1, 3000).map(lambda count: count * GRAIN + SECTOR * (count % 128)),
    numbers=st.sets(st.integers(0, 2999), max_size=12),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_any_sparse_content_survives_the_round_trip(capacity: int, numbers: set[int], seed: int) -> None:
    chance = random.Random(seed)
    grains = {
        number: (chance.randbytes(chance.choice((0, 1, 60_000))).ljust(GRAIN, b"\0"))[: capacity - number * GRAIN]
        for number in numbers
        if number * GRAIN < capacity
    }
    image = image_of(write(capacity, grains))
    held = {number * GRAIN: content for number, content in grains.items() if any(content)}
    assert image.capacity == capacity
    assert dict(image.grains()) == held
    assert image.walk() == sum(map(len, held.values()))
    for offset, content in held.items():
        assert image.read(offset, GRAIN) == content


@given(st.integers(0, 5 * MIB), st.integers(0, 3 * GRAIN))
@settings(deadline=None, max_examples=50)
def test_any_part_of_a_disk_can_be_read(offset: int, length: int) -> None:
    disk = Disk(4 * MIB + SECTOR, 1, used=0.5)
    image = image_of(b"".join(disk.freeze().stream()))
    assert image.read(offset, length) == disk.read(offset, length)


def test_a_simulated_disk_walks_whole() -> None:
    frozen = Disk(70 * MIB + SECTOR, 2, used=0.4).freeze()
    data = b"".join(frozen.stream())
    chunks = (data[at : at + 5000] for at in range(0, len(data), 5000))
    assert image_of(data).walk(chunks) == frozen.populated


def test_every_truncation_is_found() -> None:
    for end in {*range(0, len(DISK), 61), *range(len(DISK) - 3 * SECTOR, len(DISK))}:
        with pytest.raises(StreamCorrupt):
            image_of(DISK[:end]).walk()


def is_found(data: bytearray) -> bool:
    try:
        image_of(data).walk()
    except StreamCorrupt:
        return True
    return False


def test_a_flipped_bit_is_found_or_changes_nothing_that_the_guest_would_read() -> None:
    data = bytearray(DISK)
    found = 0
    for place in (*range(600), *range(FIRST, len(DISK), 3)):
        data[place] ^= 1 << place % 8
        if is_found(data):
            found += 1
        else:
            assert dict(image_of(data).grains()) == dict(image_of(DISK).grains())
        data[place] ^= 1 << place % 8
    # What is left over is padding, words of the descriptor, and the version.
    assert found > 1000


def test_every_flipped_bit_of_a_grains_header_payload_table_and_directory_is_found() -> None:
    image = image_of(DISK)
    grain_places = sorted(DISK.index(struct.pack("<Q", number * GRAIN_SECTORS), FIRST) for number in (5, 600))
    directory = len(DISK) - 4 * SECTOR
    places = [*range(directory, directory + 8)]
    for place in grain_places:
        (size,) = struct.unpack_from("<I", DISK, place + 8)
        places += [*range(place, place + 12 + size)]
    data = bytearray(DISK)
    for place in places:
        for bit in range(8):
            data[place] ^= 1 << bit
            # Two kinds of harmless bits: what deflate pads its last byte with, and a table entry 0 that became 1.
            assert is_found(data) or dict(image_of(data).grains()) == dict(image.grains()), (place, bit)
            data[place] ^= 1 << bit


def test_damage_is_named_with_its_offset() -> None:
    data = bytearray(DISK)
    place = DISK.index(struct.pack("<Q", 5 * GRAIN_SECTORS), FIRST)
    data[place + 100] ^= 4
    with pytest.raises(StreamCorrupt, match=rf"byte {place}: the grain for sector 640 of the disk does not inflate"):
        image_of(data).walk()
    with pytest.raises(StreamCorrupt, match=f"byte {place}:"):
        image_of(data).read(5 * GRAIN, 10)
    assert image_of(data).read(0, 10) == CONTENT[:10]


def test_a_directory_that_leaves_out_or_invents_a_grain_is_found() -> None:
    table = DISK.index(struct.pack("<QII", 4, 0, 1).ljust(SECTOR, b"\0")) + SECTOR
    entry = table + 5 * 4
    assert struct.unpack_from("<I", DISK, entry)[0]
    left_out = bytearray(DISK)
    left_out[entry : entry + 4] = bytes(4)
    with pytest.raises(StreamCorrupt, match="leaves out sector 640"):
        image_of(left_out).walk()
    invented = bytearray(DISK)
    invented[entry + 4 : entry + 8] = DISK[entry : entry + 4]
    with pytest.raises(StreamCorrupt, match="leaves out sector"):
        image_of(invented).walk()
    with pytest.raises(StreamCorrupt, match="no grain for sector 768"):
        list(image_of(invented).grains())
    beyond = bytearray(DISK)
    beyond[entry + 4 : entry + 8] = b"\xff\xff\xff\x7f"
    with pytest.raises(StreamCorrupt, match="beyond the file's end"):
        list(image_of(beyond).grains())


def test_two_grains_that_changed_places_are_found() -> None:
    places = [DISK.index(struct.pack("<Q", number * GRAIN_SECTORS), FIRST) for number in (5, 600)]
    swapped = bytearray(DISK)
    for here, there in (places, places[::-1]):
        swapped[here : here + 12] = DISK[there : there + 12]
    assert is_found(swapped)


def one_grain(compressed: bytes, *, capacity: int = MIB) -> bytes:
    writer = StreamWriter(capacity)
    return writer.header() + writer.precompressed(0, compressed) + writer.finish()


@pytest.mark.parametrize(
    ("compressed", "reason"),
    [
        (zlib.compress(bytes(50 * MIB)), "does not inflate .*after 65537"),
        (zlib.compress(b"x" * (GRAIN + 1)), "does not inflate .*after 65537"),
        (zlib.compress(b"x" * (GRAIN - 1)), "inflates to 65535"),
        (zlib.compress(b"x" * GRAIN)[:-1], "does not inflate .*after 65536"),
        (zlib.compress(b"x" * GRAIN)[:-4] + b"abcd", "does not inflate"),
    ],
)
def test_a_grain_that_does_not_inflate_to_a_grain_is_refused_in_bounded_memory(compressed: bytes, reason: str) -> None:
    data = one_grain(compressed)
    tracemalloc.start()
    with pytest.raises(StreamCorrupt, match=reason):
        image_of(data).walk()
    with pytest.raises(StreamCorrupt, match=reason):
        image_of(data).read(0, 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * MIB


def test_a_directory_larger_than_the_file_is_refused_before_it_is_read() -> None:
    header = Header(capacity=LARGEST_CAPACITY // SECTOR, directory=GD_AT_END, overhead=128)
    footer = Header(capacity=LARGEST_CAPACITY // SECTOR, directory=1, overhead=128)
    data = header.pack() + bytes(FIRST) + footer.pack() + bytes(SECTOR)
    tracemalloc.start()
    with pytest.raises(StreamCorrupt, match="grain directory would be"):
        image_of(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * MIB


def test_a_directory_that_names_one_table_again_and_again_does_not_trap_the_reader() -> None:
    writer = StreamWriter(1 << 40)
    pieces = [writer.header(), writer.grain(0, b"x" * GRAIN)]
    data = bytearray(b"".join((*pieces, writer.finish())))
    tables = (1 << 40) // (512 * GRAIN)
    directory = len(data) - 3 * SECTOR - tables * 4
    data[directory : directory + tables * 4] = data[directory : directory + 4] * tables
    with pytest.raises(StreamCorrupt, match="no grain for sector 65536"):
        list(image_of(data).grains())
    assert is_found(data)


def test_a_file_that_shrinks_while_it_is_open_is_found() -> None:
    file = Memory(DISK)
    image = open_image(file)
    file.read_at = lambda offset, length: DISK[: FIRST + 5][offset : offset + length]
    for use in (lambda: image.read(0, 1), lambda: list(image.grains()), image.walk):
        with pytest.raises(StreamCorrupt, match="ends before its size"):
            use()


def test_what_is_not_a_disk_is_refused() -> None:
    for data in (b"", b"KDMV", bytes(10_000), b"# Disk DescriptorFile\n" * 100):
        with pytest.raises(StreamCorrupt):
            image_of(data)


def test_a_descriptor_of_another_kind_of_disk_is_found() -> None:
    with pytest.raises(StreamCorrupt, match=f"byte {SECTOR}: its descriptor"):
        image_of(DISK.replace(b"streamOptimized", b"monolithicFlat ")).walk()


@given(st.lists(st.tuples(st.integers(0, len(DISK) - 9), st.binary(min_size=1, max_size=8)), min_size=1, max_size=5))
@settings(deadline=None)
def test_nothing_but_a_corrupt_stream_comes_out_of_hostile_files(changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(DISK)
    for place, new in changes:
        data[place : place + len(new)] = new
    for use in (lambda image: image.walk(), lambda image: list(image.grains()), lambda image: image.read(0, MIB)):
        with contextlib.suppress(StreamCorrupt):
            use(image_of(data))
