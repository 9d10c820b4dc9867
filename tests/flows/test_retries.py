"""A run that Prefect retries, by itself or by its Retry button, continues: nothing good is exported or told twice."""

import logging
from collections.abc import Generator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.flow_engine import run_flow
from prefect.states import Pending

from hyperexport import errors
from hyperexport.deployments.definitions import deployment_of, ensure_pool
from hyperexport.flows import export_fleet, export_vm, redo_fleet
from hyperexport.options.precedence import ExportOptions
from hyperexport.options.selection import Selection
from hyperexport.simulator import DiskSpec, Fault, FaultKind, Simulator, VmSpec
from hyperexport.store.local import LocalStore
from tests.flows.smtp_server import Postbox, smtp_server, text_of
from tests.flows.support import exported_bytes, exports_in, guest_bytes, leftovers

NAMES = ["db01", "db02", "web02"]


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Generator[Simulator]:
    with Simulator([VmSpec(name, disks=(DiskSpec(1 << 20),)) for name in NAMES]) as simulator:
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        yield simulator


@pytest.fixture
def postbox(tmp_path: Path) -> Generator[Postbox]:
    with smtp_server(tmp_path) as postbox:
        yield postbox


@pytest.fixture(scope="module")
def deployment() -> UUID:
    ensure_pool()
    made = deployment_of(export_fleet, "retried").apply()
    assert isinstance(made, UUID)
    return made


def options(store: Path, postbox: Postbox, **keys: object) -> ExportOptions:
    mail = {"email_notify": True, "email_smtp_host": "127.0.0.1", "email_smtp_port": postbox.port, "email_tls": "none"}
    mail |= {"email_from": "export@example.com", "email_to": "admin@example.com", "email_on_start": True}
    return ExportOptions.from_keys({"output": store, "snapshot": True, "quiesce_required": True, **mail, **keys})


def subjects(postbox: Postbox) -> list[str]:
    return [str(message["Subject"]) for message in postbox.messages]


def work(client: SyncPrefectClient, run: UUID) -> FlowRun:
    """Do with a run what a worker does."""
    client.set_flow_run_state(run, Pending())
    run_flow(export_fleet, flow_run=client.read_flow_run(run), return_type="state")
    return client.read_flow_run(run)


def press_retry(client: SyncPrefectClient, run: UUID) -> None:
    """Send what the Retry button of Prefect's UI sends."""
    state = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retry from the UI"}
    client._client.post(f"/flow_runs/{run}/set_state", json={"state": state, "force": True}).raise_for_status()


def vm_names(store: Path) -> list[str]:
    return sorted(export.manifest.vm.name for export in exports_in(store))


def test_a_flow_with_retries_is_retried_and_mails_once(fleet: Simulator, store: Path, postbox: Postbox) -> None:
    fleet.faults.add(Fault(FaultKind.QUIESCE_FAILED, times=1, vm="db01"))

    result = export_vm.with_options(retries=1)("db01", options(store, postbox))

    assert result.manifest is not None
    assert vm_names(store) == ["db01"]
    assert leftovers(fleet, store) == []
    assert subjects(postbox) == ["HyperExport: Export of db01 started", "HyperExport: db01 exported"]


def test_a_flow_whose_retries_all_fail_raises_its_own_error_and_mails_once(
    fleet: Simulator, store: Path, postbox: Postbox, caplog: pytest.LogCaptureFixture
) -> None:
    fleet.faults.add(Fault(FaultKind.QUIESCE_FAILED, times=0, vm="db01"))

    with pytest.raises(errors.QuiesceFailed):
        export_vm.with_options(retries=1)("db01", options(store, postbox))

    assert fleet.requests["CreateSnapshot_Task"] == 2
    assert subjects(postbox) == ["HyperExport: Export of db01 started", "HyperExport: Export of db01 FAILED"]
    assert not [record for record in caplog.records if record.exc_info and record.levelno > logging.DEBUG]


