"""What automations hear: the events as a real Prefect server has kept them."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client

from hyperexport.errors import HyperExportError, SnapshotLeaked, VerificationFailed, VmNotFound
from hyperexport.flows import export_vm, verify_exports
from hyperexport.options.precedence import ExportOptions
from hyperexport.simulator import Fault, FaultKind, Simulator
from tests.flows.service import eventually
from tests.flows.support import exports_in

pytestmark = pytest.mark.usefixtures("events_are_emitted")

_began: list[datetime] = []


@pytest.fixture(autouse=True)
def earlier_events_are_forgotten() -> None:
    """The server is the whole session's, and every simulated VM of one name is the same one to it."""
    _began[:] = [datetime.now(UTC)]


def heard(event: str, vm: str) -> list[dict[str, Any]]:
    """The events of one kind that the server has of a VM since the test began, the newest first."""
    wanted = {
        "event": {"name": [event]},
        "resource": {"id": [f"hyperexport.vm.{vm}"]},
        "occurred": {"since": _began[0].isoformat()},
    }
    with get_client(sync_client=True) as client:
        return client.request("POST", "/events/filter", json={"filter": wanted}).json()["events"]


def first(event: str, vm: str) -> dict[str, Any]:
    """The event, as soon as the server has it."""
    return eventually(lambda: heard(event, vm), f"{event} of {vm}")[0]


def options(store: Path, **keys: object) -> ExportOptions:
    return ExportOptions.from_keys({"output": store, "snapshot": True, **keys})


def test_an_export_tells_that_it_is_complete_and_how_long_its_snapshot_lived(vcenter: Simulator, store: Path) -> None:
    result = export_vm("db01", options(store, verify="on"))

    (export,) = exports_in(store)
    manifest = export.manifest
    told = first("hyperexport.export.completed", manifest.vm.instance_uuid)
    assert told["resource"]["hyperexport.path"] == manifest.vm.path
    assert told["payload"]["export"] == manifest.export_id
    assert told["payload"]["bytes_transferred"] == manifest.transfer.bytes_transferred
    assert told["payload"]["verified"] is True
    assert told["payload"]["locations"] == list(result.locations)
    stages = ["plan-export", "take-snapshot", "export-disk", "describe-vm", "remove-snapshot", "verify-export"]
    assert sorted(manifest.stages) == sorted(stages)
    assert 0 < manifest.snapshot.held < manifest.transfer.seconds
    assert not manifest.snapshot.leaked
    assert heard("hyperexport.export.failed", manifest.vm.instance_uuid) == []


def test_the_event_names_each_disk_whose_change_tracking_left_out_a_change(vcenter: Simulator, store: Path) -> None:
    changing = options(store, incremental=True, transport="lease")
    export_vm("db01", changing)
    vcenter.vm("db01").guest_write(0, 0, b"reported")
    vcenter.vm("db01").guest_write(0, 4 << 20, b"left out")
    vcenter.vm("db01").guest_write(1, 0, b"reported")
    vcenter.faults.add(Fault(FaultKind.CBT_OMITS, vm="db01", disk=0, at_byte=4 << 20, times=0))

    manifest = export_vm("db01", changing).manifest

    def of_it() -> list[dict[str, Any]]:
        found = heard("hyperexport.export.completed", manifest.vm.instance_uuid)
        return [event for event in found if event["payload"]["export"] == manifest.export_id]

    (told,) = eventually(of_it, "the event of the second export")
    assert told["payload"]["kind"] == "incremental"
    assert told["payload"]["wrong_tracking"] == ["Hard disk 1"]


def test_what_was_found_wrong_is_told_and_holds_when_the_disk_is_read_in_another_attempt(
    vcenter: Simulator, store: Path
) -> None:
    vcenter.folder.serves_frozen = True
    changing = options(store, incremental=True)
    export_vm("db01", changing)
    vcenter.vm("db01").guest_write(0, 0, b"reported")
    vcenter.faults.add(Fault(FaultKind.FOLDER_WRONG, vm="db01", disk=0, after=1))  # in the first block that is compared
    vcenter.faults.add(Fault(FaultKind.CUT, vm="db01", disk=0, at_byte=1 << 16))

    manifest = export_vm("db01", changing).manifest

    assert len(vcenter.faults.fired) == 2
    assert (str(manifest.disks[0].transport), bool(manifest.disks[0].distrusted)) == ("lease", True)
    told = first("hyperexport.transport.distrusted", manifest.vm.instance_uuid)
    assert told["payload"]["disk"] == "Hard disk 1"
    assert told["payload"]["transport"] == "datastore"


def test_a_dry_run_tells_nobody_and_a_failure_names_its_step(vcenter: Simulator, store: Path) -> None:
    with pytest.raises(VmNotFound):
        export_vm("no-such-vm-dry", options(store, dry_run=True))
    with pytest.raises(VmNotFound):
        export_vm("no-such-vm", options(store))

    told = first("hyperexport.export.failed", "no-such-vm")
    assert told["payload"]["step"] == "inspect-vm"
    assert told["payload"]["code"] == VmNotFound.code
    assert "no-such-vm" in told["payload"]["message"]
    assert heard("hyperexport.export.failed", "no-such-vm-dry") == []


def test_a_snapshot_that_stays_is_told_of_and_noted_in_the_manifest(vcenter: Simulator, store: Path) -> None:
    vcenter.faults.add(Fault(FaultKind.REMOVE_SNAPSHOT_FAILED, times=0))
    with pytest.raises(SnapshotLeaked):
        export_vm("db01", options(store))

    (export,) = exports_in(store)
    snapshot = export.manifest.snapshot
    assert snapshot.leaked
    assert snapshot.held is None
    told = first("hyperexport.snapshot.leaked", export.manifest.vm.instance_uuid)
    assert told["payload"]["snapshot"] == snapshot.name
    failed = first("hyperexport.export.failed", export.manifest.vm.instance_uuid)
    assert failed["payload"]["code"] == SnapshotLeaked.code


def test_a_later_verification_tells_of_damage(vcenter: Simulator, store: Path) -> None:
    export_vm("db01", options(store))
    (export,) = exports_in(store)
    disk = store / export.folder / export.export_id / export.manifest.disks[0].name
    content = bytearray(disk.read_bytes())
    content[-2000] ^= 0xFF
    disk.write_bytes(content)

    with pytest.raises(VerificationFailed):
        verify_exports([export.export_id], ExportOptions.from_keys({"output": store}))
    told = first("hyperexport.export.damaged", export.manifest.vm.instance_uuid)
    assert told["payload"]["export"] == export.export_id
    assert disk.name in told["payload"]["findings"][0]


def test_an_event_that_prefect_does_not_take_fails_nothing(
    vcenter: Simulator, store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise HyperExportError("no")

    monkeypatch.setattr("hyperexport.tasks.events.emit_event", refuse)
    export_vm("db01", options(store))
    assert len(exports_in(store)) == 1
    assert "did not take the event hyperexport.export.completed" in caplog.text
