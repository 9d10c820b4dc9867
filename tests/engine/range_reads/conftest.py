"""A simulated vCenter whose disks are read in ranges, by the datastore or by nbdkit, and a store for their exports."""

import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from tests.chains import Place, folder_place
from tests.engine.nbdkit_tool import Nbdkit, install
from tests.engine.ranges import OFF, ON, SIZE


@pytest.fixture
def disks() -> tuple[DiskSpec, ...]:
    """The disks of each VM, in a module that does not give others."""
    return (DiskSpec(SIZE, used=0.6, seed=5),)


@pytest.fixture
def vcenter(monkeypatch: pytest.MonkeyPatch, disks: tuple[DiskSpec, ...]) -> Generator[Simulator]:
    """A vCenter with a VM that is off and one that is on, named by the environment."""
    with Simulator([VmSpec(OFF, powered_on=False, disks=disks), VmSpec(ON, disks=disks)]) as simulator:
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        yield simulator


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return folder_place(tmp_path / "exports")


@pytest.fixture
def nbdkit(tmp_path: Path, vcenter: Simulator, monkeypatch: pytest.MonkeyPatch) -> Nbdkit:
    return install(tmp_path / "nbdkit", vcenter, monkeypatch)


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """A folder for temporary files of the test's own; its path is short, as that of a socket has to be."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)
