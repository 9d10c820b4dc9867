"""The manifest's seal: any change to the file that this tool did not make shows, and goes on showing."""

import contextlib

import pytest

from hyperexport.errors import ManifestInvalid
from hyperexport.model.manifest import ExportManifest
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
            with contextlib.suppress(ManifestInvalid):
                assert read(bytes(data)).seal is not None, (place, bit)
            data[place] ^= 1 << bit


def test_every_truncation_and_anything_appended_shows() -> None:
    for end in range(len(DATA) - 1):
        with pytest.raises(ManifestInvalid):
            read(DATA[:end])
    assert read(DATA[:-1]).seal
    assert read(DATA + b"\n").seal


def test_writing_a_damaged_manifest_again_does_not_hide_the_damage() -> None:
    damaged = read(DATA.replace("Ärger".encode(), b"Arger"))
    again = damaged.model_copy(update={"preserve": True})
    assert read(again.to_json()).seal == damaged.seal


def test_who_edits_by_hand_takes_the_seal_off_and_the_next_writing_seals_anew() -> None:
    head, _, _ = DATA.rpartition(b'"seal": "')
    edited = read(head.replace(b'"preserve": false', b'"preserve": true') + b'"seal": null}')
    assert edited.preserve
    assert edited.seal is None
    assert read(edited.to_json()) == edited
