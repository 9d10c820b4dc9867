"""The simulated guests' disks: sparse, deterministic, frozen by snapshots, their changes tracked."""

import re
import threading
import tracemalloc
import zlib
from itertools import islice, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperexport.base.units import KIB, MIB, SECTOR
from hyperexport.formats.vmdk import GRAIN
from hyperexport.simulator.disk_content import Content
from hyperexport.simulator.disks import Disk

TIB = 1 << 40


def plain(disk: Disk) -> bytes:
    return disk.read(0, disk.capacity)


def test_the_same_seed_gives_the_same_disk_and_another_seed_another() -> None:
    assert plain(Disk(4 * MIB, 1)) == plain(Disk(4 * MIB, 1))
    assert plain(Disk(4 * MIB, 1)) != plain(Disk(4 * MIB, 2))


def test_no_two_populated_grains_are_alike() -> None:
    disk = Disk(8 * MIB, 5, used=1.0)
    grains = {disk.read(offset, GRAIN) for offset in range(0, disk.capacity, GRAIN)}
    assert len(grains) == disk.capacity // GRAIN


@pytest.mark.parametrize("used", [0.05, 0.25, 0.5, 0.9])
def test_about_the_asked_part_is_populated_in_runs(used: float) -> None:
    frozen = Disk(10 * 1024 * MIB, 3, used=used).freeze()
    assert frozen.populated / frozen.capacity == pytest.approx(used, rel=0.25)
    assert len(frozen.allocated()) < frozen.populated / GRAIN / 50


def test_an_unused_disk_is_empty_and_a_full_one_full() -> None:
    assert Disk(MIB, 1, used=0).freeze().allocated() == []
    assert Disk(MIB, 1, used=1).freeze().allocated() == [(0, MIB)]


