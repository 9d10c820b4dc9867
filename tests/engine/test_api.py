"""The engine as a library: the same export as the flow's, with the same guarantees, and no Prefect."""

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

import hyperexport
from hyperexport import api, errors
from hyperexport.model.manifest import ExportKind
from hyperexport.simulator import DiskSpec, Fault, FaultKind, Simulator, VmSpec
from hyperexport.steps import inspect, package, plan, snapshots, verification
from hyperexport.steps import leftovers as leftovers_step
from hyperexport.store.local import LocalStore
from tests.flows.support import changed, exported_bytes, exports_in, guest_bytes, leftovers, while_transferring

MIB = 1 << 20
ROOT = Path(__file__).parents[2]


@pytest.fixture
def vcenter(monkeypatch: pytest.MonkeyPatch) -> Generator[Simulator]:
    """A simulated vCenter with one running VM, named by the environment."""
    vms = [VmSpec("db01", disks=(DiskSpec(12 * MIB), DiskSpec(6 * MIB)))]
    with Simulator(vms, lease_timeout=4.0) as simulator:  # of a run that is killed; a real one's is five minutes
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        yield simulator


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "exports"


def script(*lines: str) -> subprocess.Popen[str]:
    """Run lines of Python in a process of their own, which says when the first bytes have come."""
    said = "os.write(1, b'moving\\n') if progress.moved else None"  # in one piece: two disks move at once
    imported = "from hyperexport.model.progress import subscribed"
    head = ["import os", "import hyperexport", imported, f"told = lambda progress: {said}"]
    command = [sys.executable, "-c", "\n".join([*head, *lines])]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_running_vm_is_exported_byte_for_byte_and_proved(vcenter: Simulator, store: Path) -> None:
    before = guest_bytes(vcenter, "db01")

    result = hyperexport.export("db01", output=store, snapshot=True, verify=True)

    (export,) = exports_in(store)
    assert exported_bytes(LocalStore(store), export) == before
    assert result.locations == (f"{store}/{export}",)
    assert result.verified is True
    assert leftovers(vcenter, store) == []


def test_only_what_changed_is_transferred_again(vcenter: Simulator, store: Path) -> None:
    options = hyperexport.ExportOptions.from_keys({"output": store, "incremental": True})
    hyperexport.export("db01", options, snapshot=True)
    vcenter.vm("db01").guest_write(1, 3 * MIB, b"changed in the guest")

    analysed = hyperexport.incremental_info("db01", options, snapshot=True)
    result = hyperexport.export("db01", options, snapshot=True)

    newest = exports_in(store)[0]
    assert changed(newest.manifest) == {"Hard disk 1": False, "Hard disk 2": True}
    assert exported_bytes(LocalStore(store), newest) == guest_bytes(vcenter, "db01")
    assert result.plan.kind is analysed.kind is ExportKind.INCREMENTAL
    assert [disk.decision for disk in analysed.disks] == [disk.decision for disk in result.plan.disks]
    assert leftovers(vcenter, store) == []


def test_a_dry_run_changes_nothing(vcenter: Simulator, store: Path) -> None:
    result = hyperexport.export("db01", output=store, snapshot=True, dry_run=True)

    assert result.manifest is None
    assert [disk.label for disk in result.plan.disks] == ["Hard disk 1", "Hard disk 2"]
    assert not store.exists()
    assert {"CreateSnapshot_Task", "ExportSnapshot", "ExportVm"}.isdisjoint(vcenter.requests)


def test_a_step_whose_failure_may_pass_is_tried_again(vcenter: Simulator, store: Path) -> None:
    vcenter.faults.add(Fault(FaultKind.CUT, disk=0, at_byte=100_000, times=2))

    result = hyperexport.export("db01", output=store, snapshot=True)

    assert [fault.kind for fault in vcenter.faults.fired] == [FaultKind.CUT] * 2
    assert result.manifest.transfer.retries == 2
    assert exported_bytes(LocalStore(store), exports_in(store)[0]) == guest_bytes(vcenter, "db01")


def test_a_disk_that_cannot_be_read_ends_the_others_and_leaves_nothing(vcenter: Simulator, store: Path) -> None:
    vcenter.faults.add(Fault(FaultKind.CUT, disk=1, at_byte=1000, times=0))

    with pytest.raises(errors.TransferInterrupted):
        hyperexport.export("db01", output=store, snapshot=True)

    assert vcenter.faults.fired
    assert exports_in(store) == []
    assert leftovers(vcenter, store) == []


