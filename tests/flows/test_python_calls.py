"""The flows as Python calls: flat options, signatures that people read, and what others get of a run's result."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.objects import State
from prefect.client.schemas.sorting import FlowRunSort

import hyperexport
from hyperexport import ExportOptions, flows
from hyperexport.errors import UsageError, VmNotFound
from hyperexport.flows import export_fleet, export_vm, reap_snapshots, vm_info
from hyperexport.simulator import Simulator
from hyperexport.store.local import LocalStore
from tests.flows.service import Service
from tests.flows.support import exported_bytes, exports_in, guest_bytes

FLOWS = [getattr(flows, name) for name in flows.__all__]


def runs_of(flow: str) -> list[dict]:
    """Parameters of the runs of a flow, the newest first."""
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
            limit=200,
        )
        return [run.parameters for run in found]


def test_a_flow_takes_options_flat_and_its_run_shows_them_as_options(vcenter: Simulator, store: Path):
    result = export_vm("db01", ExportOptions.from_keys({"output": store, "parallel": 2}), snapshot=True, parallel=1)

    assert result.manifest
    assert {key: result.manifest.options[key] for key in ("snapshot", "parallel")} == {"snapshot": True, "parallel": 1}
    (export,) = exports_in(store)
    assert exported_bytes(LocalStore(store), export) == guest_bytes(vcenter, "db01")
    shown = runs_of("export-vm")[0]
    assert shown["options"]["snapshot"]["take"] is True
    assert set(shown) == {"vm", "options", "vsphere", "profile"}


def test_a_flow_with_other_settings_takes_them_flat_too(vcenter: Simulator, store: Path):
    state = export_vm.with_options(name="export-vm")(
        "db01", output=store, snapshot=True, dry_run=True, return_state=True
    )
    assert isinstance(state, State)
    assert state.result().dry_run
    assert not exports_in(store)


def test_the_vms_of_a_flow_are_chosen_flat(vcenter: Simulator, store: Path):
    assert [vm.name for vm in vm_info(match="db*")] == ["db01"]
    assert [member.vm.name for member in export_fleet(match="db*", output=store, snapshot=True).members] == ["db01"]
    with pytest.raises(VmNotFound):
        vm_info(vm="nobody")


@pytest.mark.parametrize(
    ("flow", "given", "words"),
    [
        (export_vm, {"vm": "db01", "snapshott": True}, "snapshott"),
        (export_vm, {"vm": "db01", "parallel": 99}, "--parallel"),
        (export_fleet, {"tag": "no-category"}, "--tag"),
        (flows.restore_vm, {"vm": "db01", "disk_provisioning": "fat"}, "disk_provisioning"),
        (reap_snapshots, {"no_such": 1}, "no_such"),
    ],
)
def test_a_keyword_that_makes_no_sense_is_refused_by_name_before_there_is_a_run(flow, given, words):
    before = len(runs_of(flow.name))
    with pytest.raises(UsageError, match=words):
        flow(**given)
    assert len(runs_of(flow.name)) == before


def test_an_argument_that_is_missing_is_named():
    call: Any = export_vm
    with pytest.raises(TypeError, match="'vm'"):
        call(snapshot=True)


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_a_signature_is_short_and_names_what_it_returns(flow):
    words = str(inspect.signature(flow))
    assert len(words) < 500
    assert not [
        part for part in ("FieldInfo", "Annotated", "hyperexport.", " object at ", "Undefined") if part in words
    ]
    assert "-> " in words
    assert "\nReturns:" in inspect.getdoc(flow.fn)


def test_help_on_a_flow_begins_with_its_call():
    import pydoc

    shown = pydoc.plain(pydoc.render_doc(flows.export_vm))
    assert "export_vm(vm: str, options: ExportOptions = ExportOptions(), vsphere" in shown
    assert "**keywords: Unpack[OptionKeywords]" in shown
    assert len(shown.splitlines()) < 40


def test_the_package_offers_its_public_names_and_nothing_else():
    assert dir(hyperexport) == sorted(hyperexport.__all__)
    names = subprocess.run(
        [sys.executable, "-c", "import hyperexport; print([n for n in vars(hyperexport) if n[0] != '_'])"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert names.strip() == "[]"


ASK = """
import json, sys
from prefect.deployments import run_deployment
for parameters in json.loads(sys.argv[1]):
    run = run_deployment("export-vm/export-vm", parameters=parameters, timeout=140, poll_interval=0.5)
    state = run.state
    found = {"state": state.name, "hyperexport": "hyperexport" in sys.modules}
    try:
        found["result"] = state.result()
    except Exception as error:
        found["error"] = f"{type(error).__name__}: {error}"
    print(json.dumps(found))
"""


def run_elsewhere(service: Service, *runs: dict[str, Any]) -> list[dict[str, Any]]:
    """Run the deployment from a Python that knows Prefect alone, and say what came of each run there."""
    environment = {
        **os.environ,
        "PREFECT_API_URL": service.prefect_api,
        "PREFECT_HOME": str(service.folder / "prefect"),
    }
    done = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(runs)],
        env=environment,
        cwd=service.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()[-len(runs) :]]


@pytest.mark.timeout(400)
def test_what_a_worker_did_is_read_elsewhere_as_a_small_summary(service: Service, tmp_path: Path):
    options = {"destination": {"output": str(tmp_path / "exports")}, "snapshot": {"take": True}}
    found, failed = run_elsewhere(service, {"vm": "db01", "options": options}, {"vm": "nobody", "options": options})
    assert found["state"] == "Completed"
    assert found["hyperexport"] is False
    (export,) = exports_in(tmp_path / "exports")
    summary = found["result"]
    assert summary["export"] == export.export_id
    assert summary["vm"] == "/DC0/vm/db01"
    assert summary["bytes_transferred"] == export.manifest.transfer.bytes_transferred
    assert len(json.dumps(summary)) < 2000
    assert failed["state"] == "Failed"
    assert failed["error"].startswith("FailedRun: no VM named 'nobody'")


def test_a_verification_of_a_sample_reads_a_part_of_the_store(vcenter: Simulator, store: Path) -> None:
    for _ in range(2):
        export_vm("db01", output=store, snapshot=True)
    (read,) = flows.verify_exports(output=store, sample_days=2)
    proved = [export for export in LocalStore(store).exports() if export.manifest.verified]
    assert [str(export) for export in proved] == [read.location.removeprefix(f"{store}/")]
