"""The deployments as files for ``prefect deploy``: one for each kind of work pool, written from the catalogue.

``make prefect-files`` writes them anew, and a test compares. They hold no password and no block template: Prefect would
store what a template resolves to.
"""

from pathlib import Path
from typing import Any, Final, cast

import yaml
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment

from hyperexport.deployments.definitions import POOLS, Pool, deployments

ROOT: Final = Path(__file__).resolve().parents[1]
FILES: Final = {
    "process": "prefect.yaml",  # where a plain `prefect deploy` looks for it
    "docker": "deployments/docker.yaml",
    "kubernetes": "deployments/kubernetes.yaml",
}
"""By the type of the pool, from the root of the checkout."""

_HEAD: Final = """\
# From the root of a clone: prefect deploy --all{file}
# First, once: prefect work-pool create {pool} --type {type} && prefect block register -m hyperexport.blocks
# Written by `make prefect-files` from deployments/definitions.py; see docs/deployments.md for what to change.
# Schedules are paused. Passwords have no place here: name saved blocks, or set the worker's environment.
"""


def text_of(pool: Pool) -> str:
    """The file for one work pool."""
    shared: dict[str, Any] = {"name": pool.name}
    if pool.job_variables:
        shared["job_variables"] = pool.job_variables
    document = {
        "name": "hyperexport",
        "definitions": {"pool": shared},
        "pull": [],
        "deployments": [_entry(deployment, shared) for deployment in deployments(pool)],
    }
    body = yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=120)
    return _HEAD.format(file=_named(FILES[pool.type]), pool=pool.name, type=pool.type) + body


def _named(file: str) -> str:
    """The argument that names a file to `prefect deploy`; empty for the default one."""
    return "" if file == "prefect.yaml" else f" --prefect-file {file}"


def write_all() -> None:
    """Write ``prefect.yaml`` and the variants for Docker and Kubernetes."""
    for pool in POOLS:
        (ROOT / FILES[pool.type]).write_text(text_of(pool), encoding="utf-8")


class _Dumper(yaml.SafeDumper):
    """YAML with one thing that is written once and referred to: the pool."""

    def generate_anchor(self, node: object) -> str:
        del node
        return "pool"

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Indent lists, as people do."""
        del indentless
        super().increase_indent(flow, False)


def _entry(deployment: RunnerDeployment, pool: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": deployment.name,
        "description": deployment.description,
        "entrypoint": deployment.entrypoint,
        "version": deployment.version,
        "work_pool": pool,
        "tags": list(deployment.tags),
    }
    if deployment.schedules:
        entry |= {"paused": deployment.paused, "concurrency_limit": _limit(deployment)}
        entry["schedules"] = [_schedule(schedule) for schedule in deployment.schedules]
    return entry


def _limit(deployment: RunnerDeployment) -> dict[str, Any]:
    options = deployment.concurrency_options
    assert deployment.concurrency_limit is not None
    assert options is not None
    found = ConcurrencyLimitConfig(limit=deployment.concurrency_limit, collision_strategy=options.collision_strategy)
    return {"limit": found.limit, "collision_strategy": found.collision_strategy.value}


def _schedule(schedule: Any) -> dict[str, Any]:
    times = cast("CronSchedule", schedule.schedule)
    entry: dict[str, Any] = {"slug": schedule.slug, "cron": times.cron, "timezone": times.timezone}
    return {**entry, "parameters": schedule.parameters} if schedule.parameters else entry


def _text(dumper: _Dumper, words: str) -> yaml.ScalarNode:
    """Write several lines as they are."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", words, style="|" if "\n" in words else None)  # pyright: ignore[reportUnknownMemberType]


_Dumper.add_representer(str, _text)


if __name__ == "__main__":
    write_all()
