"""The flow that restores an export: by Prefect, from the command line, with its page, its events and its cleanup."""

import json
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client

from hyperexport import ExportOptions, flows
from hyperexport.cli.main import run
from hyperexport.errors import DatastoreFull, TargetExists
from hyperexport.model.restore import RestoreRequest
from hyperexport.simulator import Fault, FaultKind, Simulator
from tests.flows.support import guest_bytes
from tests.flows.test_artifacts import artifacts_of
from tests.flows.test_events import earlier_events_are_forgotten, first

__all__ = ["earlier_events_are_forgotten"]


def test_what_was_exported_is_restored_with_a_page_and_an_event(
    vcenter: Simulator, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--vm", "db01", "--snapshot", "--output", str(store), "--quiet"]) == 0
    capsys.readouterr()

    code = run(["restore", "--vm", "db01", "--name", "copy", "--host", "esx-01", f"--output={store}", "--json"])

    (restored,) = json.loads(capsys.readouterr().out)["restores"]
    assert code == 0
    assert guest_bytes(vcenter, "copy") == guest_bytes(vcenter, "db01")
    with get_client(sync_client=True) as client:
        (newest,) = client.read_flow_runs(sort="START_TIME_DESC", limit=1)  # type: ignore[arg-type]
    assert newest.name == "restore db01"
    shown = {key: (data, words) for key, data, words in artifacts_of(newest.id)}
    assert "/DC0/vm/copy" in str(shown["restore-db01"][0]).replace("\\", "")
    assert shown["progress-db01-db01-disk-0-vmdk"][0] == 100.0
    told = first("hyperexport.restore.completed", restored["plan"]["source"]["instance_uuid"])
    assert told["payload"]["vm"] == "/DC0/vm/copy"
    assert told["payload"]["verified"] is True


def test_a_restore_that_fails_leaves_no_vm_and_tells_why(vcenter: Simulator, store: Path) -> None:
    options = ExportOptions.from_keys({"output": str(store)})
    made = flows.export_vm("db01", ExportOptions.from_keys({"output": str(store), "snapshot": True}))
    assert made.manifest
    vcenter.faults.add(Fault(FaultKind.DATASTORE_FULL, vm="copy", at_byte=50_000))

    with pytest.raises(DatastoreFull):
        flows.restore_vm(vm="db01", restore=RestoreRequest(name="copy", host="esx-01"), options=options)

    assert [vm.name for vm in vcenter.vms()] == ["db01"]
    assert vcenter.leases() == []
    told = first("hyperexport.restore.failed", made.manifest.vm.instance_uuid)
    assert told["payload"]["code"] == "datastore-full"
    assert told["payload"]["step"] == "upload-file"
    with pytest.raises(TargetExists, match="never replaces a VM"):
        flows.restore_vm(made.manifest.export_id, options=options)
