"""The manifest's seal: any change to the file that this tool did not make shows, and goes on showing."""

import pytest

from hyperexport.errors import ManifestInvalid
from hyperexport.model.damaged import DamagedExport, Problem
from hyperexport.model.manifest import ExportManifest, sealed
from tests.examples import an_export

MANIFEST = an_export(warnings=('the "seal": "was" broken', "Ärger"))
DATA = MANIFEST.to_json()


def read(data: bytes) -> ExportManifest:
    return ExportManifest.from_json(data, source="export.json")


def test_a_manifest_comes_back_as_it_was_written() -> None:
    assert read(DATA) == MANIFEST
    assert read(DATA).seal is None
    assert read(DATA).to_json() == DATA


def test_every_flipped_bit_of_a_manifest_shows() -> None:
    data = bytearray(DATA)
    for place in range(len(data)):
        for bit in range(8):
            data[place] ^= 1 << bit
            with pytest.raises(ManifestInvalid) as caught:
                read(bytes(data))
            assert caught.value.problem in {Problem.SEAL, Problem.INVALID}, (place, bit)
            data[place] ^= 1 << bit


def test_every_truncation_and_anything_appended_shows() -> None:
    for end in range(len(DATA)):
        with pytest.raises(ManifestInvalid):
            read(DATA[:end])
    with pytest.raises(ManifestInvalid):
        read(DATA + b"\n")


def test_a_manifest_that_was_edited_by_hand_is_damaged_with_or_without_a_seal() -> None:
    head, _, _ = DATA.rpartition(b'"seal": "')
    edited = head.replace(b'"preserve": false', b'"preserve": true')
    without = head.rstrip().removesuffix(b",") + b"}"
    for data in (edited + DATA.removeprefix(head), edited + b'"seal": null\n}\n', without):
        with pytest.raises(ManifestInvalid) as caught:
            read(data)
        assert caught.value.problem == Problem.SEAL


def test_a_manifest_of_the_first_schema_is_read() -> None:
    head, _, _ = DATA.rpartition(b'"seal": "')
    assert read(sealed(head.replace(b'"schema_version": 3', b'"schema_version": 1'))).schema_version == 1


@pytest.mark.parametrize(
    "change",
    [
        (b'"schema_version": 3', b'"schema_version": 4'),
        (b'"kind": "full"', b'"kind": "of the future"'),
        (b'"preserve": false', b'"preserve": false, "unheard_of": 1'),
    ],
)
def test_a_sealed_manifest_that_this_version_does_not_read_is_of_a_newer_one_and_nobody_is_told_to_delete_it(
    change: tuple[bytes, bytes],
) -> None:
    head, _, _ = DATA.rpartition(b'"seal": "')
    assert change[0] in head
    with pytest.raises(ManifestInvalid, match="a newer version of hyperexport") as caught:
        read(sealed(head.replace(*change)))
    assert caught.value.problem == Problem.NEWER
    assert caught.value.fix == "Update hyperexport here"
    damaged = DamagedExport(folder="db01.00000001", export_id="x", problem=Problem.NEWER, reason=caught.value.reason)
    assert damaged.remedy == "Update hyperexport here, and do not delete db01.00000001/x/"
