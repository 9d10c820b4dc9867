"""The flow that restores an export: by Prefect, from the command line, with its page, its events and its cleanup."""

import json
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError

import hyperexport
from hyperexport import ExportOptions, flows
from hyperexport.cli.main import run
from hyperexport.deployments.definitions import ensure_deployment, ensure_pool, on_demand_deployments
from hyperexport.errors import DatastoreFull, TargetExists
from hyperexport.model.restore import RestoreRequest
from hyperexport.simulator import Fault, FaultKind, Simulator
from tests.flows.support import guest_bytes
from tests.flows.test_artifacts import artifacts_of
from tests.flows.test_events import earlier_events_are_forgotten, first

__all__ = ["earlier_events_are_forgotten"]

pytestmark = pytest.mark.usefixtures("events_are_emitted")


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


def test_a_restore_point_is_picked_from_a_list_in_the_form(vcenter: Simulator, store: Path, tmp_path: Path) -> None:
    for _ in range(2):
        hyperexport.export("db01", snapshot=True, output=store)
    newest_first = [str(export) for export in hyperexport.list_exports(store).exports]
    ensure_pool()
    (pick,) = [item for item in on_demand_deployments() if item.name == "restore-from-list"]
    ensure_deployment(pick)

    listed = flows.restore_points(ExportOptions.from_keys({"output": store}))

    assert [point.name for point in listed] == newest_first
    assert len(newest_first) == 2
    with get_client(sync_client=True) as client:
        form = client.read_deployment_by_name("restore-vm/restore-from-list").parameter_openapi_schema
        assert form["properties"]["export"]["enum"] == newest_first
        assert form["required"] == ["export"]
        ensure_deployment(pick)  # as the next start of the service does
        there = client.read_deployment_by_name("restore-vm/restore-from-list")
        assert there.parameter_openapi_schema["properties"]["export"]["enum"] == newest_first
        with pytest.raises(PrefectHTTPStatusError):
            client.create_flow_run_from_deployment(there.id, parameters={"export": "another"})
        (newest,) = client.read_flow_runs(sort="START_TIME_DESC", limit=1)
    shown = {key: data for key, data, _ in artifacts_of(newest.id)}
    assert newest_first[1] in str(shown["restore-points"]).replace("\\", "")

    restored = flows.restore_vm(
        newest_first[1],
        restore=RestoreRequest(name="picked", host="esx-01"),
        options=ExportOptions.from_keys({"output": store}),
    )
    assert restored.plan.export_id == newest_first[1].rpartition("/")[2]
    assert guest_bytes(vcenter, "picked") == guest_bytes(vcenter, "db01")

    flows.restore_points(ExportOptions.from_keys({"output": tmp_path / "empty"}))
    with get_client(sync_client=True) as client:
        form = client.read_deployment_by_name("restore-vm/restore-from-list").parameter_openapi_schema
    assert "enum" not in form["properties"]["export"]
