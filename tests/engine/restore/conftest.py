"""A simulated vCenter to restore into, and one export of a VM that has every setting."""

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

import hyperexport
from hyperexport.model.restore import RestoreResult
from hyperexport.simulator import DatastoreSpec, Simulator
from hyperexport.vsphere.names import escape
from tests.engine.restores import MIB, VMS, export_all, look
from tests.engine.simulator_client import find, finish, logged_in


@pytest.fixture(scope="session")
def shared() -> Generator[Simulator]:
    with Simulator(
        VMS,
        datastores=(DatastoreSpec("datastore1"), DatastoreSpec("tiny", MIB)),
        networks=("VM Network", "Backup", "Isolated"),
        pools=("web", "drills"),
        folders=("restored/linux",),
        boot_seconds=0.0,
    ) as simulator:
        yield simulator


@pytest.fixture
def sim(shared: Simulator, monkeypatch: pytest.MonkeyPatch) -> Generator[Simulator]:
    """The simulated vCenter, named by the environment; the VMs that a test makes are gone after it."""
    for name, value in shared.environment().items():
        monkeypatch.setenv(name, value)
    before = look(shared)
    yield shared
    shared.faults.clear()
    assert shared.leases() == []
    with logged_in(shared) as service:
        for vm in shared.vms():
            if vm.name not in {spec.name for spec in VMS}:
                found = find(service, escape(vm.name))
                if found.runtime.powerState == "poweredOn":
                    finish(found.PowerOffVM_Task())
                finish(found.Destroy_Task())
    assert shared.detached_disks() == []
    assert look(shared) == before, "a VM that was there before was touched"


@pytest.fixture(scope="session")
def exports(shared: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one export of db01."""
    return export_all(shared, tmp_path_factory.mktemp("exports"), "db01")


@pytest.fixture
def restore(sim: Simulator, exports: Path) -> Callable[..., RestoreResult]:
    """Restores db01's newest export, under another name unless the test gives one."""

    def run(**given: Any) -> RestoreResult:
        named = {"name": "copy"} if not given.keys() & {"name", "attach_to"} else {}
        return hyperexport.restore(**{"vm": "db01", "output": exports, **named, **given})

    return run
