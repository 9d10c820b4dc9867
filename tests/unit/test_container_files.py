"""What runs in containers can't be started here: so its files are held against what they refer to."""

import re
import subprocess
from pathlib import Path
from typing import Any

import prefect.settings
import pytest
import yaml

from tests.peers import require_program

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "deployments" / "compose"
PINNED = re.compile(r".+:\d+\.\d+(\.\d+)?(-[a-z0-9-]+)?")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((COMPOSE / "compose.yaml").read_text())


def test_the_dockerfile_is_clean() -> None:
    linter = require_program_of_environment("hadolint")
    done = subprocess.run([linter, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def require_program_of_environment(name: str) -> Path:
    own = ROOT / ".venv" / "bin" / name
    return own if own.exists() else require_program(name, "the Dockerfile is not linted")


def test_the_image_copies_every_package_and_they_are_not_ignored() -> None:
    copied = set(re.findall(r"^COPY (\w+)/ \1/$", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    linked = {link.name for link in (ROOT / "hyperexport").iterdir() if link.is_symlink()}
    assert copied == {"hyperexport", *linked}
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {f"!{name}" for name in copied} <= set(ignored)


def test_the_workers_packages_are_those_that_are_tested() -> None:
    def pins(file: str) -> dict[str, str]:
        return dict(re.findall(r"^([a-z0-9._-]+)==([^ ;]+)", (ROOT / "requirements" / file).read_text(), re.MULTILINE))

    worker, tested = pins("worker.txt"), pins("lock.txt")
    assert {name: tested.get(name) for name in worker} == worker
    assert {"prefect", "prefect-redis", "asyncpg", "pyvmomi", "boto3"} <= set(worker)
    assert "pytest" not in worker


def test_every_image_is_pinned_and_whatever_answers_is_asked_how_it_is(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert all(PINNED.fullmatch(service["image"]) for service in services.values())
    version = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    assert services["worker"]["image"] == f"hyperexport:{version[1]}"
    assert {name for name, service in services.items() if "healthcheck" not in service} == {"migrate", "services"}
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)


def test_every_variable_is_in_the_example_and_no_password_in_either(compose: dict[str, Any]) -> None:
    text = (COMPOSE / "compose.yaml").read_text()
    used = set(re.findall(r"\$\{(\w+)", text))
    example = dict(
        line.split("=", 1) for line in (COMPOSE / ".env.example").read_text().splitlines() if re.match(r"\w+=", line)
    )
    assert used == set(example)
    assert all(not value for name, value in example.items() if re.search("PASSWORD|AUTH|USER", name))
    secrets = [
        value
        for service in compose["services"].values()
        for name, value in service.get("environment", {}).items()
        if re.search("PASSWORD|AUTH|CONNECTION_URL", name)
    ]
    assert secrets
    assert all("${" in value for value in secrets)


def test_every_setting_of_prefect_is_one(compose: dict[str, Any]) -> None:
    names = {
        name
        for service in compose["services"].values()
        for name in service.get("environment", {})
        if name.startswith("PREFECT_") and not name.startswith("PREFECT_REDIS_")
    }
    assert {name for name in names if not hasattr(prefect.settings, name)} == set()
