"""The engine without Prefect against VMware's own simulator, which we did not write."""

import subprocess
from pathlib import Path

import pytest

import hyperexport
from hyperexport import errors
from hyperexport.base import retry as with_retries
from tests.conformance.vcsim import Vcsim, place_disk

VM = "DC0_H0_VM2"
CAPACITIES = (10 << 30, 1 << 30)
"""What vcsim gives its first disk, and our own main the second."""


@pytest.fixture
def raws(vcsim: Vcsim, tmp_path: Path, qemu_img: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The raw content of each of the VM's disks, which stand in the place of vcsim's dummies."""
    for name, value in vcsim.environment.items():
        monkeypatch.setenv(name, value)
    raws: list[Path] = []
    for disk, capacity in enumerate(CAPACITIES):
        raw, vmdk = tmp_path / f"{disk}.raw", tmp_path / f"{disk}.vmdk"
        with raw.open("wb") as file:
            file.write(f"what disk {disk} holds ".encode() * 9999)
            file.truncate(capacity)
        convert = [qemu_img, "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, vmdk]
        subprocess.run(convert, check=True)
        place_disk(vcsim, VM, vmdk, disk)
        raws.append(raw)
    return raws


def test_a_running_vm_of_vcsim_is_exported_byte_for_byte(
    raws: list[Path], vcsim: Vcsim, tmp_path: Path, qemu_img: Path
) -> None:
    assert [disk.capacity for disk in hyperexport.vm_info(VM)[0].disks] == list(CAPACITIES)

    result = hyperexport.export(VM, output=tmp_path / "exports", snapshot=True, verify=True)

    assert result.verified is True
    assert result.manifest is not None
    for raw, entry in zip(raws, result.manifest.disks, strict=True):
        exported = Path(result.locations[0]) / entry.name
        subprocess.run([qemu_img, "compare", "-f", "raw", "-F", "vmdk", raw, exported], check=True)
    assert "hyperexport" not in vcsim.govc("snapshot.tree", "-vm", VM)


def test_a_disk_of_vcsim_that_is_no_vmdk_is_an_error_that_leaves_nothing(vcsim: Vcsim, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(with_retries, "RETRY_DELAYS", (0,))
    for name, value in vcsim.environment.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(errors.StreamCorrupt):
        hyperexport.export("DC0_H0_VM1", output=tmp_path, snapshot=True)

    assert list(tmp_path.rglob("*.partial")) == []
    assert "hyperexport" not in vcsim.govc("snapshot.tree", "-vm", "DC0_H0_VM1")
