"""What is offered without ``hyperexport serve``: the files for ``prefect deploy``, and the same from Python."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.schedules import CronSchedule
from prefect.settings import get_current_settings

from hyperexport import flows
from hyperexport.cli.main import run
from hyperexport.deployments.__main__ import main
from hyperexport.deployments.definitions import (
    DOCKER,
    POOL,
    POOLS,
    PROCESS,
    TAG,
    Pool,
    deployments,
    ensure_block_types,
    ensure_deployment,
    ensure_pool,
    on_demand_deployments,
)
from hyperexport.deployments.prefect_file import FILES, ROOT, text_of
from hyperexport.simulator import Simulator
from hyperexport.tasks.check_prefect import SCHEDULE_TAG
from tests.flows.support import exports_in, leftovers

pytestmark = pytest.mark.timeout(600)


def prefect(*words: str, folder: Path = ROOT, **environment: str) -> None:
    """Run Prefect's own command line against the tests' server."""
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *words],
        cwd=folder,
        env={**os.environ, "PREFECT_API_URL": str(get_current_settings().api.url), **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def on_the_server(pool: Pool) -> dict[str, dict[str, Any]]:
    """Each deployment of a pool, with what makes it behave as it does."""
    with get_client(sync_client=True) as client:
        only = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))
        found = [item for item in client.read_deployments(deployment_filter=only) if item.work_pool_name == pool.name]
        names = {item.flow_id: client.read_flow(item.flow_id).name for item in found}
    return {
        f"{names[item.flow_id]}/{item.name}": {
            "entrypoint": item.entrypoint,
            "version": item.version,
            "tags": item.tags,
            "paused": item.paused,
            "description": item.description,
            "parameters": item.parameters,
            "job_variables": item.job_variables,
            "limit": item.global_concurrency_limit.limit if item.global_concurrency_limit else None,
            "strategy": item.concurrency_options.collision_strategy.value if item.concurrency_options else None,
            "form": item.parameter_openapi_schema,
            "pull": item.pull_steps or [],
            "schedules": {
                schedule.slug: (schedule.schedule.cron, schedule.schedule.timezone, schedule.parameters)
                for schedule in item.schedules
                if isinstance(schedule.schedule, CronSchedule)
            },
        }
        for item in found
    }


@pytest.mark.parametrize("pool", POOLS, ids=lambda pool: pool.type)
def test_the_files_are_up_to_date(pool: Pool):
    written = (ROOT / FILES[pool.type]).read_text(encoding="utf-8")
    assert written == text_of(pool), "run `make prefect-files`"
    assert "{{" not in written


@pytest.mark.parametrize("pool", POOLS, ids=lambda pool: pool.type)
def test_every_flow_is_offered_and_what_is_scheduled_is_paused_and_alone(pool: Pool):
    offered = deployments(pool)
    scheduled = [item for item in offered if item.schedules]
    assert len(offered) - len(scheduled) == len(flows.__all__) + 1  # a restore has one more, which picks
    slugs = [schedule.slug for item in scheduled for schedule in item.schedules]
    assert slugs == [
        "nightly-incremental",
        "weekly-full",
        "daily-cleanup",
        "hourly-inventory",
        "hourly-reap",
        "weekly-drill",
        "hourly-points",
        "weekly-report",
        "nightly-verify",
    ]
    assert all(item.paused and item.concurrency_limit == 1 and SCHEDULE_TAG in item.tags for item in scheduled)


SAMPLE = (
    "export-vm/export-vm",
    "reap-snapshots/reap-snapshots",
    "restore-vm/restore-from-list",
    "export-fleet/backup",
    "cleanup-exports/tidy",
    "reap-snapshots/reap",
)
"""One deployment of each kind: on demand, with a list to pick from, with two schedules, with one and parameters, with
one and none. ``prefect deploy`` takes half a second for each; ``make matrix`` deploys them all."""


@pytest.fixture(scope="module")
def deployed() -> dict[str, dict[str, Any]]:
    """What ``prefect deploy`` makes of the file for processes, of the sample."""
    ensure_pool()
    ensure_block_types()
    prefect("deploy", *(word for name in SAMPLE for word in ("--name", name.partition("/")[2])))
    return {name: made for name, made in on_the_server(PROCESS).items() if name in SAMPLE}


def test_prefect_deploy_and_python_make_the_same(deployed):
    assert deployed.keys() == set(SAMPLE)
    backup = deployed["export-fleet/backup"]
    assert (backup["paused"], backup["limit"], backup["strategy"]) == (True, 1, "CANCEL_NEW")
    assert backup["schedules"]["weekly-full"][2]["options"]["incremental"] == {"enabled": True, "force_full": True}
    assert main([]) == 0
    by_python = on_the_server(PROCESS)
    assert by_python.keys() == {f"{item.flow_name}/{item.name}" for item in deployments()}
    assert {name: by_python[name] for name in SAMPLE} == deployed


@pytest.mark.matrix  # the test above does it with one of each kind
def test_prefect_deploy_makes_all_as_python_does():
    assert main([]) == 0
    by_python = on_the_server(PROCESS)
    prefect("deploy", "--all")
    assert on_the_server(PROCESS) == by_python


@pytest.mark.parametrize("pool", [pool for pool in POOLS if pool is not PROCESS], ids=lambda pool: pool.type)
def test_a_pool_of_containers_knows_every_setting_that_is_made(pool: Pool):
    ensure_pool(pool)
    with get_client(sync_client=True) as client:
        made = client.read_work_pool(pool.name)
    assert made.type == pool.type
    assert set(pool.job_variables) <= set(made.base_job_template["variables"]["properties"])
    assert {item.work_pool_name for item in deployments(pool)} == {pool.name}


def test_what_is_no_kind_of_pool_is_refused(capsys):
    assert main(["lambda"]) == 2
    assert DOCKER.type in capsys.readouterr().err


def test_a_plain_prefect_worker_takes_a_run(deployed, vcenter: Simulator, tmp_path: Path):
    options = {"destination": {"output": str(tmp_path / "exports")}, "snapshot": {"take": True}}
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("export-vm/export-vm")
        run = client.create_flow_run_from_deployment(deployment.id, parameters={"vm": "db01", "options": options})
        prefect("worker", "start", "--pool", POOL, "--run-once", folder=tmp_path, **vcenter.environment())
        state = client.read_flow_run(run.id).state
    assert state
    assert state.is_completed(), state
    assert len(exports_in(tmp_path / "exports")) == 1
    assert leftovers(vcenter, tmp_path / "exports") == []


# The last one: what it has changed is not put back.
def test_what_people_set_in_the_ui_and_a_resumed_schedule_survive_the_next_start(deployed):
    names = ["export-vm/export-vm", "reap-snapshots/reap-snapshots", "cleanup-exports/tidy"]
    with get_client(sync_client=True) as client:
        for name in names:
            there = client.read_deployment_by_name(name)
            changed = DeploymentUpdate(
                description="Ours",
                parameters={"options": {"execution": {"parallel": 2}}},
                tags=[*there.tags, "ours"],
                concurrency_limit=3,
                job_variables={"env": {"TZ": "Europe/Berlin"}},
                version="0.0.1",
                entrypoint="flows.somewhere.else",
                parameter_openapi_schema={"title": "old"},
            )
            client.update_deployment(there.id, changed)
            schedules = [(CronSchedule(cron="5 4 * * *", timezone="Europe/Berlin"), True)]
            client.create_deployment_schedules(there.id, schedules)
        assert run(["schedules", "resume", "reap"]) == 0
        before = on_the_server(PROCESS)
        assert main([]) == 0
        for deployment in on_demand_deployments():
            if f"{deployment.flow_name}/{deployment.name}" in names:
                ensure_deployment(deployment)
        after = on_the_server(PROCESS)
        assert run(["schedules", "pause", "reap"]) == 0
        for name in names:
            client.delete_deployment(client.read_deployment_by_name(name).id)
    assert not after["reap-snapshots/reap"]["paused"]
    assert after["export-fleet/backup"]["paused"]
    ours = {"entrypoint", "version", "form"}
    for name in names:
        assert {key: after[name][key] for key in ours} == {key: deployed[name][key] for key in ours}
        for key in before[name].keys() - ours:
            assert after[name][key] == before[name][key], (name, key)
        assert ("5 4 * * *", "Europe/Berlin", {}) in after[name]["schedules"].values()
