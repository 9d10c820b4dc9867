"""An export reads a VM that is off through one lease, and small files before disks."""

import logging
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim

import hyperexport
from hyperexport import errors
from hyperexport.model.manifest import FileRole
from hyperexport.model.progress import Progress, subscribed
from hyperexport.simulator import DiskSpec, Fault, FaultKind, Simulator, VmSpec, leases
from hyperexport.steps import disks, plan
from hyperexport.store.local import LocalStore
from tests.engine.simulator_client import find, finish, logged_in
from tests.flows.support import exported_bytes, exports_in, guest_bytes, leftovers

MIB = 1 << 20
DISKS = (DiskSpec(6 * MIB), DiskSpec(4 * MIB), DiskSpec(2 * MIB))


@pytest.fixture
def vcenter(monkeypatch: pytest.MonkeyPatch) -> Generator[Simulator]:
    """A simulated vCenter with a VM that is off and one that runs, named by the environment."""
    vms = [VmSpec("files01", powered_on=False, disks=DISKS), VmSpec("efi01", disks=DISKS[1:])]
    with Simulator(vms) as simulator:
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        yield simulator


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "exports"


def told_while(act: Callable[[], Any]) -> list[Progress]:
    """Everything that is told of the progress while something is done."""
    seen: list[Progress] = []
    with subscribed(seen.append):
        act()
    return seen


def test_its_disks_come_byte_for_byte_through_one_lease(vcenter: Simulator, store: Path) -> None:
    hyperexport.export("files01", output=store)

    (export,) = exports_in(store)
    assert exported_bytes(LocalStore(store), export) == guest_bytes(vcenter, "files01")
    assert vcenter.requests["ExportVm"] == 1
    assert vcenter.requests["HttpNfcLeaseComplete"] == 1
    assert leftovers(vcenter, store) == []


