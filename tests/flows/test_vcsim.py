"""The main job against VMware's own simulator, which we did not write: what it has, it has to do with us."""

import subprocess
from pathlib import Path

import pytest

from hyperexport.flows import export_vm, vm_info
from hyperexport.options.precedence import ExportOptions
from hyperexport.options.selection import Selection
from tests.conformance.vcsim import Vcsim, place_disk
from tests.flows.support import exports_in

pytestmark = pytest.mark.conformance

VM = "DC0_H0_VM3"
CAPACITIES = (10 << 30, 1 << 30)
"""What vcsim gives its first disk, and our own main the second."""


@pytest.fixture
def vm(vcsim: Vcsim, tmp_path: Path, qemu_img: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, list[Path]]:
    """A VM of vcsim's, with real disks in the place of its dummies; its name and the raw content of its disks."""
    for name, value in vcsim.environment.items():
        monkeypatch.setenv(name, value)
    raws: list[Path] = []
    for disk, capacity in enumerate(CAPACITIES):
        raw, vmdk = tmp_path / f"{disk}.raw", tmp_path / f"{disk}.vmdk"
        with raw.open("wb") as file:
            file.write(f"what disk {disk} holds ".encode() * 99_999)
            file.seek(700 << 20)
            file.write(bytes(range(256)) * 4096)
            file.truncate(capacity)
        convert = [qemu_img, "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, vmdk]
        subprocess.run(convert, check=True)
        place_disk(vcsim, VM, vmdk, disk)
        raws.append(raw)
    return VM, raws


def test_a_vm_of_vcsim_is_shown(vm: tuple[str, list[Path]]) -> None:
    (found,) = vm_info(Selection(vm=(vm[0],)))
    assert found.ref.path == f"/DC0/vm/{vm[0]}"
    assert [disk.capacity for disk in found.disks] == list(CAPACITIES)


def test_a_running_vm_of_vcsim_is_exported_byte_for_byte(
    vm: tuple[str, list[Path]], vcsim: Vcsim, store: Path, qemu_img: Path
) -> None:
    name, raws = vm

    result = export_vm(name, ExportOptions.from_keys({"output": store, "snapshot": True, "verify": True}))

    (export,) = exports_in(store)
    for raw, entry in zip(raws, export.manifest.disks, strict=True):
        exported = store / str(export) / entry.name
        subprocess.run([qemu_img, "compare", "-f", "raw", "-F", "vmdk", raw, exported], check=True)
    assert result.verified is True
    assert any("descriptor" in warning for warning in result.warnings), "vcsim makes none, so it was built here"
    assert "hyperexport" not in vcsim.govc("snapshot.tree", "-vm", name)