def test_prefects_retry_button_exports_only_what_failed(
    fleet: Simulator, store: Path, postbox: Postbox, deployment: UUID
) -> None:
    fault = Fault(FaultKind.QUIESCE_FAILED, times=1, vm="web02")
    fleet.faults.add(fault)
    given = options(store, postbox).model_dump(mode="json", exclude_unset=True)
    parameters: dict[str, Any] = {"selection": {"match": ["*"]}, "options": given}
    with get_client(sync_client=True) as client:
        run = client.create_flow_run_from_deployment(deployment, parameters=parameters).id
        assert work(client, run).state.type is StateType.FAILED
        first = {str(export) for export in exports_in(store)}
        press_retry(client, run)
        assert work(client, run).state.type is StateType.COMPLETED

    assert vm_names(store) == NAMES, "each exactly once"
    assert first < {str(export) for export in exports_in(store)}
    assert fleet.requests["CreateSnapshot_Task"] == len(NAMES) + 1
    for export in exports_in(store):
        assert exported_bytes(LocalStore(store), export) == guest_bytes(fleet, export.manifest.vm.name)
    started, failed, done = postbox.messages
    assert "started" in started["Subject"]
    assert "2 of 3 VMs exported, 1 FAILED" in failed["Subject"]
    assert "3 of 3 VMs exported" in done["Subject"]
    assert text_of(done).count("exported by an earlier attempt of this run") == 2


def test_a_retry_exports_again_what_is_no_longer_in_the_store(
    fleet: Simulator, store: Path, postbox: Postbox, deployment: UUID
) -> None:
    fleet.faults.add(Fault(FaultKind.QUIESCE_FAILED, times=1, vm="db02"))
    given = options(store, postbox).model_dump(mode="json", exclude_unset=True)
    parameters: dict[str, Any] = {"selection": {"match": ["db*"]}, "options": given}
    with get_client(sync_client=True) as client:
        run = client.create_flow_run_from_deployment(deployment, parameters=parameters).id
        work(client, run)
        (only,) = exports_in(store)
        LocalStore(store).delete(only)
        press_retry(client, run)
        assert work(client, run).state.type is StateType.COMPLETED
    assert vm_names(store) == ["db01", "db02"]


def test_a_fleet_with_retries_continues_by_itself(fleet: Simulator, store: Path, postbox: Postbox) -> None:
    fleet.faults.add(Fault(FaultKind.QUIESCE_FAILED, times=1, vm="db02"))
    result = export_fleet.with_options(retries=1)(Selection(match=("db*",)), options(store, postbox))
    assert [member.failed for member in result.members] == [False, False]
    assert fleet.requests["CreateSnapshot_Task"] == 3
    assert subjects(postbox)[1:] == ["HyperExport: 2 of 2 VMs exported"]


def test_one_run_of_redo_fleet_exports_only_what_failed_in_the_last_fleet(
    fleet: Simulator, store: Path, postbox: Postbox, deployment: UUID
) -> None:
    fleet.faults.add(Fault(FaultKind.QUIESCE_FAILED, times=1, vm="web02"))
    given = options(store, postbox).model_dump(mode="json", exclude_unset=True)
    with get_client(sync_client=True) as client:
        run = client.create_flow_run_from_deployment(
            deployment, parameters={"selection": {"match": ["*"]}, "options": given}
        )
        assert work(client, run.id).state.type is StateType.FAILED

        redone = redo_fleet()

        assert redone["id"] == str(run.id)
        assert work(client, run.id).state.type is StateType.COMPLETED
    assert vm_names(store) == NAMES, "each exactly once"
    (failed,) = [message for message in postbox.messages if "FAILED" in message["Subject"]]
    assert "deployment redo-fleet" in text_of(failed)
    with pytest.raises(errors.UsageError, match="did not fail: its state is Completed"):
        redo_fleet(str(run.id))


def test_a_fleet_run_that_cannot_be_continued_is_refused_with_the_reason(fleet: Simulator, store: Path) -> None:
    fleet.faults.add(Fault(FaultKind.QUIESCE_FAILED, times=0, vm="web02"))
    with pytest.raises(errors.PartialFleetFailure):
        export_fleet(match=("db01", "web02"), output=store, snapshot=True, quiesce_required=True)

    with pytest.raises(errors.UsageError, match="was started by a command"):
        redo_fleet()
    with pytest.raises(errors.UsageError, match="there is no run of export-fleet"):
        redo_fleet("11111111-1111-4111-8111-111111111111")