@pytest.mark.parametrize(
    "fault",
    [
        Fault(FaultKind.LEASE_EXPIRED, disk=1, at_byte=MIB // 4),
        Fault(FaultKind.CUT, disk=1, at_byte=MIB // 4),
        Fault(FaultKind.EMPTY, disk=1),
    ],
    ids=lambda fault: fault.kind,
)
def test_after_a_failure_a_fresh_lease_goes_on_with_the_disk_that_failed(
    vcenter: Simulator, store: Path, fault: Fault
) -> None:
    vcenter.faults.add(fault)

    seen = told_while(lambda: hyperexport.export("files01", output=store))

    (export,) = exports_in(store)
    assert exported_bytes(LocalStore(store), export) == guest_bytes(vcenter, "files01")
    assert vcenter.requests["ExportVm"] == 2
    done = [each.item for each in seen if each.done]
    assert done == ["files01.nvram", "files01-disk-0.vmdk", "files01-disk-1.vmdk", "files01-disk-2.vmdk"]
    assert leftovers(vcenter, store) == []


def test_it_cannot_be_powered_on_after_its_disks_are_planned_as_unchanged(
    vcenter: Simulator, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hyperexport.export("files01", output=store)
    vcenter.vm("files01").guest_write(0, 0, b"changed")
    ask, refusals = plan.ask_change_tracking, list[Exception]()

    def ask_and_power_on(*arguments: Any) -> Any:
        answers = ask(*arguments)
        with logged_in(vcenter) as service, pytest.raises(vim.fault.TaskInProgress) as refused:
            finish(find(service, "files01").PowerOnVM_Task())
        refusals.append(refused.value)
        return answers

    monkeypatch.setattr(plan, "ask_change_tracking", ask_and_power_on)
    hyperexport.export("files01", output=store, incremental=True)
    newest = LocalStore(store).exports()[0]
    assert [disk.transferred for disk in newest.manifest.disks] == [True, False, False]
    assert len(refusals) == 1
    assert leftovers(vcenter, store) == []


def test_a_vm_that_ran_between_two_leases_is_not_put_together_from_different_moments(
    vcenter: Simulator, store: Path
) -> None:
    vcenter.faults.add(Fault(FaultKind.CUT, disk=1, at_byte=MIB // 4))
    vm = vcenter.vm("files01")

    def run_for_a_moment(progress: Progress) -> None:
        if progress.failed:
            vm.power_on()
            vm.guest_write(0, 0, b"written between the disks")
            vm.power_off()

    with subscribed(run_for_a_moment), pytest.raises(errors.HyperExportError) as caught:
        hyperexport.export("files01", output=store)

    assert caught.value.code in ("vm-changed", "vm-powered-on")
    assert exports_in(store) == []
    assert leftovers(vcenter, store) == []


def test_a_task_in_the_way_is_waited_for_and_said_once(
    vcenter: Simulator, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    vcenter.faults.add(Fault(FaultKind.TASK_IN_PROGRESS, vm="files01", method="ExportVm", times=3))

    with caplog.at_level(logging.WARNING):
        hyperexport.export("files01", output=store)

    assert len(exports_in(store)) == 1
    assert len([line for line in caplog.messages if "waiting for" in line]) == 1


def test_small_files_come_before_disks(vcenter: Simulator, store: Path) -> None:
    seen = told_while(lambda: hyperexport.export("efi01", output=store, snapshot=True))
    assert next(each.item for each in seen if each.moved) == "efi01.nvram"


def test_an_nvram_that_cannot_be_read_fails_before_a_disk_is_asked_for(vcenter: Simulator, store: Path) -> None:
    vcenter.faults.add(Fault(FaultKind.HTTP_STATUS, vm="efi01", disk=-1, status=404, times=0))

    seen: list[Progress] = []
    with subscribed(seen.append), pytest.raises(errors.ServerFault, match="nvram"):
        hyperexport.export("efi01", output=store, snapshot=True)

    assert not any(each.item.endswith(".vmdk") for each in seen)
    assert leftovers(vcenter, store) == []


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checksum that never comes is not waited for."""
    monkeypatch.setattr(disks, "SECONDS_FOR_PROMISED", 0)
    monkeypatch.setattr(disks, "SECONDS_FOR_CHECKSUM", 0)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("manifest", [True, False], ids=["with the server's checksum", "without"])
@pytest.mark.parametrize("told", [0, 17, 5_000_000])
def test_a_wrong_announced_size_of_the_nvram_is_no_failure(
    vcenter: Simulator, store: Path, told: int, manifest: bool
) -> None:
    vcenter.faults.add(Fault(FaultKind.NVRAM_SIZE, vm="efi01", at_byte=told, times=0))
    if not manifest:
        vcenter.faults.add(Fault(FaultKind.MANIFEST_MISSING, times=0))

    hyperexport.export("efi01", output=store, snapshot=True)

    (export,) = exports_in(store)
    assert (store / str(export) / "efi01.nvram").read_bytes() == vcenter.vm("efi01").nvram


@pytest.mark.usefixtures("impatient")
def test_an_nvram_that_is_cut_short_is_read_again(vcenter: Simulator, store: Path) -> None:
    vcenter.faults.add(Fault(FaultKind.TRUNCATE, vm="efi01", disk=-1, at_byte=1000))
    vcenter.faults.add(Fault(FaultKind.MANIFEST_MISSING, times=0))

    hyperexport.export("efi01", output=store, snapshot=True)

    (export,) = exports_in(store)
    assert (store / str(export) / "efi01.nvram").read_bytes() == vcenter.vm("efi01").nvram


@pytest.mark.parametrize(
    ("vm", "disk"), [("efi01", -1), ("files01", -1), ("files01", 0)], ids=["nvram", "nvram of a VM that is off", "disk"]
)
def test_a_byte_that_was_changed_on_its_way_is_found_also_where_the_checksum_comes_after_the_last_byte(
    vcenter: Simulator, store: Path, vm: str, disk: int
) -> None:
    vcenter.faults.add(Fault(FaultKind.CORRUPT, vm=vm, disk=disk, at_byte=1000))
    vcenter.faults.add(Fault(FaultKind.MANIFEST_MISSING, vm=vm, times=2))

    result = hyperexport.export(vm, output=store, snapshot=vm == "efi01")

    (export,) = exports_in(store)
    if disk == -1:
        assert (store / str(export) / f"{vm}.nvram").read_bytes() == vcenter.vm(vm).nvram
    assert exported_bytes(LocalStore(store), export) == guest_bytes(vcenter, vm)
    assert result.manifest is not None
    assert result.manifest.transfer.retries == 1


def test_an_nvram_whose_checksum_did_not_come_before_its_lease_ended_is_read_again_and_compared(
    vcenter: Simulator, store: Path
) -> None:
    vcenter.faults.add(Fault(FaultKind.CORRUPT, vm="files01", disk=-1, at_byte=1000))
    vcenter.faults.add(Fault(FaultKind.MANIFEST_MISSING, vm="files01"))
    vcenter.faults.add(Fault(FaultKind.CUT, vm="files01", disk=0, at_byte=MIB // 4))

    seen = told_while(lambda: hyperexport.export("files01", output=store))

    (export,) = exports_in(store)
    assert (store / str(export) / "files01.nvram").read_bytes() == vcenter.vm("files01").nvram
    assert [each.item for each in seen if each.done].count("files01.nvram") == 2
    assert exported_bytes(LocalStore(store), export) == guest_bytes(vcenter, "files01")


def test_a_server_that_gives_no_checksum_of_the_nvram_is_not_waited_for_at_the_disks(
    vcenter: Simulator, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disks, "SECONDS_FOR_PROMISED", 3600)
    monkeypatch.setattr(disks, "SECONDS_FOR_CHECKSUM", 0)
    vcenter.faults.add(Fault(FaultKind.MANIFEST_MISSING, vm="files01", times=0))

    result = hyperexport.export("files01", output=store)

    assert len([words for words in result.warnings if "gives none" in words]) == len(DISKS)


@pytest.mark.usefixtures("impatient")
def test_a_checksum_that_the_server_promised_and_does_not_give_is_a_warning(vcenter: Simulator, store: Path) -> None:
    vcenter.faults.add(Fault(FaultKind.MANIFEST_MISSING, vm="files01", times=0))
    result = hyperexport.export("files01", output=store)
    assert any("gives none" in words and "files01-disk-0" in words for words in result.warnings)


def test_two_nvram_files_are_both_kept(vcenter: Simulator, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer = leases.Lease.offer

    def offer_two(lease: leases.Lease) -> None:
        offer(lease)
        second = leases.OfferedFile(lease, f"/{lease.machine.moid}/nvram2", "old.NVRAM", "/nfc/two/nvram", content=b"2")
        lease.files.append(second)
        lease.machine.host_system.offered[second.path] = second

    monkeypatch.setattr(leases.Lease, "offer", offer_two)

    hyperexport.export("efi01", output=store, snapshot=True)

    (export,) = exports_in(store)
    small = [entry.name for entry in export.manifest.files if entry.role is FileRole.NVRAM]
    assert small == ["efi01.nvram", "efi01-2.nvram"]
    assert (store / str(export) / "efi01.nvram").read_bytes() == vcenter.vm("efi01").nvram
    assert (store / str(export) / "efi01-2.nvram").read_bytes() == b"2"


def test_an_efi_vm_without_nvram_is_said(monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
    vms = [
        VmSpec("efi02", nvram=False, disks=DISKS[2:]),
        VmSpec("bios02", firmware="bios", nvram=False, disks=DISKS[2:]),
    ]
    with Simulator(vms) as simulator:
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        efi = hyperexport.export("efi02", output=store, snapshot=True)
        bios = hyperexport.export("bios02", output=store, snapshot=True)
    assert "nvram" in " ".join(efi.warnings)
    assert efi.manifest
    assert "nvram" in " ".join(efi.manifest.warnings)
    assert "nvram" not in " ".join(bios.warnings)


@pytest.mark.parametrize(
    "fault", ["RestrictedVersion", "FileNotFound", "NotSupported", "MethodNotFound", "InvalidArgument"]
)
@pytest.mark.parametrize("method", ["ExportVm", "CreateSnapshot_Task", "ExportSnapshot"])
def test_what_cannot_succeed_is_asked_once(vcenter: Simulator, store: Path, method: str, fault: str) -> None:
    vcenter.faults.add(Fault(FaultKind.METHOD_FAULT, method=method, fault=fault, times=0))
    name = "files01" if method == "ExportVm" else "efi01"

    with pytest.raises(errors.HyperExportError, match=fault):
        hyperexport.export(name, output=store, snapshot=name == "efi01")

    assert vcenter.requests[method] == 1
    assert leftovers(vcenter, store) == []
