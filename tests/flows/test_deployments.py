"""What is offered without ``hyperexport serve``: the file for ``prefect deploy`` has what serving puts in place."""

import os
import subprocess
import sys
from pathlib import Path

import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
from prefect.settings import get_current_settings

import flows
from deployments.catalogue import ON_DEMAND, POOL, ensure_pool, on_demand_deployments

PREFECT_FILE = Path(flows.__file__).parents[1] / "deployments" / "prefect.yaml"


def test_the_file_lists_exactly_the_deployments_of_the_catalogue():
    listed = yaml.safe_load(PREFECT_FILE.read_text())["deployments"]
    told = [(item["name"], item["entrypoint"], item["work_pool"]["name"], item["tags"]) for item in listed]
    offered = [(item.name, item.entrypoint, item.work_pool_name, item.tags) for item in on_demand_deployments()]
    assert sorted(told) == sorted(offered)
    assert len(offered) == len(flows.__all__)


def test_prefect_deploy_takes_the_file_as_it_is():
    ensure_pool()
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(PREFECT_FILE)],
        cwd=PREFECT_FILE.parents[1],
        env={**os.environ, "PREFECT_API_URL": str(get_current_settings().api.url)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with get_client(sync_client=True) as client:
        only = DeploymentFilter(name=DeploymentFilterName(any_=[ON_DEMAND]))
        deployed = client.read_deployments(deployment_filter=only)
    assert {(item.entrypoint, item.work_pool_name) for item in deployed} == {
        (item.entrypoint, POOL) for item in on_demand_deployments()
    }
