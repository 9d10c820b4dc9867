"""A real guest comes back: a random number in its initramfs is read on the serial console of what its export became.

The guest is written into a running simulated VM and exported. Then the number is shown by the VM that was restored, by
the qcow2 image that was converted, and by the drill that boots straight from the store.
"""

import os
from collections.abc import Callable, Generator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import hyperexport
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from tests.engine.s3_servers import S3Server, rclone_s3
from tests.guest_os import SIZE, Parts, make_disk, number_shown_by, number_shown_by_domain, require_parts

GRAIN = 1 << 16
DRILL: dict[str, Any] = {"timeout": timedelta(seconds=170), "emulate": True, "memory_mib": 256}


class Guest:
    """A VM that runs on the simulator, and the number that its disk shows now."""

    def __init__(self, vcenter: Simulator, name: str, parts: Parts, folder: Path) -> None:
        self.vcenter, self.name = vcenter, name
        self._parts, self._folder = parts, folder
        self.number = ""
        self.renew()

    def renew(self) -> str:
        """Write the guest anew, with another number: only what differs, as an update of its kernel would."""
        self.number = os.urandom(8).hex()
        vm = self.vcenter.vm(self.name)
        raw = make_disk(self._folder / f"{self.name}.raw", self.number, self._parts).read_bytes()
        for start in range(0, SIZE, GRAIN):
            piece = raw[start : start + GRAIN]
            if piece != vm.read_disk(0, start, len(piece)):
                vm.guest_write(0, start, piece)
        return self.number