def test_a_snapshot_that_stays_is_an_error_though_the_export_is_there(vcenter: Simulator, store: Path) -> None:
    vcenter.faults.add(Fault(FaultKind.REMOVE_SNAPSHOT_FAILED, times=0))

    with pytest.raises(errors.SnapshotLeaked, match="is complete, but snapshot hyperexport-"):
        hyperexport.export("db01", output=store, snapshot=True)

    assert exported_bytes(LocalStore(store), exports_in(store)[0]) == guest_bytes(vcenter, "db01")


STEPS = [
    (inspect, "describe", False),
    (plan, "check_exportable", False),
    (leftovers_step, "remove_abandoned_stagings", False),
    (snapshots, "take_snapshot", False),
    (plan, "make_plan", False),
    (package, "export_nvram", False),
    (package, "describe_vm", False),
    (snapshots, "remove_snapshot", False),
    (package, "publish", False),
    (verification, "verify", True),
]
"""Where each step is called, its name, and whether the export is complete by then."""


@pytest.mark.parametrize(("module", "name", "complete"), STEPS, ids=[name for _, name, _ in STEPS])
def test_ctrl_c_at_any_step_leaves_nothing(
    vcenter: Simulator, store: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, complete: bool
) -> None:
    step = getattr(module, name)
    interrupted: list[str] = []

    @wraps(step)
    def interrupt_first(*args: Any, **kwargs: Any) -> Any:
        if not interrupted:
            interrupted.append(name)
            signal.raise_signal(signal.SIGINT)
        return step(*args, **kwargs)

    monkeypatch.setattr(module, name, interrupt_first)
    with pytest.raises(KeyboardInterrupt):
        hyperexport.export("db01", output=store, snapshot=True, verify=True)

    assert interrupted == [name]
    assert leftovers(vcenter, store) == []
    assert len(exports_in(store) if store.exists() else []) == int(complete)


def test_ctrl_c_while_bytes_move_ends_the_transfer_and_leaves_nothing(vcenter: Simulator, store: Path) -> None:
    vcenter.faults.add(Fault(FaultKind.STALL, disk=0, at_byte=MIB, delay=100))

    with while_transferring(lambda: signal.raise_signal(signal.SIGINT)), pytest.raises(KeyboardInterrupt):
        hyperexport.export("db01", output=store, snapshot=True)

    assert leftovers(vcenter, store) == []
    assert exports_in(store) == []


def test_sigterm_ends_a_script_and_leaves_nothing(vcenter: Simulator, store: Path) -> None:
    vcenter.faults.add(Fault(FaultKind.STALL, at_byte=MIB, delay=100, times=0))
    export = f"with subscribed(told): hyperexport.export('db01', output={str(store)!r}, snapshot=True)"

    with script(export) as process:
        assert process.stdout.readline() == "moving\n"
        assert leftovers(vcenter, store), "it is in the middle of it"
        process.terminate()
        code = process.wait(150)

    assert code == 128 + signal.SIGTERM
    assert leftovers(vcenter, store) == []
    assert exports_in(store) == []


def test_what_a_killed_script_left_is_removed_by_the_next_export(vcenter: Simulator, store: Path) -> None:
    vcenter.faults.add(Fault(FaultKind.STALL, at_byte=MIB, delay=100, times=0))
    export = f"with subscribed(told): hyperexport.export('db01', output={str(store)!r}, snapshot=True)"
    with script(export) as process:
        assert process.stdout.readline() == "moving\n"
        process.kill()
    vcenter.faults.clear()
    left = [what for what in leftovers(vcenter, store) if what.startswith(("snapshot", "/"))]
    assert len(left) == 2, left

    result = hyperexport.export("db01", output=store, snapshot=True)

    assert sum("left by an earlier run" in warning for warning in result.warnings) == 2
    assert not [what for what in leftovers(vcenter, store) if what.startswith(("snapshot", "/"))]
    assert exported_bytes(LocalStore(store), exports_in(store)[0]) == guest_bytes(vcenter, "db01")