def test_allocated_ranges_are_just_the_grains_that_are_not_zero() -> None:
    disk = Disk(16 * MIB + 5 * SECTOR, 11)
    disk.write(3 * MIB + 17, b"the guest was here")
    first, length = disk.freeze().allocated()[0]
    disk.write(first, bytes(length // 2 // GRAIN * GRAIN or length))
    held = {offset for offset in range(0, disk.capacity, GRAIN) if any(disk.read(offset, GRAIN))}
    ranges = disk.freeze().allocated()
    assert held == {at for offset, length in ranges for at in range(offset, offset + length, GRAIN)}
    assert all(offset + length < following for (offset, length), (following, _) in pairwise(ranges))
    assert disk.freeze().populated == sum(length for _, length in ranges)


def test_eight_tebibytes_take_no_memory() -> None:
    tracemalloc.start()
    disk = Disk(8 * TIB, 1, used=0.25)
    disk.write(7 * TIB + 1, b"x")
    assert disk.read(7 * TIB + 1, 1) == b"x"
    frozen = disk.freeze()
    pieces = list(islice(frozen.stream(), 3))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(map(len, pieces)) > 2 * MIB
    assert peak < 16 * MIB


@given(grain=st.integers(0, 10**9), seed=st.integers(0, 2**63))
@settings(deadline=None)
def test_the_zlib_stream_put_together_inflates_to_the_plain_grain(grain: int, seed: int) -> None:
    content = Content(GRAIN, seed, 1.0)
    assert zlib.decompress(b"".join(content.zlib_stream(grain))) == b"".join(content.plain(grain))


@given(st.lists(st.tuples(st.integers(0, 3 * GRAIN), st.binary(min_size=1, max_size=GRAIN + 3)), max_size=6))
@settings(deadline=None)
def test_a_disk_is_what_was_written_to_it(writes: list[tuple[int, bytes]]) -> None:
    disk = Disk(4 * GRAIN + SECTOR * 7, 9, used=0.5)
    expected = bytearray(plain(disk))
    for offset, all_of_it in writes:
        data = all_of_it[: disk.capacity - offset]
        disk.write(offset, data)
        expected[offset : offset + len(data)] = data
    assert plain(disk) == expected
    assert disk.read(GRAIN - 5, GRAIN) == expected[GRAIN - 5 : 2 * GRAIN - 5]


def test_reads_end_at_the_disks_end_and_writes_beyond_it_are_refused() -> None:
    disk = Disk(MIB, 1, used=1)
    assert len(disk.read(MIB - 10, 100)) == 10
    assert disk.read(MIB, 1) == b""
    with pytest.raises(ValueError, match="do not fit"):
        disk.write(MIB - 1, b"ab")


def test_frozen_disks_keep_their_content_while_the_guest_writes_on() -> None:
    disk = Disk(MIB, 1)
    states, frozen = [], []
    for number in range(20):
        disk.write(number * 3000, b"write %d" % number * 500)
        states.append(plain(disk))
        frozen.append(disk.freeze())
    disk.write(0, bytes(MIB))
    assert [view.read(0, MIB) for view in frozen] == states


def test_a_grown_disk_has_zeros_at_its_end_and_its_change_ids_are_void() -> None:
    disk = Disk(MIB + SECTOR, 1, used=1)
    before, change_id = plain(disk), disk.change_id
    assert change_id
    frozen = disk.freeze()
    disk.resize(2 * MIB)
    assert plain(disk) == before + bytes(MIB - SECTOR)
    assert frozen.capacity == MIB + SECTOR
    with pytest.raises(ValueError, match="reset"):
        disk.changed_since(change_id)
    with pytest.raises(ValueError, match="cannot become"):
        disk.resize(MIB)


def test_a_raw_copy_is_the_disk_and_sparse(tmp_path) -> None:
    disk = Disk(64 * MIB + SECTOR, 4)
    disk.write(disk.capacity - 3, b"end")
    disk.freeze().save_raw(tmp_path / "disk.raw")
    assert (tmp_path / "disk.raw").read_bytes() == plain(disk)
    assert (tmp_path / "disk.raw").stat().st_blocks * 512 < 32 * MIB


def test_a_change_id_has_vspheres_form() -> None:
    change_id = Disk(MIB, 1).change_id
    assert change_id
    assert re.fullmatch(r"([0-9a-f]{2} ){7}[0-9a-f]{2}-([0-9a-f]{2} ){7}[0-9a-f]{2}/\d+", change_id)


@given(st.lists(st.one_of(st.just(None), st.integers(0, 31)), max_size=30))
@settings(deadline=None)
def test_no_change_is_ever_missed_between_any_two_snapshots(steps: list[int | None]) -> None:
    disk = Disk(2 * MIB, 1)
    frozen = [disk.freeze()]
    for number, grain in enumerate(steps):
        if grain is None:
            frozen.append(disk.freeze())
        else:
            disk.write(grain * GRAIN + 100, b"%d" % number)
    frozen.append(disk.freeze())
    for later, view in enumerate(frozen):
        for base in frozen[:later]:
            assert base.change_id
            told = {
                at
                for offset, length in disk.changed_since(base.change_id, at=view)
                for at in range(offset, offset + length, GRAIN)
            }
            differ = {at for at in range(0, 2 * MIB, GRAIN) if base.read(at, GRAIN) != view.read(at, GRAIN)}
            assert differ <= told


def test_what_changed_is_told_in_merged_ranges_that_end_with_the_disk() -> None:
    disk = Disk(10 * GRAIN + SECTOR, 1)
    base = disk.freeze().change_id
    assert base
    disk.write(GRAIN - 1, b"ab")
    disk.write(10 * GRAIN, b"z")
    assert disk.changed_since(base) == [(0, 2 * GRAIN), (10 * GRAIN, SECTOR)]
    assert disk.changed_since(base, at=disk.freeze()) == disk.changed_since(base)
    now = disk.change_id
    assert now
    assert disk.changed_since(now) == []
    disk.write(5 * GRAIN, b"later")
    assert disk.changed_since(now) == [(5 * GRAIN, GRAIN)]


def test_a_change_id_that_does_not_fit_is_refused_with_the_reason() -> None:
    disk, other = Disk(MIB, 1), Disk(MIB, 1)
    old = disk.freeze()
    disk.write(0, b"x")
    new = disk.freeze()
    assert old.change_id
    assert new.change_id
    assert other.change_id
    for change_id, reason in (
        (other.change_id, "another disk"),
        ("nonsense", "not a change id"),
        (re.sub(r"/\d+", "/999", old.change_id), "newer"),
    ):
        with pytest.raises(ValueError, match=reason):
            disk.changed_since(change_id)
    with pytest.raises(ValueError, match="newer"):
        disk.changed_since(new.change_id, at=old)
    disk.reset_tracking()
    with pytest.raises(ValueError, match="reset"):
        disk.changed_since(old.change_id)


def test_without_tracking_there_is_no_change_id() -> None:
    disk = Disk(MIB, 1, track=False)
    assert disk.change_id is None
    assert disk.freeze().change_id is None
    disk.set_tracking(True)
    first = disk.change_id
    assert first
    disk.set_tracking(True)
    assert disk.change_id == first
    disk.set_tracking(False)
    with pytest.raises(ValueError, match="not tracked"):
        disk.changed_since(first)


def test_a_disk_is_safe_while_many_write_freeze_and_read() -> None:
    disk = Disk(4 * MIB, 1)
    torn: list[bytes] = []

    def write(number: int) -> None:
        for _ in range(50):
            disk.write(GRAIN - 512, bytes([number]) * 1024)

    def watch() -> None:
        for _ in range(50):
            seen = disk.freeze().read(GRAIN - 512, 1024)
            if len(set(seen)) != 1:
                torn.append(seen)

    disk.write(GRAIN - 512, b"0" * 1024)
    threads = [threading.Thread(target=write, args=(n,)) for n in range(1, 4)]
    threads += [threading.Thread(target=watch) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not torn


def test_pieces_of_a_stream_are_about_a_mebibyte() -> None:
    sizes = [len(piece) for piece in Disk(64 * MIB, 1).freeze().stream()]
    assert all(MIB <= size < MIB + 128 * KIB for size in sizes[:-1])
