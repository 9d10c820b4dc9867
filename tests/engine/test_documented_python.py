"""The examples of docs/python.md that use the engine alone, run as they stand there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from hyperexport.store.local import LocalStore
from tests.engine import stored_images
from tests.flows.support import exported_bytes, guest_bytes

ROOT = Path(__file__).parents[2]
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), flags=re.DOTALL)
ENGINE = [example for example in EXAMPLES if "hyperexport." in example]  # others are flows


@pytest.mark.parametrize("example", ENGINE, ids=["ten lines", "progress"])
def test_an_example_of_the_engine_exports_the_vm(example: str, tmp_path: Path) -> None:
    with Simulator([VmSpec("db01", disks=(DiskSpec(6 << 20),))]) as vcenter:
        environment = {**vcenter.environment(), "PYTHONPATH": str(ROOT), "PATH": ""}
        done = subprocess.run(
            [sys.executable, "-c", example], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        (export,) = LocalStore(tmp_path / "exports").exports()
        assert exported_bytes(LocalStore(tmp_path / "exports"), export) == guest_bytes(vcenter, "db01")
    assert "db01" in done.stdout


def test_the_example_of_disk_images_reads_an_export_back(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "disk-images.md").read_text(), flags=re.DOTALL)
    stored_images.publish("ovf", LocalStore(tmp_path / "exports"), tmp_path)

    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )

    assert (tmp_path / "kvm" / "db01-disk-0.raw").read_bytes() == stored_images.GUEST[0]
    assert "nbd+unix:///disk-0?socket=" in done.stdout
    assert "disk1 None" in done.stdout


def test_the_first_example_is_as_short_as_it_says() -> None:
    assert len([line for line in ENGINE[0].splitlines() if line.strip()]) <= 10
