"""A VM may be called anything, and so may its files: nothing is written outside the export's folder."""

import re
from collections.abc import Generator
from pathlib import Path

import pytest

import hyperexport
from hyperexport.model.manifest import is_export_id, is_vm_folder
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from hyperexport.vsphere.endpoint import VSphereEndpoint
from tests.engine.conftest import endpoint_of

MIB = 1 << 20
NAMES = [
    "../../../../../../tmp/hyperexport-escaped", "/etc/passwd", "..", "C:\\Windows\\x", "nul.txt", "--help",
    "a\tb\nverified=true", "\x9b31m\u202egnp.exe", "x" * 4000, "[/bold]<b>*|",
]  # fmt: skip


@pytest.fixture(scope="module")
def hostile() -> Generator[VSphereEndpoint]:
    disks = (DiskSpec(MIB),)
    specs = [VmSpec(name, disks=disks, powered_on=False, target_prefix="../../../../etc/") for name in NAMES]
    with Simulator(tuple(specs)) as simulator:
        yield endpoint_of(simulator)


def written(root: Path) -> list[tuple[str, ...]]:
    return [path.relative_to(root).parts for path in root.rglob("*") if path.is_file()]


def test_no_name_leads_out_of_the_exports_folder(hostile: VSphereEndpoint, tmp_path: Path) -> None:
    store = tmp_path / "deep" / "exports"
    (tmp_path / "witness").write_text("here before")
    known = {info.name: info.ref for info in hyperexport.vm_info(match="*", vsphere=hostile)}
    assert set(known) == set(NAMES), "names come as they are"
    for number, name in enumerate(NAMES):
        form = "ova" if number % 5 == 0 else "ovf"
        result = hyperexport.export(known[name].path, vsphere=hostile, output=store, format=form, verify=number % 5 < 2)
        assert result.manifest is not None
        assert result.manifest.vm.name == name
        assert result.verified is not False
    files = written(tmp_path)
    assert ("witness",) in files
    for path in files:
        if path == ("witness",):
            continue
        deep, exports, folder, export_id, file = path
        assert (deep, exports) == ("deep", "exports")
        assert is_vm_folder(folder)
        assert is_export_id(export_id)
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,110}", file)
    assert len({path[2] for path in files if len(path) == 5}) == len(NAMES), "each VM has a folder of its own"
    assert not Path("/tmp/hyperexport-escaped").exists()
    assert len(hyperexport.open_store(str(store)).exports()) == len(NAMES)
