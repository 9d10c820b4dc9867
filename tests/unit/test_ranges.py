"""Ranges of a disk: which grains are read together, and which disks are one flat file."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperexport.formats.flat_extent import FlatExtent, NotFlat, flat_extent
from hyperexport.formats.vmdk import GRAIN
from hyperexport.transfer.ranges import LARGEST_RANGE, Range, joined

HEAD = 'version=1\nCID=1234abcd\nparentCID=ffffffff\ncreateType="vmfs"\n'


@given(st.sets(st.integers(0, 200), max_size=80), st.integers(1, 201 * GRAIN))
def test_ranges_hold_the_grains_that_are_asked_for_and_nothing_else(grains: set[int], capacity: int) -> None:
    inside = sorted(number for number in grains if number * GRAIN < capacity)
    found = list(joined(inside, grain=GRAIN, capacity=capacity, largest=4 * GRAIN))
    held = [
        number for part in found for number in range(part.offset // GRAIN, -(-(part.offset + part.length) // GRAIN))
    ]
    assert held == inside
    assert all(0 < part.length <= 4 * GRAIN and part.offset + part.length <= capacity for part in found)


def test_neighbours_are_one_range_up_to_the_largest() -> None:
    most = LARGEST_RANGE // GRAIN
    found = list(joined(range(most + 2), grain=GRAIN, capacity=1 << 30))
    assert found == [Range(0, LARGEST_RANGE), Range(LARGEST_RANGE, 2 * GRAIN)]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (HEAD + 'RW 4096 VMFS "db01-flat.vmdk"\n', "db01-flat.vmdk"),
        (HEAD.replace("vmfs", "monolithicFlat") + 'RW 4096 FLAT "a b-flat.vmdk" 0\n', "a b-flat.vmdk"),
        (HEAD.replace("\n", "\r\n") + 'RW 4096 VMFS "db01-flat.vmdk"\r\n', "db01-flat.vmdk"),
    ],
)
def test_a_flat_disk_names_its_file_and_size(text: str, name: str) -> None:
    assert flat_extent(text.encode()) == FlatExtent(name, 4096 * 512)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (HEAD.replace("ffffffff", "0badcafe") + 'RW 4096 VMFS "d.vmdk"\n', "delta on another disk"),
        (HEAD.replace("vmfs", "seSparse") + 'RW 4096 SESPARSE "d.vmdk"\n', "type seSparse"),
        (HEAD.replace("vmfs", "vmfsPassthroughRawDeviceMap") + 'RW 4096 VMFSRDM "d.vmdk"\n', "RawDeviceMap"),
        (HEAD + 'RW 4096 VMFS "a.vmdk"\nRW 4096 VMFS "b.vmdk"\n', "2 extents"),
        (HEAD + 'RW 4096 VMFS "vsan://52a9/disk"\n', "vSAN"),
        (HEAD + 'RW 4096 VMFS "../other/other-flat.vmdk"\n', "no file beside it"),
        (HEAD + 'RW 4096 VMFS ".."\n', "no file beside it"),
        (HEAD + 'RW 4096 FLAT "a.vmdk" 0\n', "not a flat file"),
        (HEAD.replace("vmfs", "monolithicFlat") + 'RW 4096 FLAT "a.vmdk" 8\n', "not a flat file"),
        (HEAD, "no descriptor"),
        (HEAD + HEAD + 'RW 4096 VMFS "a.vmdk"\n', "no descriptor"),
        ("\0\1\2KDMV", "no descriptor"),
        ("", "no descriptor"),
    ],
)
def test_any_other_disk_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(NotFlat, match=why):
        flat_extent(text.encode())