class Scene(NamedTuple):
    """What the tests of this file share."""

    guest: Callable[[str], Guest]
    server: S3Server


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Generator[Scene]:
    parts = require_parts()
    folder = tmp_path_factory.mktemp("guests")
    vms = [
        VmSpec("bios01", disks=(DiskSpec(SIZE, used=0.0),), firmware="bios"),
        VmSpec("efi01", disks=(DiskSpec(SIZE, used=0.0),), firmware="efi"),
    ]
    guests: dict[str, Guest] = {}
    with (
        rclone_s3(folder / "rclone") as server,
        Simulator(vms, boot_seconds=0.0) as vcenter,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in vcenter.environment().items():
            patch.setenv(name, value)
        patch.setenv("AWS_ACCESS_KEY_ID", server.access_key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", server.secret_key)
        patch.setenv("AWS_CA_BUNDLE", str(server.ca_file))

        def guest(name: str) -> Guest:
            return guests.get(name) or guests.setdefault(name, Guest(vcenter, name, parts, folder))

        yield Scene(guest, server)


def export(guest: Guest, where: dict[str, Any], **given: Any) -> str:
    """Export the running VM; returns the export's id."""
    result = hyperexport.export(guest.name, snapshot=True, **where, **given)
    assert result.manifest
    return result.manifest.export_id


def place(scene: Scene, kind: str, folder: Path, name: str) -> dict[str, Any]:
    """Options of a folder, or of a bucket."""
    if kind == "folder":
        return {"output": folder}
    bucket = scene.server.make_bucket(f"guests-{name}")
    return {"output": folder, "upload": f"s3://{bucket}/x", "s3_endpoint": scene.server.endpoint_url}


def shown_by_drill(export_id: str, number: str, where: dict[str, Any]) -> list[str]:
    """Drill an export on QEMU until it shows the number; returns what was not as on vSphere."""
    (one,) = hyperexport.restore_drill(export_id, expect=f"proof={number}", **where, **DRILL)
    assert one.record is not None
    assert one.record.passed
    assert f"proof={number}" in one.record.console
    return list(one.record.warnings)


def disk_of(guest: Guest) -> bytes:
    """What the guest has on its disk now."""
    return guest.vcenter.vm(guest.name).read_disk(0, 0, SIZE)


def restore(guest: Guest, export_id: str, where: dict[str, Any], raw: Path) -> None:
    """Restore an export, save the disk of the VM that was made, and destroy it."""
    restored = hyperexport.restore(export_id, name=f"{guest.name}-copy", networks=("none",), **where)
    assert restored.vm
    vm = guest.vcenter.vm(f"{guest.name}-copy")
    vm.save_raw(0, raw)
    vm.destroy()


def convert(export_id: str, where: dict[str, Any], folder: Path, *, to: str) -> None:
    """Convert an export into a folder of the format's name."""
    hyperexport.convert_export(export_id, to=to, into=folder / to, **where)


def shown_by_restored(guest: Guest, export_id: str, where: dict[str, Any], folder: Path) -> str:
    """Restore an export, and boot the disk of the VM that was made."""
    restore(guest, export_id, where, folder / "restored.raw")
    return number_shown_by(folder / "restored.raw", "raw")


def shown_by_converted(export_id: str, where: dict[str, Any], folder: Path) -> str:
    """Convert an export, and boot the image."""
    convert(export_id, where, folder, to="qcow2")
    (image,) = (folder / "qcow2").rglob("*.qcow2")
    return number_shown_by(image, "qcow2")


@pytest.mark.timeout(900)
def test_a_guest_comes_back_restored_converted_and_from_its_store_full_and_incremental(
    scene: Scene, tmp_path: Path
) -> None:
    """One boot, which takes half a minute; what else equals the guest's disk byte by byte boots in the long matrix."""
    guest = scene.guest("bios01")
    where = place(scene, "folder", tmp_path / "store", "suite")
    first, earlier = export(guest, where), disk_of(guest)
    number = guest.renew()
    second, later = export(guest, where, incremental=True), disk_of(guest)
    assert earlier != later

    restore(guest, first, where, tmp_path / "restored.raw")
    convert(second, where, tmp_path, to="raw")

    (converted,) = (tmp_path / "raw").rglob("*.raw")
    assert (tmp_path / "restored.raw").read_bytes() == earlier
    assert converted.read_bytes() == later
    assert shown_by_drill(second, number, where) == []


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_guest_that_boots_by_efi_comes_up_from_an_ova_in_s3(scene: Scene, tmp_path: Path) -> None:
    guest = scene.guest("efi01")
    where = place(scene, "s3", tmp_path / "store", "efi")
    made = export(guest, where, format="ova")
    (warning, *_) = [
        words for words in shown_by_drill(made, guest.number, {**where, "keep_local": False}) if "SATA" in words
    ]
    assert "no driver for vmpvscsi" in warning


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_domain_for_libvirt_of_an_efi_vm_boots_from_the_controller_that_it_names(
    scene: Scene, tmp_path: Path
) -> None:
    guest = scene.guest("efi01")
    where = place(scene, "folder", tmp_path / "store", "libvirt")
    converted = hyperexport.convert_export(
        export(guest, where), to="qcow2", into=tmp_path / "kvm", libvirt=True, **where
    )
    assert any("SATA" in words for words in converted.warnings)
    (definition,) = (tmp_path / "kvm").rglob("*.xml")
    assert number_shown_by_domain(definition.read_text(), tmp_path) == guest.number


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("package", ["ovf", "ova"])
@pytest.mark.parametrize("kind", ["folder", "s3"])
@pytest.mark.parametrize("name", ["bios01", "efi01"])
def test_a_guest_comes_back_from_every_form_of_export(
    name: str, kind: str, package: str, scene: Scene, tmp_path: Path
) -> None:
    guest = scene.guest(name)
    where = place(scene, kind, tmp_path / "store", f"{name}-{package}")
    made = [(export(guest, where, format=package), guest.number)]
    made.append((export(guest, where, format=package, incremental=True), guest.number))
    guest.renew()
    made.append((export(guest, where, format=package, incremental=True), guest.number))
    reading = where | {"keep_local": kind == "folder"}
    for number, (export_id, shown) in enumerate(made):
        folder = tmp_path / str(number)
        folder.mkdir()
        shown_by_drill(export_id, shown, reading)
        assert shown_by_restored(guest, export_id, reading, folder) == shown
        assert shown_by_converted(export_id, reading, folder) == shown
