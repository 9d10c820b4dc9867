"""A role of exactly the documented privileges restores; one with less is refused first."""

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim

import hyperexport
from hyperexport import errors
from hyperexport.base.stop import StopSignal
from hyperexport.model.vm import VmRef
from hyperexport.simulator import Simulator, UserSpec
from hyperexport.steps.check_restore import check_restore
from hyperexport.vsphere.endpoint import VSphereEndpoint
from hyperexport.vsphere.inventory import describe_many, find_vm
from hyperexport.vsphere.restore_privileges import RestoreNeeds
from hyperexport.vsphere.session import connect
from tests.engine.restores import DB01, VMS, disk
from tests.engine.simulator_client import find, finish, logged_in


def needed(way: str) -> frozenset[str]:
    """The privileges that a restore asks for, by its table, those that the simulator does not ask for left out."""
    needs = RestoreNeeds(power_on=True, attributes=True)
    if way == "disks":
        needs = RestoreNeeds(attach_to=VmRef(moref="vm-1", name="x", path="/x", instance_uuid=""))
    return frozenset(each.privilege for each in needs.requirements)


CASES = [(way, lacking) for way in ("a VM", "disks") for lacking in (None, *sorted(needed(way)))]


@pytest.fixture(scope="module")
def guarded(exports: Path) -> Generator[Simulator]:
    """A vCenter with a user for each case: a role of exactly what the table says, or of that less one privilege."""
    users = tuple(
        UserSpec(f"{way} {lacking}", "a password", privileges=needed(way) - {lacking}) for way, lacking in CASES
    )
    with Simulator(
        (replace(DB01, tags=()), VMS[1]), users=users, networks=("VM Network", "Backup"), pools=("web",)
    ) as simulator:
        yield simulator


@pytest.mark.parametrize(("way", "lacking"), CASES)
def test_a_role_of_exactly_the_table_restores_and_of_less_does_not_begin(
    way: str, lacking: str | None, guarded: Simulator, exports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in guarded.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GOVC_USERNAME", f"{way} {lacking}")
    monkeypatch.setenv("GOVC_PASSWORD", "a password")
    given: dict[str, Any] = {"name": "copy", "power_on": True, "identity": "new"}
    if way == "disks":
        given = {"attach_to": "other", "disks": [1]}
    before = guarded.requests.get("ImportVApp", 0)
    if lacking in {None, "Global.SetCustomField"}:
        result = hyperexport.restore(vm="db01", output=exports, **given)
        undo(guarded, way)
        assert ("lacks" in " ".join(result.warnings)) is (lacking is not None)
        return
    with pytest.raises(errors.PermissionMissing, match=lacking):
        hyperexport.restore(vm="db01", output=exports, **given)
    assert guarded.requests.get("ImportVApp", 0) == before


def undo(sim: Simulator, way: str) -> None:
    """Take away what a test has restored."""
    with logged_in(sim) as service:
        if way == "a VM":
            vm = find(service, "copy")
            finish(vm.PowerOffVM_Task())
            finish(vm.Destroy_Task())
            return
        vm = find(service, "other")
        spec = vim.vm.device.VirtualDeviceSpec(operation="remove", fileOperation="destroy", device=disk(vm.config, 1))
        finish(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[spec])))


@pytest.mark.parametrize("lacking", [None, "VApp.Import"])
def test_check_says_whether_a_restore_would_work(
    lacking: str | None, guarded: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in guarded.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GOVC_USERNAME", f"a VM {lacking}")
    monkeypatch.setenv("GOVC_PASSWORD", "a password")
    with connect(VSphereEndpoint.from_environment()) as session:
        vms = describe_many(session, [find_vm(session, "db01")])
        found = check_restore(session, vms, stop=StopSignal())
    assert {finding.level for finding in found} == {"ok" if lacking is None else "fail"}
    assert all(lacking in finding.words for finding in found if lacking)
