"""A dry run plans what the real run does, for every kind of VM."""

import os
import subprocess
from collections.abc import Generator, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim

import hyperexport
from hyperexport import errors
from hyperexport.model.manifest import Quiescing
from hyperexport.policy.export_plan import Decision
from hyperexport.results import ExportResult
from hyperexport.store.local import LocalStore
from simulator import DiskSpec, Fault, FaultKind, Simulator, VmSpec
from tests.flows.support import exported_bytes, exports_in, guest_bytes, leftovers

MIB = 1 << 20
PLAIN = (DiskSpec(2 * MIB), DiskSpec(MIB))
INDEPENDENT = (DiskSpec(2 * MIB), DiskSpec(MIB, mode="independent_persistent"))
RAW = (DiskSpec(2 * MIB), DiskSpec(MIB, backing="RawDiskMappingVer1"))
VMS = (
    VmSpec("running", disks=PLAIN),
    VmSpec("off", powered_on=False, disks=PLAIN),
    VmSpec("suspended", disks=PLAIN),
    VmSpec("template", powered_on=False, template=True, disks=PLAIN),
    VmSpec("running-independent", disks=INDEPENDENT),
    VmSpec("off-independent", powered_on=False, disks=INDEPENDENT),
    VmSpec("all-independent", disks=INDEPENDENT[1:]),
    VmSpec("off-all-independent", powered_on=False, disks=INDEPENDENT[1:]),
    VmSpec("running-raw", disks=RAW),
    VmSpec("off-raw", powered_on=False, disks=RAW),
    VmSpec("vtpm", powered_on=False, vtpm=True, disks=PLAIN),
    VmSpec("running-vtpm", vtpm=True, disks=PLAIN),
    VmSpec("encrypted", encrypted=True, disks=PLAIN),
    VmSpec("untracked", change_tracking=False, disks=PLAIN),
    VmSpec("off-untracked", powered_on=False, change_tracking=False, disks=PLAIN),
    VmSpec("with-snapshots", snapshots=("before the update",), disks=PLAIN),
    VmSpec("off-with-snapshots", powered_on=False, snapshots=("before the update",), disks=PLAIN),
    VmSpec("without-tools", tools="guestToolsNotRunning", disks=PLAIN),
    VmSpec("starting-tools", tools="guestToolsExecutingScripts", disks=PLAIN),
    VmSpec("lost", connection="inaccessible", powered_on=False, disks=PLAIN),
)
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "snapshot": {"snapshot": True},
    "quiesce required": {"snapshot": True, "quiesce_required": True},
    "kept": {"snapshot": True, "keep_snapshots": 3},
    "tracking": {"snapshot": True, "incremental": True, "enable_change_tracking": True},
}


