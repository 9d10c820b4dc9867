"""Disks of exports as images: any bytes as the guest saw them, and none that are not those that were exported."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperexport.base.stop import StopSignal
from hyperexport.base.units import MIB, SECTOR
from hyperexport.errors import VerificationFailed
from hyperexport.formats.block_tags import BLOCK
from hyperexport.formats.vmdk import GRAIN
from hyperexport.images.cache import SharedCache
from hyperexport.images.disk import Disk
from hyperexport.images.layer import Layer
from hyperexport.images.stream import StreamedDisk, StreamedPart
from hyperexport.images.verified import VerifiedFile, verify_whole
from hyperexport.simulator.disks import Disk as GuestDisk
from tests.images import StoredFile, disk_of, entry_of, proven, vmdk_of

CAPACITY = 70 * MIB + SECTOR
GUEST = GuestDisk(CAPACITY, 2, used=0.3)
STORED = b"".join(GUEST.freeze().stream())
CONTENT = GUEST.read(0, CAPACITY)


@given(offset=st.integers(0, CAPACITY + 10), length=st.integers(0, 40 * GRAIN))
@settings(max_examples=25, deadline=None)
def test_any_stretch_reads_as_the_guest_wrote_it(offset: int, length: int) -> None:
    with disk_of(STORED) as disk:
        assert disk.read(offset, length) == CONTENT[offset : offset + length]


def test_a_stretch_that_is_larger_than_the_cache_reads_right() -> None:
    with disk_of(STORED) as disk:
        assert disk.read(0, CAPACITY) == CONTENT


def test_extents_cover_the_disk_and_what_is_no_data_is_zero() -> None:
    with disk_of(STORED) as disk:
        extents = list(disk.extents())
        part = list(disk.extents(GRAIN + 7, 3 * MIB))

    at = 0
    for before, extent in zip([None, *extents], extents, strict=False):
        assert extent.offset == at
        assert before is None or before.data != extent.data
        assert extent.data or not any(CONTENT[at : at + extent.length])
        at += extent.length
    assert at == CAPACITY
    assert sum(extent.length for extent in part) == 3 * MIB
    assert part[0].offset == GRAIN + 7


def test_several_threads_read_the_same_disk() -> None:
    chance = random.Random(7)
    places = [(chance.randrange(CAPACITY), chance.randrange(9 * GRAIN)) for _ in range(60)]
    with disk_of(STORED) as disk, ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda place: disk.read(*place), places))
    assert read == [CONTENT[offset : offset + length] for offset, length in places]


# -- a base and its deltas --------------------------------------------------------------------------------------------


@given(
    layers=st.lists(
        st.dictionaries(st.integers(0, 700), st.sampled_from((b"", b"a", b"bc" * 9000)), max_size=8),
        min_size=1,
        max_size=5,
    )
)
@settings(max_examples=40, deadline=None)
def test_of_several_files_the_newest_that_has_a_grain_gives_it(layers: list[dict[int, bytes]]) -> None:
    capacity = 701 * GRAIN - 3 * SECTOR
    expected = bytearray(capacity)
    for layer in layers:
        for number, content in layer.items():
            end = min((number + 1) * GRAIN, capacity)
            expected[number * GRAIN : end] = content.ljust(GRAIN, b"\0")[: end - number * GRAIN]

    with disk_of(*(vmdk_of(capacity, layer, delta=index > 0) for index, layer in enumerate(layers))) as disk:
        assert disk.read(0, capacity) == expected
        assert sum(extent.length for extent in disk.extents()) == capacity


def test_files_with_other_grains_are_no_stack() -> None:
    other = bytearray(vmdk_of(MIB, {}))
    other[20:28] = (64).to_bytes(8, "little")
    other[-1024 + 20 : -1024 + 28] = (64).to_bytes(8, "little")

    with pytest.raises(VerificationFailed, match="cannot be its base"):
        Disk([Layer(StoredFile(vmdk_of(MIB, {0: b"x"})), "base"), Layer(StoredFile(other), "delta")])


# -- proof ------------------------------------------------------------------------------------------------------------


def test_a_flipped_byte_anywhere_is_an_error_for_whoever_reads_its_block_and_for_nobody_else() -> None:
    chance = random.Random(3)
    whole = Layer(proven(STORED), "whole")
    for place in (*(chance.randrange(len(STORED)) for _ in range(40)), 0, len(STORED) - 1):
        rotten = bytearray(STORED)
        rotten[place] ^= 1 << chance.randrange(8)
        file = proven(STORED, now=rotten)
        block = place // BLOCK
        with pytest.raises(VerificationFailed, match=rf"disk-0.vmdk of X is damaged between byte {block * BLOCK} "):
            file.read_at(place, 1)
        for other in {0, block - 1, block + 1} - {block, -1}:
            assert file.read_at(other * BLOCK, 9) == STORED[other * BLOCK : other * BLOCK + 9]
    assert whole.tables == 3


def test_damage_never_becomes_wrong_bytes_of_the_guest() -> None:
    chance = random.Random(5)
    for _ in range(12):
        rotten = bytearray(STORED)
        begin = chance.randrange(len(STORED))
        rotten[begin : begin + 9] = chance.randbytes(9)[: len(STORED) - begin]
        with suppress(VerificationFailed), Disk([Layer(proven(STORED, now=rotten), "X")]) as disk:
            for offset in range(0, CAPACITY, 5 * MIB):
                assert disk.read(offset, MIB) == CONTENT[offset : offset + MIB]


def test_a_file_that_is_not_the_manifests_is_refused_before_anything_is_read() -> None:
    rotten = bytearray(STORED)
    rotten[len(STORED) // 2] ^= 1

    with pytest.raises(VerificationFailed, match="its SHA-256 is not the one in the manifest"):
        verify_whole(StoredFile(rotten), entry_of(STORED), where="X", stop=StopSignal())
    with pytest.raises(VerificationFailed, match=f"damaged at byte {len(STORED) - 1}"):
        verify_whole(StoredFile(STORED[:-1]), entry_of(STORED), where="X", stop=StopSignal())


def streamed(data: bytes, entry_data: bytes) -> dict[int, bytes]:
    """The grains that one pass over a file gives, if it is proved at its end."""
    file = StoredFile(data)
    layer = Layer(file, "db01-disk-0.vmdk of X")
    with Disk([layer]) as disk:
        source = StreamedDisk(disk, [StreamedPart(layer, file, entry_of(entry_data))], StopSignal())
        return {grain.number: bytes(grain.compressed) for _, grains in source.grains() for grain in grains}


def test_one_pass_gives_every_grain_once_and_ends_with_an_error_if_any_byte_is_another() -> None:
    small = vmdk_of(40 * MIB, {number: bytes([number % 251]) * 99 for number in (0, 1, 7, 511, 512, 600)})
    with disk_of(small) as disk:
        expected = {number: disk.compressed(number, place) for number, place in disk.places()}
    assert streamed(small, small) == expected

    for place in range(0, len(small), 97):
        rotten = bytearray(small)
        rotten[place] ^= 0x10
        with pytest.raises(VerificationFailed, match=r"disk-0\.vmdk of X"):
            streamed(bytes(rotten), small)
    for end in range(0, len(small), 1009):
        with pytest.raises(VerificationFailed):
            streamed(small[:end], small)


# -- requests to a distant store --------------------------------------------------------------------------------------


def test_whoever_reads_straight_on_from_a_distant_store_needs_ever_fewer_requests() -> None:
    data = random.Random(1).randbytes(40 * MIB)
    tags = verify_whole(StoredFile(data), entry_of(data), where="X", stop=StopSignal())
    stored = StoredFile(data)
    file = VerifiedFile(stored, entry_of(data), tags, where="X", distant=True, stop=StopSignal())

    read = b"".join(file.read_at(offset, GRAIN) for offset in range(0, len(data), GRAIN))

    assert read == data
    assert len(stored.requests) <= 12
    assert sum(length for _, length in stored.requests) == len(data)


def test_random_reads_of_a_distant_store_fetch_one_block_each() -> None:
    data = random.Random(1).randbytes(40 * MIB)
    tags = verify_whole(StoredFile(data), entry_of(data), where="X", stop=StopSignal())
    stored = StoredFile(data)
    file = VerifiedFile(stored, entry_of(data), tags, where="X", distant=True, stop=StopSignal())

    for block in (9, 120, 3, 77):
        file.read_at(block * BLOCK + 5, 100)

    assert stored.requests == [(block * BLOCK, BLOCK) for block in (9, 120, 3, 77)]


def test_damage_behind_what_was_asked_for_does_not_hinder_the_reading() -> None:
    data = random.Random(1).randbytes(9 * BLOCK)
    rotten = bytearray(data)
    rotten[6 * BLOCK] ^= 1
    file = proven(data, now=rotten, distant=True)

    assert b"".join(file.read_at(number * BLOCK, BLOCK) for number in range(6)) == data[: 6 * BLOCK]
    with pytest.raises(VerificationFailed):
        file.read_at(6 * BLOCK, 1)


# -- the cache --------------------------------------------------------------------------------------------------------


def test_a_value_that_several_ask_for_at_once_is_made_once() -> None:
    cache, made, ready = SharedCache[int](9), [], threading.Barrier(4)

    def load(numbers):
        made.extend(numbers)
        return [number * 10 for number in numbers]

    def ask(_: int) -> list[int]:
        ready.wait()
        return cache.get((1, 2, 3), load)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(4))) == [[10, 20, 30]] * 4
    assert sorted(made) == [1, 2, 3]


def test_what_could_not_be_made_is_tried_again() -> None:
    cache = SharedCache[int](9)

    def fail(numbers):
        raise VerificationFailed("no")

    with pytest.raises(VerificationFailed):
        cache.get((1,), fail)
    assert cache.get((1,), lambda _: [7]) == [7]
