"""Schedules, end to end: made on the command line, kept by Prefect, fired and run by ``hyperexport serve``."""

import json
import signal
from collections.abc import Callable, Iterator
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings
from prefect.states import Cancelling

from hyperexport.cli.main import run
from hyperexport.options.precedence import ExportOptions
from tests.flows.service import Service, eventually, serving
from tests.flows.support import exports_in, leftovers

pytestmark = pytest.mark.timeout(400)

EVERY_FEW_SECONDS = "* * * * * */4"
"""A cron line of six fields; the last is the seconds."""


class Answer:
    """What a command line came to."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def schedules(self) -> list[dict]:
        """The schedules in a JSON answer."""
        return json.loads(self.out)["schedules"]


@pytest.fixture
def hyperexport(capsys) -> Callable[..., Answer]:
    """Runs a command line in this process."""

    def answer(*words: str) -> Answer:
        code = run(words)
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return answer


@pytest.fixture
def served(service: Service) -> Iterator[Service]:
    """The service, with this process talking to its Prefect server; without schedules in the end."""
    with temporary_settings({PREFECT_API_URL: service.prefect_api}):
        yield service
        run(["schedules", "--quiet"])


def deployment(name: str):
    with get_client(sync_client=True) as client:
        return client.read_deployment_by_name(name)


def runs_of(deployment_id: UUID) -> list[FlowRun]:
    with get_client(sync_client=True) as client:
        only = DeploymentFilter(id=DeploymentFilterId(any_=[deployment_id]))
        return client.read_flow_runs(deployment_filter=only)


def in_state(deployment_id: UUID, *states: StateType) -> list[FlowRun]:
    return [run for run in runs_of(deployment_id) if run.state and run.state.type in states]


def test_a_schedule_made_on_the_command_line_fires_and_the_export_is_there(served, hyperexport, tmp_path):
    store = tmp_path / "exports"
    assert hyperexport("--save-profile=running", "--snapshot", f"--output={store}").code == 0
    made = hyperexport("--vm=db01", f"--daemon-schedule=often:{EVERY_FEW_SECONDS}", "--profile=running", "--json")
    assert made.code == 0, made.err
    (schedule,) = made.schedules
    assert (schedule["name"], schedule["flow"], schedule["active"]) == ("often", "export-vm", True)
    assert schedule["next"]
    eventually(lambda: exports_in(store), "an export by schedule")
    assert hyperexport("schedules", "pause", "often").out == "paused export-vm/often\n"
    eventually(lambda: in_state(deployment("export-vm/often").id, StateType.COMPLETED), "a run's end")
    eventually(lambda: hyperexport("schedules", "remove", "often").code == 0, "the removal, after the last run's end")


def test_a_run_that_still_goes_is_not_overtaken_by_its_schedule(served, hyperexport, tmp_path):
    made = hyperexport(
        "--vm=big",
        f"--daemon-schedule=slow:{EVERY_FEW_SECONDS}",
        "--snapshot",
        "--bandwidth-limit=1",
        f"--output={tmp_path / 'exports'}",
    )
    assert made.code == 0, made.err
    slow = deployment("export-vm/slow").id
    (running,) = eventually(lambda: in_state(slow, StateType.RUNNING), "a run")
    (late, *_) = eventually(lambda: in_state(slow, StateType.CANCELLED), "the next, cancelled")
    assert "concurrency limit" in late.state.message
    assert [run.id for run in in_state(slow, StateType.RUNNING)] == [running.id]
    refused = hyperexport("schedules", "remove", "slow")
    assert (refused.code, "is in progress" in refused.err) == (2, True)
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(running.id, Cancelling())
    eventually(lambda: running.id in [run.id for run in in_state(slow, StateType.CANCELLED)], "the run's end")
    assert hyperexport("schedules", "remove", "slow").code == 0
    assert leftovers(served.simulator, tmp_path / "exports") == []


def test_a_fleet_that_is_cancelled_on_its_worker_leaves_nothing(served, tmp_path):
    store = tmp_path / "exports"
    options = ExportOptions.from_keys({"output": store, "snapshot": True})
    with served.simulator.downloads_held(), get_client(sync_client=True) as client:
        run_of_all = client.create_flow_run_from_deployment(
            deployment("export-fleet/export-fleet").id,
            parameters={"selection": {"match": ["*"]}, "options": options.model_dump(mode="json", exclude_unset=True)},
        )

        def both_in_flight() -> bool:
            state = client.read_flow_run(run_of_all.id).state
            assert not state.is_final(), f"it ended before: {state.name}: {state.message}"
            return (
                len({lease.machine for lease in served.simulator.leases()}) >= 2
            )  # other tests may have restored more

        eventually(both_in_flight, "both VMs in flight")
        client.set_flow_run_state(run_of_all.id, Cancelling())
        eventually(lambda: client.read_flow_run(run_of_all.id).state.type is StateType.CANCELLED, "the fleet's end")
    assert leftovers(served.simulator, store) == []
    assert exports_in(store) == []


def test_schedules_are_listed_paused_resumed_and_removed(served, hyperexport):
    words = ["--vm=db01", "--daemon-schedule=nightly:0 2 * * *", "--schedule-timezone=Europe/Berlin"]
    assert hyperexport(*words, "--cleanup-schedule=36h", "--cleanup-max-count=7").code == 0
    listed = {schedule["name"]: schedule for schedule in hyperexport("schedules", "--json").schedules}
    assert set(listed) == {"nightly", "nightly-cleanup"}
    assert listed["nightly"]["when"] == "0 2 * * * (Europe/Berlin)"
    assert listed["nightly"]["next"].rpartition("T")[2].startswith("02:00:00+0")
    assert listed["nightly-cleanup"]["when"] == "every 1d12h"
    assert "nightly-cleanup" in hyperexport("schedules").out

    assert "active=false" in hyperexport("schedules", "pause", "nightly", "--quiet").out
    assert "next=\nactive=false" in hyperexport("schedules", "--quiet").out
    assert "active=true" in hyperexport("schedules", "resume", "export-vm/nightly", "--quiet").out

    assert hyperexport(*words, "--snapshot").code == 0, "made anew, it is replaced"
    assert len(deployment("export-vm/nightly").schedules) == 1
    for name in listed:
        assert hyperexport("schedules", "remove", name).code == 0
    assert hyperexport("schedules").out == "no schedules\n"
    missing = hyperexport("schedules", "remove", "nightly")
    assert (missing.code, "'nightly'" in missing.err) == (2, True)


def test_a_schedule_keeps_what_was_given_and_nothing_of_the_environment(served, hyperexport, monkeypatch, tmp_path):
    monkeypatch.setenv("HYPEREXPORT_BANDWIDTH_LIMIT", "5")
    monkeypatch.setenv("HYPEREXPORT_EMAIL_PASSWORD", "s3cret-mail")
    monkeypatch.setenv("GOVC_PASSWORD", "s3cret-vcenter")
    monkeypatch.chdir(tmp_path)
    words = ["--vm=db01", "--daemon-schedule=kept:0 2 * * *", "--incremental", "--snapshot", "--output=here"]
    assert hyperexport(*words, "--cleanup-schedule=24h", "--cleanup-max-count=7").code == 0
    export, cleanup = deployment("export-vm/kept"), deployment("cleanup-exports/kept-cleanup")
    assert export.parameters == {
        "vm": "db01",
        "options": {
            "destination": {"output": str(tmp_path / "here")},
            "snapshot": {"take": True},
            "incremental": {"enabled": True},
        },
    }
    assert cleanup.parameters == {
        "options": {"destination": {"output": str(tmp_path / "here")}, "cleanup": {"max_count": 7}}
    }
    hyperexport("--save-profile=kept", "--cleanup", "--cleanup-max-age=0", "--output=there")
    assert hyperexport(*words[:2], "--profile=kept", "--cleanup-max-count=7").code == 0
    assert deployment("export-vm/kept").parameters == {
        "vm": "db01",
        "options": {"cleanup": {"max_count": 7}},
        "profile": "kept",
    }
    assert export.entrypoint == "hyperexport.flows.export_vm.export_vm"
    assert "s3cret" not in export.model_dump_json() + cleanup.model_dump_json()
    hyperexport("schedules", "remove", "kept")
    hyperexport("schedules", "remove", "kept-cleanup")


def test_a_dry_run_shows_the_schedule_and_makes_none(served, hyperexport):
    shown = hyperexport("--cleanup-schedule=24h", "--dry-run")
    assert shown.out.startswith("would schedule cleanup-exports/cleanup: every 1d, next ")
    assert hyperexport("schedules").out == "no schedules\n"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--vm=a", "--daemon-schedule=nightly"], "name:CRON"),
        (["--vm=a", "--daemon-schedule=nightly:61 2 * * *"], "'61 2 * * *'"),
        (["--vm=a", "--daemon-schedule=a/b:0 2 * * *"], "'a/b'"),
        (["--vm=a", "--daemon-schedule=export-fleet:0 2 * * *"], "export-fleet"),
        (["--vm=a", "--daemon-schedule=n:0 2 * * *", "--schedule-timezone=Mars/Base"], "'Mars/Base'"),
        (["--daemon-schedule=n:0 2 * * *"], "--vm"),
        (["--vm=a", "--cleanup-schedule=24h"], "--daemon-schedule"),
        (["--cleanup-schedule=daily"], "--cleanup-schedule"),
        (["--cleanup-schedule=5s"], "too short"),
        (["--vm=a", "--daemon-schedule=n:0 2 * * *", "--cleanup-max-count=7"], "--cleanup-max-count"),
        (["--vm=a", "--daemon-schedule=n:0 2 * * *", "--vsphere-block=nobody"], "'nobody'"),
        (["--vm=a", "--daemon-schedule=n:0 2 * * *", "--email-password=s3cret"], "--email-password"),
        (["--vm=a", "--daemon-schedule=n:0 2 * * *", "--vm-info"], "--vm-info"),
        (["--vm=a", "--daemon-schedule=n:0 2 * * *", "--save-profile=p"], "--save-profile"),
        (["--vm=a", "--daemon-schedule=n:0 2 * * *", "--profile=nobody"], "no profile nobody"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused_in_words(hyperexport, words, named):
    refused = hyperexport(*words)
    assert (refused.code, refused.out) == (2, "")
    assert named in refused.err
    assert refused.err.endswith("[usage]\n")
    assert "s3cret" not in refused.err


def test_a_service_that_is_stopped_cancels_its_runs_and_waits_for_their_cleanup(tmp_path):
    api = str(get_current_settings().api.url)
    with (
        serving(tmp_path / "service", PREFECT_API_URL=api) as service,
        get_client(sync_client=True) as client,
    ):
        assert service.prefect_api == api
        store = service.folder / "relative"
        run = client.create_flow_run_from_deployment(
            client.read_deployment_by_name("export-vm/export-vm").id,
            parameters={
                "vm": "big",
                "options": {
                    "snapshot": {"take": True},
                    "bandwidth": {"limit": 1},
                    "destination": {"output": "relative"},
                },
            },
        )
        eventually(lambda: service.simulator.leases() and list(store.rglob("*.vmdk*")), "a transfer")
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(120) == 0
        state = client.read_flow_run(run.id).state
        assert state is not None
        assert state.is_cancelled(), state
        assert leftovers(service.simulator, store) == []