@pytest.fixture(autouse=True)
def vcenter(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Generator[Simulator]:
    wanted = getattr(request, "param", None)
    with Simulator([spec for spec in VMS if wanted in (None, spec.name)]) as simulator:
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        if wanted in (None, "suspended"):
            simulator.vm("suspended")._machine.set_power(vim.VirtualMachine.PowerState.suspended)
        yield simulator


def outcome(name: str, store: Path, **options: Any) -> ExportResult | type[errors.HyperExportError]:
    try:
        return hyperexport.export(name, output=store, **options)
    except errors.HyperExportError as error:
        return type(error)


def planned(result: ExportResult) -> dict[str, Any]:
    """What a run says that it does, apart from what only a snapshot can tell."""
    decisions = {disk.label: disk.decision is not Decision.SKIP for disk in result.plan.disks}
    reasons = {disk.label: disk.reason for disk in result.plan.disks if disk.decision is Decision.SKIP}
    return {
        "disks": decisions,
        "reasons": reasons,
        "kind": result.plan.kind,
        "makes a snapshot": bool(result.snapshots.make),
        "why none": result.snapshots.why_none,
        "keeps it": result.snapshots.keeps_made,
        "tracking": result.tracking,
        # The descriptor is made of what came, so only the real run has the server's words about it.
        "warnings": {warning for warning in result.warnings if not warning.startswith("descriptor:")},
    }


def cases() -> Iterator[Any]:
    """Every kind of VM with all options in the long matrix; here with a snapshot and with one of the other options."""
    others = cycle(name for name in OPTIONS if name != "snapshot")
    for spec in VMS:
        usual = {"snapshot", next(others)}
        for name, options in OPTIONS.items():
            marks = () if name in usual else (pytest.mark.faults,)
            yield pytest.param(spec.name, options, id=f"{spec.name}-{name}", marks=marks)


@pytest.mark.parametrize(("vcenter", "options"), cases(), indirect=["vcenter"])
def test_a_dry_run_says_what_the_real_run_does(vcenter: Simulator, tmp_path: Path, options: dict[str, Any]) -> None:
    (vm,) = vcenter.vms()
    dry = outcome(vm.name, tmp_path, dry_run=True, **options)
    assert vcenter.requests.get("CreateSnapshot_Task", 0) == 0

    real = outcome(vm.name, tmp_path, **options)

    if isinstance(real, ExportResult):
        assert isinstance(dry, ExportResult)
        assert planned(dry) == planned(real)
        assert bool(vcenter.requests.get("CreateSnapshot_Task", 0)) is bool(dry.snapshots.make)
    else:
        assert dry is real
        assert leftovers(vcenter, tmp_path) == []


@pytest.mark.parametrize("vcenter", ["off-independent", "off-all-independent"], indirect=True)
def test_an_independent_disk_of_a_vm_that_is_off_is_exported(vcenter: Simulator, tmp_path: Path) -> None:
    (vm,) = vcenter.vms()
    for options in ({}, {"snapshot": True}):
        hyperexport.export(vm.name, output=tmp_path, **options)
        newest = exports_in(tmp_path)[0]
        assert exported_bytes(LocalStore(tmp_path), newest) == guest_bytes(vcenter, vm.name)
        assert newest.manifest.skipped_disks == ()


@pytest.mark.parametrize("vcenter", ["suspended"], indirect=True)
def test_a_suspended_vm_is_crash_consistent_and_never_quiesced(vcenter: Simulator, tmp_path: Path) -> None:
    result = hyperexport.export("suspended", output=tmp_path, snapshot=True)
    assert result.manifest
    assert result.manifest.snapshot
    assert result.manifest.snapshot.quiescing is Quiescing.CRASH_CONSISTENT
    assert "suspended" in " ".join(result.manifest.warnings)
    with pytest.raises(errors.QuiesceFailed, match="suspended"):
        hyperexport.export("suspended", output=tmp_path, snapshot=True, quiesce_required=True)
    with pytest.raises(errors.VmPoweredOn, match="suspended"):
        hyperexport.export("suspended", output=tmp_path)


@pytest.mark.parametrize("vcenter", ["vtpm"], indirect=True)
def test_a_virtual_tpm_is_named_and_no_disk_called_encrypted(vcenter: Simulator, tmp_path: Path) -> None:
    with pytest.raises(errors.NothingToExport, match="virtual TPM") as caught:
        hyperexport.export("vtpm", output=tmp_path)
    assert "Hard disk" not in str(caught.value)


@pytest.mark.parametrize("vcenter", ["off-untracked"], indirect=True)
def test_tracking_switched_on_for_a_vm_that_is_off_counts_for_the_next_export(
    vcenter: Simulator, tmp_path: Path
) -> None:
    hyperexport.export("off-untracked", output=tmp_path, incremental=True, enable_change_tracking=True)
    (first,) = exports_in(tmp_path)
    assert all(entry.change_id for entry in first.manifest.disks)


@pytest.mark.parametrize("vcenter", ["off"], indirect=True)
def test_a_snapshot_that_is_to_be_kept_is_made_of_a_vm_that_is_off(vcenter: Simulator, tmp_path: Path) -> None:
    result = hyperexport.export("off", output=tmp_path, snapshot=True, keep_snapshots=2)
    assert result.snapshot_kept
    assert [name for _, name, *_ in vcenter.vm("off").snapshots()] == [result.snapshots.make]


# -- the store


@pytest.fixture
def mounted(tmp_path: Path) -> Generator[Path]:
    """A filesystem of its own, of 1 MiB."""
    if os.geteuid():
        pytest.skip("only root can mount a filesystem")
    place = tmp_path / "mounted"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=False).returncode:
        pytest.skip("no filesystem can be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.mark.parametrize("vcenter", ["off"], indirect=True)
@pytest.mark.parametrize("below", [".", "not/there/yet"])
def test_a_store_that_refuses_the_real_run_refuses_the_dry_run(mounted: Path, below: str) -> None:
    store = mounted / below
    (mounted / "filler").write_bytes(bytes((1 << 20) - 4096))
    (mounted / "rest").write_bytes(bytes(4096))
    assert outcome("off", store, dry_run=True) is outcome("off", store) is errors.DiskFull
    (mounted / "filler").unlink()
    subprocess.run(["mount", "-o", "remount,ro", mounted], check=True)
    assert outcome("off", store, dry_run=True) is outcome("off", store) is errors.StoreUnusable
    assert outcome("off", mounted / "rest", dry_run=True) is errors.StoreUnusable


@pytest.mark.parametrize("vcenter", ["off"], indirect=True)
def test_a_dry_run_leaves_nothing_in_the_store_and_warns_where_room_is_short(mounted: Path) -> None:
    (mounted / "filler").write_bytes(bytes(700 << 10))
    before = {path: path.stat() for path in mounted.rglob("*")}
    result = outcome("off", mounted / "exports", dry_run=True)
    assert isinstance(result, ExportResult)
    assert any("may run out of space" in warning for warning in result.warnings)
    assert {path: path.stat() for path in mounted.rglob("*")} == before


# -- the remedies


@pytest.mark.parametrize("vcenter", ["suspended"], indirect=True)
def test_a_suspended_vm_that_has_to_be_quiesced_is_to_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(errors.QuiesceFailed, match="suspended") as refused:
        hyperexport.export("suspended", output=tmp_path, snapshot=True, quiesce_required=True, dry_run=True)
    assert refused.value.fix == "Resume the VM or shut it down, or export without --quiesce-required"
    assert "Tools" not in str(refused.value)


# -- what a list could not read


@pytest.mark.parametrize("vcenter", ["off"], indirect=True)
def test_a_uuid_that_the_list_could_not_read_is_not_taken_for_none(vcenter: Simulator, tmp_path: Path) -> None:
    known = exported_to(outcome("off", tmp_path))
    vcenter.faults.add(Fault(FaultKind.METHOD_FAULT, method="config.instanceUuid", fault="NoPermission", times=1))
    assert exported_to(outcome("off", tmp_path)) == known
    vcenter.faults.add(Fault(FaultKind.METHOD_FAULT, method="config.instanceUuid", fault="NoPermission", times=0))
    assert outcome("off", tmp_path) is errors.VmUnavailable
    assert len(exports_in(tmp_path)) == 2


def exported_to(result: ExportResult | type[errors.HyperExportError]) -> str:
    assert isinstance(result, ExportResult)
    return Path(result.locations[0]).parent.name
