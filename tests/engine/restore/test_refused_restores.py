"""Restores that are refused before a VM is made: no place for it, or an export that cannot be relied on."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hyperexport
from hyperexport import errors
from hyperexport.model.manifest import sealed
from hyperexport.model.restore import RestoreResult
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from hyperexport.store.local import LocalStore
from tests.engine.restores import (
    MIB,
    nothing_is_left,
)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"name": "DB01"}, errors.TargetExists, "already has something named 'DB01'"),
        ({"datastore": "ssd"}, errors.PlaceNotFound, "there are: datastore1, tiny"),
        ({"datastore": "tiny"}, errors.DatastoreFull, "tiny has 1.0 MB free"),
        ({"folder": "nowhere"}, errors.PlaceNotFound, "/DC0/vm/restored/linux"),
        ({"resource_pool": "nope"}, errors.PlaceNotFound, "/DC0/host/DC0_C0/Resources/drills"),
        ({"host": "esx-09"}, errors.PlaceNotFound, "esx-01, esx-02"),
        ({"networks": ["VM Network=Missing"]}, errors.PlaceNotFound, "Backup, Isolated, VM Network"),
        ({"networks": ["Other=Backup"]}, errors.PlaceNotFound, "was on no network 'Other'"),
        ({"networks": ["x"]}, errors.UsageError, "not SOURCE=TARGET"),
        ({"networks": ["none", "VM Network=Backup"]}, errors.UsageError, "leaves every adapter disconnected"),
        ({"disks": [7]}, errors.UsageError, "has no disk 7"),
        ({"attach_to": "other"}, errors.UsageError, "--attach-to needs the disks"),
        ({"attach_to": "other", "disks": [0], "power_on": True}, errors.UsageError, "--power-on would have no effect"),
        ({"attach_to": "nobody", "disks": [0]}, errors.VmNotFound, "nobody"),
        ({"disk_provisioning": "fat"}, errors.UsageError, "disk_provisioning"),
        ({"vm": "nobody"}, errors.ExportNotFound, "nobody"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_made(
    given: dict[str, Any], error: type[Exception], words: str, sim: Simulator, restore: Callable[..., RestoreResult]
) -> None:
    before = sim.requests.get("ImportVApp", 0)
    with pytest.raises(error, match=words):
        restore(**given)
    assert nothing_is_left(sim)
    assert sim.requests.get("ImportVApp", 0) == before


def test_a_place_that_is_not_there_any_more_has_to_be_given(
    sim: Simulator, restore: Callable[..., RestoreResult], tmp_path: Path
) -> None:
    spec = VmSpec("db01", folder="gone", powered_on=False, disks=(DiskSpec(2 * MIB),))
    with Simulator((spec,)) as elsewhere, pytest.MonkeyPatch.context() as patch:
        for name, value in elsewhere.environment().items():
            patch.setenv(name, value)
        hyperexport.export("db01", output=tmp_path)
    with pytest.raises(errors.PlaceNotFound, match="no VM folder '/DC0/vm/gone', where the VM was"):
        restore(output=tmp_path)
    result = restore(output=tmp_path, folder="restored", resource_pool="web")
    assert result.plan.identity == "keep"


@pytest.mark.parametrize("at", [600, -600, -70_000])
def test_a_stored_disk_that_rotted_never_becomes_a_vm(
    at: int, sim: Simulator, restore: Callable[..., RestoreResult], exports: Path
) -> None:
    (path,) = exports.glob("*/*/db01-disk-0.vmdk")
    whole = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    try:
        with pytest.raises(errors.HyperExportError) as failed:
            restore()
    finally:
        path.write_bytes(whole)
    assert failed.value.code == "verification-failed"
    assert nothing_is_left(sim)


def test_a_stored_disk_of_another_size_is_found_before_anything_is_made(
    sim: Simulator, restore: Callable[..., RestoreResult], exports: Path
) -> None:
    (path,) = exports.glob("*/*/db01-disk-0.vmdk")
    whole = path.read_bytes()
    path.write_bytes(whole[:-512])
    before = sim.requests.get("ImportVApp", 0)
    try:
        with pytest.raises(errors.VerificationFailed, match="the manifest says"):
            restore()
    finally:
        path.write_bytes(whole)
    assert sim.requests.get("ImportVApp", 0) == before


@pytest.mark.parametrize(
    ("old", "new", "error", "words"),
    [
        (b'"schema_version": 3', b'"schema_version": 9', errors.ExportNotFound, "schema_version"),
        (b'"damage": []', b'"damage": ["disk 0 rotted"]', errors.VerificationFailed, "disk 0 rotted"),
        (b"", None, errors.ExportNotFound, "export.json is missing"),
    ],
    ids=["newer schema", "noted damage", "incomplete"],
)
def test_an_export_that_cannot_be_relied_on_is_refused_before_anything_is_made(
    old: bytes,
    new: bytes | None,
    error: type[Exception],
    words: str,
    sim: Simulator,
    restore: Callable[..., RestoreResult],
    exports: Path,
    tmp_path: Path,
) -> None:
    shutil.copytree(exports, tmp_path / "store")
    (manifest,) = (tmp_path / "store").glob("*/*/export.json")
    head = manifest.read_bytes().rpartition(b'"seal": "')[0]
    manifest.unlink()
    if new is not None:
        assert old in head
        manifest.write_bytes(sealed(head.replace(old, new)))
    before = sim.requests.get("ImportVApp", 0)
    for named in ({"vm": "db01"}, {"vm": None, "export": manifest.parent.name}):
        with pytest.raises((error, errors.ExportNotFound), match=words if named["vm"] is None else "db01"):
            restore(output=tmp_path / "store", **named)
    assert sim.requests.get("ImportVApp", 0) == before


def test_a_restore_never_changes_the_store(
    sim: Simulator, restore: Callable[..., RestoreResult], exports: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in exports.rglob("*")}
    restore()
    assert {path: path.stat().st_mtime_ns for path in exports.rglob("*")} == before
    assert LocalStore(exports).listing().damaged == ()