def test_vms_are_shown_as_they_are_chosen(vcenter: Simulator) -> None:
    (named,) = hyperexport.vm_info("db01")
    (matched,) = hyperexport.vm_info(match="db*")
    assert named == matched
    assert named.storage_bytes == 18 * MIB
    with pytest.raises(errors.VmNotFound, match="db01"):
        hyperexport.vm_info("db-01")


def test_a_server_can_be_named_in_place_of_the_environment(vcenter: Simulator, monkeypatch) -> None:
    endpoint = hyperexport.VSphereEndpoint.from_environment()
    for name in vcenter.environment():
        monkeypatch.delenv(name)
    assert [vm.name for vm in hyperexport.vm_info("db01", vsphere=endpoint)] == ["db01"]


def test_a_damaged_export_is_found_later(vcenter: Simulator, store: Path) -> None:
    hyperexport.export("db01", output=store, snapshot=True)
    (good,) = hyperexport.verify_exports(output=store)
    assert good.verification.ok
    disk = Path(good.location) / "db01-disk-0.vmdk"
    disk.write_bytes(disk.read_bytes()[:-1] + b"\xff")

    with pytest.raises(errors.VerificationFailed, match="db01-disk-0"):
        hyperexport.verify_exports(output=store)


def test_old_exports_are_cleaned_up_as_the_dry_run_says(vcenter: Simulator, store: Path) -> None:
    for _ in range(2):
        hyperexport.export("db01", output=store, snapshot=True)
    newest, oldest = hyperexport.open_store(store).exports()

    (would,) = hyperexport.cleanup_exports(output=store, cleanup_max_count=1, dry_run=True)
    assert [str(item) for item in would.plan.to_delete] == [str(oldest)]
    assert len(exports_in(store)) == 2

    (did,) = hyperexport.cleanup_exports(output=store, cleanup_max_count=1)
    assert did.deleted == (str(oldest),)
    assert [str(export) for export in exports_in(store)] == [str(newest)]


@pytest.mark.parametrize(
    ("key", "value", "flag"),
    [
        ("bandwidth_shared", "wan-link", "--bandwidth-shared"),
        ("leases_per_host", 4, "--leases-per-host"),
        ("leases_per_vcenter", 4, "--leases-per-vcenter"),
        ("s3_credentials", "aws-credentials/backups", "--s3-credentials"),
        ("spread", True, "--spread"),
        ("notify_webhook", "slack-webhook/backups", "--notify-webhook"),
    ],
)
def test_what_only_a_prefect_server_can_do_is_refused(key: str, value: object, flag: str) -> None:
    with pytest.raises(errors.UsageError, match=f"{flag} needs a Prefect server.*hyperexport serve"):
        hyperexport.export("db01", **{key: value})


def test_an_option_that_does_not_exist_is_named() -> None:
    wrong: dict[str, Any] = {"snapshots": True}
    with pytest.raises(errors.UsageError, match="there is no option snapshots"):
        hyperexport.export("db01", **wrong)


def test_everything_that_the_package_names_is_there() -> None:
    assert set(hyperexport.__all__) <= set(dir(hyperexport))
    for name in hyperexport.__all__:
        assert getattr(hyperexport, name) is not None


def test_importing_the_package_imports_neither_its_rooms_nor_prefect() -> None:
    heavy = ("boto3", "prefect", "pydantic", "pyVmomi", "rich")
    after = "import sys, hyperexport; a = {*sys.modules}; hyperexport.export; print(a); print({*sys.modules})"
    done = subprocess.run([sys.executable, "-c", after], cwd=ROOT, capture_output=True, text=True, check=True)
    imported, used = map(eval, done.stdout.splitlines())
    assert [name for name in heavy if name in imported] == []
    assert "hyperexport.errors" not in imported
    assert "hyperexport.jobs.export" in used
    assert "prefect" not in used


def test_the_process_keeps_its_own_way_with_sigterm(vcenter: Simulator, store: Path, monkeypatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[Any] = []
    monkeypatch.setattr(api, "export_vm", lambda *_, **__: seen.append(signal.getsignal(signal.SIGTERM)))
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        hyperexport.export("db01", output=store)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        own = lambda *_: os._exit(1)  # noqa: E731
        signal.signal(signal.SIGTERM, own)
        hyperexport.export("db01", output=store)
        assert seen[0] not in (signal.SIG_DFL, own)
        assert seen[1] is own
    finally:
        signal.signal(signal.SIGTERM, before)
