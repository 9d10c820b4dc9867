"""A VM with two disks, and the stores that its chains of deltas go to."""

from collections.abc import Generator
from pathlib import Path

import pytest

from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from tests.chains import (
    Place,
    folder_place,
    s3_place,
)
from tests.engine.delta_vm import MIB, SIZE
from tests.engine.s3_servers import S3Server


@pytest.fixture
def vcenter(monkeypatch: pytest.MonkeyPatch) -> Generator[Simulator]:
    disks = (DiskSpec(SIZE, used=0.6, seed=5), DiskSpec(2 * MIB, used=0.5, seed=6))
    with Simulator([VmSpec("db01", disks=disks, firmware="bios")]) as simulator:
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        yield simulator


@pytest.fixture
def folder(tmp_path: Path) -> Place:
    return folder_place(tmp_path / "exports")


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, folder: Place) -> Place:
    if request.param == "folder":
        return folder
    server: S3Server = request.getfixturevalue("server")
    return s3_place(server, server.make_bucket(f"b{abs(hash(request.node.name)) % 10**9}"))
