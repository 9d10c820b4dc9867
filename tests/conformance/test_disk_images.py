"""What we convert and serve, read by programs that we did not write: qemu-img, nbdinfo, nbdcopy, libvirt's schema."""

import json
import subprocess
from pathlib import Path

import pytest

from hyperexport.base.stop import StopSignal
from hyperexport.convert.conversion import convert_export
from hyperexport.convert.libvirt import DiskImageFile, domain_xml
from hyperexport.convert.package import merge
from hyperexport.convert.values import Target
from hyperexport.formats.vmdk import GRAIN
from hyperexport.images.opening import open_disks
from hyperexport.nbd.server import NbdServer
from hyperexport.store.local import LocalStore
from tests.engine import stored_images, verifiable
from tests.examples import a_disk_file, an_export
from tests.images import disk_of, vmdk_of
from tests.peers import require_program


def compare(qemu_img: Path, ours: Path | str, form: str, guest: bytes, scratch: Path) -> None:
    """Have qemu-img compare an image with the guest's bytes."""
    raw = scratch / "guest.raw"
    raw.write_bytes(guest)
    subprocess.run([qemu_img, "compare", "-f", form, "-F", "raw", str(ours), raw], check=True, capture_output=True)


@pytest.mark.parametrize("form", stored_images.FORMS)
@pytest.mark.parametrize("to", [Target.RAW, Target.QCOW2, Target.VHDX, Target.VMDK])
def test_an_image_of_every_format_is_the_guests_disk(to: Target, form: str, tmp_path: Path, qemu_img: Path) -> None:
    store = LocalStore(tmp_path / "store")
    export = stored_images.publish(form, store, tmp_path)

    made = convert_export(store, export, to=to, into=tmp_path / "out", stop=StopSignal())

    for file, guest in zip(made.files, stored_images.GUEST, strict=True):
        compare(qemu_img, file.path, to.value, guest, tmp_path)
        if to is not Target.RAW:
            subprocess.run([qemu_img, "check", "-f", to.value, file.path], capture_output=True)


def test_a_chain_that_was_merged_is_one_vmdk_for_qemu(tmp_path: Path, qemu_img: Path) -> None:
    capacity = 40 * (1 << 20)
    expected = bytearray(capacity)
    for number, content in ((0, b"base"), (7, b"two")):
        expected[number * GRAIN : number * GRAIN + len(content)] = content
    base = vmdk_of(capacity, {0: b"base", 5: b"base"})
    delta = vmdk_of(capacity, {5: b"", 7: b"two"}, delta=True)

    with disk_of(base, delta) as disk:
        (tmp_path / "whole.vmdk").write_bytes(b"".join(piece for piece, _ in merge(disk, "whole.vmdk")))

    compare(qemu_img, tmp_path / "whole.vmdk", "vmdk", bytes(expected), tmp_path)


@pytest.mark.parametrize("form", stored_images.FORMS)
@pytest.mark.parametrize("over", ["unix", "tcp"])
def test_nbd_clients_read_the_guests_disks(over: str, form: str, tmp_path: Path, qemu_img: Path) -> None:
    nbdcopy = require_program("nbdcopy", "libnbd's clients do not read from our server")
    nbdinfo = require_program("nbdinfo", "libnbd's clients do not read from our server")
    store = LocalStore(tmp_path / "store")
    export = stored_images.publish(form, store, tmp_path)
    with open_disks(store, export, stop=StopSignal()) as disks:
        images = {f"disk-{number}": disk for number, disk in enumerate(disks)}
        with NbdServer(images, socket_path=tmp_path / "nbd" if over == "unix" else None) as server:
            for number, guest in enumerate(stored_images.GUEST):
                uri = server.uri(f"disk-{number}")
                compare(qemu_img, uri, "raw", guest, tmp_path)
                subprocess.run([nbdcopy, uri, tmp_path / "copy"], check=True, capture_output=True)
                assert (tmp_path / "copy").read_bytes() == guest
            told = subprocess.run([nbdinfo, "--json", server.uri()], check=True, capture_output=True, text=True).stdout
            mapped = subprocess.run([nbdinfo, "--map", "--json", server.uri()], check=True, capture_output=True).stdout
    (export_told,) = json.loads(told)["exports"]
    assert export_told["is_read_only"] is True
    assert export_told["can_multi_conn"] is True
    assert export_told["export-size"] == verifiable.CAPACITY
    stretches = json.loads(mapped)
    assert {stretch["type"] for stretch in stretches} == {0, 3}
    assert sum(stretch["length"] for stretch in stretches) == verifiable.CAPACITY
    for stretch in stretches:
        if stretch["type"] == 3:
            begin = stretch["offset"]
            assert not any(stored_images.GUEST[0][begin : begin + stretch["length"]])


CONTROLLERS = (
    ("ParaVirtualSCSIController", "scsi", "vmpvscsi"),
    ("VirtualLsiLogicController", "scsi", "lsilogic"),
    ("VirtualLsiLogicSASController", "scsi", "lsisas1068"),
    ("VirtualBusLogicController", "scsi", "lsilogic"),
    ("VirtualAHCIController", "sata", None),
    ("VirtualIDEController", "ide", None),
    ("VirtualNVMEController", "sata", None),
)
NICS = ("VirtualVmxnet3", "VirtualE1000", "VirtualE1000e", "VirtualPCNet32", "VirtualSriovEthernetCard")


@pytest.mark.parametrize("firmware", ["bios", "efi", "secure"])
@pytest.mark.parametrize(("kind", "bus", "model"), CONTROLLERS)
def test_a_domain_of_every_hardware_is_one_for_libvirts_schema(
    kind: str, bus: str, model: str | None, firmware: str, tmp_path: Path
) -> None:
    validate = require_program("virt-xml-validate", "no domain definition is checked against libvirt's schema")
    require_program("xmllint", "no domain definition is checked against libvirt's schema")
    device = {"_vimtype": f"vim.vm.device.{kind}", "key": 1000, "busNumber": 0}
    disks = [{"key": 2000 + n, "controllerKey": 1000, "unitNumber": n} for n in (0, 1)]
    nics = [
        {"_vimtype": f"vim.vm.device.{nic}", "key": 4000 + n, "macAddress": f"00:50:56:00:00:0{n}"}
        for n, nic in enumerate(NICS)
    ]
    configuration = {
        "uuid": "93390189-d2f2-47bd-9f5f-fc586c0af483",
        "annotation": "made <by> \x07 & for",
        "guestId": "windows2019srv_64Guest",
        "firmware": "bios" if firmware == "bios" else "efi",
        "bootOptions": {"efiSecureBootEnabled": firmware == "secure"},
        "hardware": {"numCPU": 4, "numCoresPerSocket": 2, "memoryMB": 4096, "device": [device, *disks, *nics]},
    }
    images = [DiskImageFile(a_disk_file(n), Path(f"/images/{n}.qcow2"), "qcow2") for n in (0, 1)]

    text, _ = domain_xml(an_export(), configuration, images)

    (tmp_path / "vm.xml").write_text(text)
    checked = subprocess.run([validate, tmp_path / "vm.xml", "domain"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr + text
    # EFI has no IDE, and QEMU's EFI firmware no driver for SCSI controllers.
    expected = bus if firmware == "bios" else "sata"
    assert text.count(f'bus="{expected}"') == 2
    if model is not None and firmware == "bios":
        assert f'model="{model}"' in text
