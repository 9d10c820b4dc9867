"""A fleet that others export: what is given to them, what becomes of it, and what is told of it here.

The worker is a thread that takes up what is submitted, as a real one does in a process of its own; several real ones
on a real server for many are in ``tests/scale/``.
"""

import contextvars
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.flow_engine import run_flow
from prefect.states import Crashed, Failed, Pending

from hyperexport import errors
from hyperexport.blocks import VSphereCredentials
from hyperexport.deployments.definitions import deployment_of, ensure_pool
from hyperexport.flows import export_fleet, export_vm, fleet_distribution
from hyperexport.options.precedence import ExportOptions, resolve
from hyperexport.options.selection import Selection
from hyperexport.results import FailureReport, FleetOutcome, FleetResult
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from tests.flows.support import exports_in

NAMES = ["a", "b", "c"]


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Generator[Simulator]:
    with Simulator([VmSpec(name, disks=(DiskSpec(1 << 20),)) for name in NAMES]) as simulator:
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(fleet_distribution, "SECONDS_BETWEEN_LOOKS", 0.3)
        yield simulator


@pytest.fixture(scope="module")
def deployed() -> None:
    ensure_pool()
    deployment_of(export_vm, export_vm.name).apply()


@contextmanager
def working(take_up: Callable[[SyncPrefectClient, FlowRun], object]) -> Generator[list[str]]:
    """A worker: does something with each run that is submitted; gives the paths of their VMs, as they came."""
    over = threading.Event()
    taken: list[str] = []
    due = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])))

    def work() -> None:
        with get_client(sync_client=True) as client:
            while not over.wait(0.3):
                for run in client.read_flow_runs(
                    flow_run_filter=due, sort=FlowRunSort.EXPECTED_START_TIME_ASC, limit=10
                ):
                    taken.append(run.parameters["vm"])
                    take_up(client, run)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,))
    thread.start()
    try:
        yield taken
    finally:
        over.set()
        thread.join()


def export(client: SyncPrefectClient, run: FlowRun) -> None:
    client.set_flow_run_state(run.id, Pending())
    run_flow(export_vm, flow_run=client.read_flow_run(run.id), return_type="state")


def end(client: SyncPrefectClient, run: FlowRun, state: State[Any]) -> None:
    client.set_flow_run_state(run.id, state, force=True)


def options(store: Path, **keys: object) -> ExportOptions:
    return ExportOptions.from_keys({"output": store, "snapshot": True, "spread": True, **keys})


