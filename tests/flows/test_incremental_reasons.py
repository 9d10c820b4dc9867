"""Every reason for a full export is shown, and what is not transferred is proved: by reading the guest.

One case of each kind is a flow run; the others call the same job directly.
"""

from pathlib import Path

import pytest

import hyperexport
from hyperexport.base.stop import StopSignal
from hyperexport.base.units import format_bytes
from hyperexport.flows import export_vm, incremental_info
from hyperexport.model.manifest import ExportKind
from hyperexport.options.precedence import ExportOptions
from hyperexport.simulator import DiskSpec, Fault, FaultKind, Simulator, VmSpec
from hyperexport.steps.cleanup import delete_planned, plan_store_cleanup
from hyperexport.store.local import LocalStore
from hyperexport.store.s3 import S3Location, S3Settings, S3Store
from hyperexport.transfer.bandwidth.throttle import Throttle
from tests.engine.s3_servers import rclone_s3
from tests.flows.support import changed, exported_bytes, exports_in, guest_bytes

MIB = 1 << 20


def options(store: Path, **keys: object) -> ExportOptions:
    return ExportOptions.from_keys({"output": store, "snapshot": True, "incremental": True, **keys})


def off(store: Path, **keys: object) -> ExportOptions:
    return ExportOptions.from_keys({"output": store, "incremental": True, **keys})


@pytest.fixture
def untracked(monkeypatch: pytest.MonkeyPatch):
    """A VM that is off and whose changes nobody tracks."""
    disks = (DiskSpec(4 * MIB), DiskSpec(2 * MIB))
    with Simulator([VmSpec("db01", powered_on=False, change_tracking=False, disks=disks)]) as simulator:
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        yield simulator


def file_of(store: Path, disk: int) -> Path:
    return store / str(exports_in(store)[0]) / f"db01-disk-{disk}.vmdk"


def disk_resized(vcenter: Simulator, store: Path) -> None:
    vcenter.vm("db01").resize_disk(1, 32 * MIB)


def base_half_deleted(vcenter: Simulator, store: Path) -> None:
    file_of(store, 1).unlink()


@pytest.mark.parametrize(
    ("change", "reason"),
    [(disk_resized, "disk resized: Hard disk 2"), (base_half_deleted, "lacks db01-disk-1.vmdk")],
    ids=["disk resized", "base half deleted"],
)
def test_a_full_export_says_why(vcenter: Simulator, store: Path, change, reason) -> None:
    hyperexport.export("db01", options(store))
    change(vcenter, store)
    result = hyperexport.export("db01", options(store))
    assert reason in result.plan.reason
    assert result.manifest.kind is ExportKind.FULL
    assert all(changed(result.manifest).values())
    newest = exports_in(store)[0]
    assert exported_bytes(LocalStore(store), newest) == guest_bytes(vcenter, "db01")


def test_the_analysis_alone_knows_why(vcenter: Simulator, store: Path) -> None:
    hyperexport.export("db01", options(store))
    assert "--force-full was given" in incremental_info("db01", options(store, force_full=True)).reason
    assert "--full-after is 0s" in incremental_info("db01", options(store, full_after="0s")).reason
    vcenter.vm("db01").add_disk(DiskSpec(4 * MIB))
    assert "disk added: Hard disk 3" in incremental_info("db01", options(store)).reason
    assert len(exports_in(store)) == 1


def test_a_disk_of_which_change_tracking_began_anew_is_transferred_and_the_other_is_not(vcenter, store) -> None:
    hyperexport.export("db01", options(store))
    vcenter.vm("db01").reset_change_tracking(0)
    result = hyperexport.export("db01", options(store))
    assert changed(result.manifest) == {"Hard disk 1": True, "Hard disk 2": False}
    assert "was restarted" in result.plan.disks[0].reason
    assert exported_bytes(LocalStore(store), exports_in(store)[0]) == guest_bytes(vcenter, "db01")
    inodes = {(store / str(export) / "db01-disk-0.vmdk").stat().st_ino for export in exports_in(store)}
    assert len(inodes) == 1, "the same content is stored once, though it was transferred"


def test_where_change_tracking_fails_the_disk_is_transferred_with_the_fault_as_reason(vcenter, store) -> None:
    hyperexport.export("db01", options(store))
    vcenter.faults.add(Fault(FaultKind.CBT_FAULT, disk=1, fault="FileFault"))
    result = hyperexport.export("db01", options(store))
    assert changed(result.manifest) == {"Hard disk 1": False, "Hard disk 2": True}
    assert "FileFault" in result.plan.disks[1].reason


def test_rot_in_the_base_is_found_before_it_is_relied_on_where_proof_is_asked_for(vcenter, store) -> None:
    hyperexport.export("db01", options(store))
    with file_of(store, 0).open("r+b") as file:
        file.seek(70_000)
        file.write(b"rot")
    result = hyperexport.export("db01", options(store, verify=True))
    assert result.verified
    assert "db01-disk-0.vmdk" in result.plan.reason
    assert "is not what its manifest says" in result.plan.reason
    assert exported_bytes(LocalStore(store), exports_in(store)[0]) == guest_bytes(vcenter, "db01")


# -- without change tracking -------------------------------------------------------------------------------------------


def test_a_vm_that_stayed_off_is_transferred_again_only_once_something_wrote_to_it(
    untracked: Simulator, store: Path
) -> None:
    hyperexport.export("db01", off(store))
    planned = incremental_info("db01", off(store))
    same = export_vm("db01", off(store))
    assert changed(same.manifest) == {"Hard disk 1": False, "Hard disk 2": False}
    assert "the VM stayed off" in same.plan.disks[0].reason
    assert (planned.saved_percent, planned.disks) == (100.0, same.plan.disks)

    untracked.vm("db01").guest_write(1, MIB, b"mounted elsewhere")
    written = hyperexport.export("db01", off(store))
    assert changed(written.manifest) == {"Hard disk 1": False, "Hard disk 2": True}
    assert exported_bytes(LocalStore(store), exports_in(store)[0]) == guest_bytes(untracked, "db01")

    untracked.vm("db01").power_on()
    untracked.vm("db01").power_off()
    ran = hyperexport.export("db01", off(store))
    assert all(changed(ran.manifest).values())
    assert "change tracking is off" in ran.plan.disks[0].reason


def test_a_running_vm_without_it_is_warned_of_once_with_the_remedy_and_what_was_new(
    untracked: Simulator, store: Path
) -> None:
    def said(words: str) -> str:
        return (
            "change tracking of the VM is off, so every disk is transferred whole each time; "
            f"add --enable-change-tracking once; {words} transferred were new in the store"
        )

    def warned(result) -> list[str]:
        return [line for line in result.warnings if "tracking" in line]

    def on_disk() -> list[int]:
        return [file_of(store, disk).stat().st_size for disk in (0, 1)]

    untracked.vm("db01").power_on()
    first = warned(hyperexport.export("db01", options(store)))
    both = format_bytes(sum(on_disk()))
    assert first == [said(f"{both} of {both}")]
    assert warned(hyperexport.export("db01", options(store))) == [said(f"0 B of {both}")]

    untracked.vm("db01").guest_write(1, MIB, bytes(range(256)) * 2048)
    written = warned(hyperexport.export("db01", options(store, max_chain=0)))
    assert written == [said(f"{format_bytes(on_disk()[1])} of {format_bytes(sum(on_disk()))}")]

    (planned,) = (
        line for line in hyperexport.export("db01", options(store, dry_run=True)).warnings if "tracking" in line
    )
    assert planned in said("")


def test_without_a_browser_every_disk_is_transferred(untracked: Simulator, store: Path) -> None:
    untracked.faults.add(Fault(FaultKind.METHOD_FAULT, method="SearchDatastore_Task", fault="NotSupported", times=0))
    hyperexport.export("db01", off(store))
    assert all(changed(hyperexport.export("db01", off(store)).manifest).values())


# -- switching it on ---------------------------------------------------------------------------------------------------


def test_change_tracking_is_switched_on_only_when_asked_and_the_dry_run_says_so(untracked, store) -> None:
    untracked.vm("db01").power_on()
    planned = hyperexport.export("db01", options(store, enable_change_tracking=True, dry_run=True)).tracking
    assert planned.enable
    assert untracked.requests.get("ReconfigVM_Task", 0) == 0

    assert export_vm("db01", options(store, enable_change_tracking=True)).tracking == planned
    hyperexport.export("db01", options(store))
    untracked.vm("db01").guest_write(0, 0, b"changed")
    result = hyperexport.export("db01", options(store))
    assert untracked.requests["ReconfigVM_Task"] == 1
    assert changed(result.manifest) == {"Hard disk 1": True, "Hard disk 2": False}


def test_change_tracking_is_not_switched_on_over_snapshots(untracked: Simulator, store: Path) -> None:
    untracked.vm("db01").take_snapshot("a user's")
    result = hyperexport.export("db01", off(store, enable_change_tracking=True))
    assert any("the VM has a snapshot" in warning for warning in result.warnings)
    assert untracked.requests.get("ReconfigVM_Task", 0) == 0


# -- in S3 -------------------------------------------------------------------------------------------------------------


def test_in_s3_an_unchanged_disk_is_referred_to_and_what_is_referred_to_stays(vcenter, tmp_path, monkeypatch) -> None:
    with rclone_s3(tmp_path / "s3") as s3:
        s3.make_bucket("backups")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(s3.ca_file))
        keys = {"upload": "s3://backups/vms", "s3_endpoint": s3.endpoint_url, "keep_local": False}
        hyperexport.export("db01", options(tmp_path / "none", **keys))
        vcenter.vm("db01").guest_write(1, 0, b"changed")
        export_vm("db01", options(tmp_path / "none", **keys))

        store = S3Store(
            S3Location.parse("s3://backups/vms"),
            S3Settings(endpoint_url=s3.endpoint_url),
            throttle=Throttle(None),
            stop=StopSignal(),
        )
        newest, oldest = store.exports()
        assert [entry.stored_in for entry in newest.manifest.disks] == [oldest.export_id, None]
        assert exported_bytes(store, newest) == guest_bytes(vcenter, "db01")
        limits = ExportOptions.from_keys({"cleanup": True, "cleanup_max_count": 1}).cleanup
        delete_planned(store, plan_store_cleanup(store, limits), lambda _owner: False)
        assert [str(export) for export in store.exports()] == [str(newest), str(oldest)]
    assert not (tmp_path / "none").exists()