@pytest.mark.usefixtures("deployed")
def test_each_vm_is_a_run_of_its_own_and_one_whose_worker_dies_is_given_to_another(
    fleet: Simulator, store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    seen: set[str] = set()
    away = ["submit", "look", "look"]

    def sometimes_away(name: str) -> None:
        real = getattr(fleet_distribution, name)

        def ask(*args: Any, **kwargs: Any) -> Any:
            if name in away:
                away.remove(name)
                raise httpx.ConnectError("the server is being restarted")
            return real(*args, **kwargs)

        monkeypatch.setattr(fleet_distribution, name, ask)

    sometimes_away("submit")
    sometimes_away("look")

    def worker(client: SyncPrefectClient, run: FlowRun) -> None:
        vm = run.parameters["vm"].rpartition("/")[2]
        first, _ = vm not in seen, seen.add(vm)
        if vm == "c":
            failure = FailureReport(code="store-full", what="the disk is full", fix="Make room")
            client.update_flow_run_labels(run.id, {"hyperexport.failure": failure.model_dump_json()})
            end(client, run, Failed(message="the words of a state are for people"))
        elif vm == "b" and first:
            end(client, run, Crashed(message="no heartbeat"))
        else:
            export(client, run)

    with working(worker) as taken, pytest.raises(errors.PartialFleetFailure) as failed:
        export_fleet(Selection(match=("*",)), options(store))
    assert away == [], "it was away, and the fleet went on"
    result = failed.value.fleet
    assert isinstance(result, FleetResult)
    outcomes = {member.vm.name: (member.outcome, member.code) for member in result.members}
    assert outcomes == {
        "a": (FleetOutcome.EXPORTED, None),
        "b": (FleetOutcome.EXPORTED, None),
        "c": (FleetOutcome.FAILED, "store-full"),
    }
    assert sorted(taken) == ["/DC0/vm/a", "/DC0/vm/b", "/DC0/vm/b", "/DC0/vm/c"]
    assert sorted(export.manifest.vm.name for export in exports_in(store)) == ["a", "b"]
    told = result.members[0]
    (stored,) = [export for export in exports_in(store) if export.manifest.vm.name == "a"]
    assert told.moved == stored.manifest.transfer.bytes_transferred > 0
    assert told.row()["Kind"] == "full"
    assert result.failed[0].message == "the disk is full. Make room."
    assert [line for line in caplog.messages if line.endswith("(3 of 3 VMs are done)")]


@pytest.mark.usefixtures("deployed")
def test_a_vm_that_costs_two_workers_gets_no_third_and_a_stopped_fleet_stops_its_runs(
    fleet: Simulator, store: Path
) -> None:
    def dying(client: SyncPrefectClient, run: FlowRun) -> None:
        end(client, run, Crashed(message="no heartbeat"))

    with working(dying) as taken, pytest.raises(errors.FleetFailure) as failed:
        export_fleet(Selection(vm=("a",)), options(store))
    assert taken == ["/DC0/vm/a"] * 2
    assert isinstance(failed.value.fleet, FleetResult)
    assert failed.value.fleet.members[0].code == "crashed"

    def stop_the_fleet(client: SyncPrefectClient, run: FlowRun) -> None:
        client.set_flow_run_state(run.id, Pending())
        raise_in_main.set()

    raise_in_main = threading.Event()

    class Stopping(fleet_distribution.StopSignal):
        def check(self) -> None:
            if raise_in_main.is_set():
                raise KeyboardInterrupt

    with working(stop_the_fleet), pytest.MonkeyPatch.context() as patch:
        patch.setattr("hyperexport.jobs.runner.StopSignal", Stopping)
        patch.setattr(fleet_distribution, "SECONDS_TO_STOP", 0.5)
        with pytest.raises(KeyboardInterrupt):
            export_fleet(Selection(vm=("b",)), options(store))
    with get_client(sync_client=True) as client:
        last = client.read_flow_runs(sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=10)
    (run,) = [run for run in last if run.parameters.get("vm") == "/DC0/vm/b"][:1]
    assert run.state_type in {StateType.CANCELLING, StateType.CANCELLED}


def test_a_worker_that_takes_a_run_up_and_never_begins_it_has_lost_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(export_vm, parameters={"vm": "a"}, state=Pending())
        sent = {run.id: fleet_distribution.Sent(None, 1, 0.0)}
        assert fleet_distribution.look(client, sent) == []
        monkeypatch.setattr(fleet_distribution, "SECONDS_TO_BEGIN", 0.0)
        fleet_distribution.look(client, sent)
        (lost,) = fleet_distribution.look(client, sent)
    assert fleet_distribution.is_crashed(lost)


def test_workers_get_what_was_given_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = fleet_distribution.given_as_json(ExportOptions.from_keys({"output": Path("here"), "verify": True}))
    assert given == {"destination": {"output": str(tmp_path / "here")}, "execution": {"verify": "on"}}

    assert fleet_distribution.reference("prod") == "prod"
    unsaved = VSphereCredentials(url="https://vc.example.com", username="u", password="secret")  # type: ignore[arg-type]
    with pytest.raises(errors.UsageError, match="not saved"):
        fleet_distribution.reference(unsaved)


def test_a_limit_that_would_be_each_workers_own_is_refused() -> None:
    with pytest.raises(errors.UsageError, match="--bandwidth-shared"):
        resolve(ExportOptions.from_keys({"spread": True, "bandwidth_limit": 10}))


def test_the_deployment_is_the_one_that_serve_makes() -> None:
    assert f"{export_vm.name}/{export_vm.name}" == fleet_distribution.DEPLOYMENT
