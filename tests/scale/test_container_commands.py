"""What runs in containers, without containers: the same commands, as the image's user, on a read-only root.

The image holds an installed wheel and the locked packages, belongs to root, and is mounted read-only. So it is here:
each command runs in a mount namespace of its own, as uid 10001, with nothing to write to but what compose.yaml mounts.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import urllib.request
import uuid
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_docker.worker import DockerWorker, DockerWorkerJobConfiguration
from prefect_kubernetes.worker import KubernetesWorker, KubernetesWorkerJobConfiguration

from hyperexport.deployments.definitions import DOCKER, KUBERNETES, Pool, deployment_of, ensure_pool
from hyperexport.flows import vm_info
from hyperexport.simulator import Simulator
from tests.checkout import ROOT, copy_checkout
from tests.peers import missing
from tests.scale.servers import free_port, postgres, redis, redis_settings, require_postgres, until

pytestmark = [pytest.mark.scale, pytest.mark.timeout(900)]

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "deployments" / "compose" / "compose.yaml").read_text())
UID = "10001"
HOME = "/home/hyperexport"
MAIN = "from hyperexport.cli.main import main"


@pytest.fixture(scope="module")
def image() -> Generator[Path]:
    """The environment that the Dockerfile builds, at a place that everybody may read."""
    if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("setpriv") is None:
        missing("without root nothing can be run as the image's user on a read-only root")
    folder = Path("/opt") / f"hyperexport-test-{uuid.uuid4().hex[:8]}"
    try:
        uv = Path(sys.executable).with_name("uv")
        offline = ["--offline", "--python", sys.executable]
        build = [
            uv,
            "build",
            "--wheel",
            "--no-build-isolation",
            *offline,
            "-o",
            folder / "dist",
            copy_checkout(folder / "source"),
        ]
        subprocess.run(build, check=True, capture_output=True)
        (wheel,) = (folder / "dist").glob("*.whl")
        install = [uv, "pip", "install", "--no-deps", *offline, "--target", folder / "site", wheel]
        subprocess.run(install, check=True, capture_output=True)
        for name in ("python", "locked", "bin"):  # the first two are mounted by contained()
            (folder / name).mkdir()
        python = folder / "python" / "bin" / f"python3.{sys.version_info.minor}"
        (folder / "bin" / "python").symlink_to(python)
        for name, start in (("prefect", "from prefect.cli import app as main"), ("hyperexport", MAIN)):
            script = folder / "bin" / name
            script.write_text(f"#!{python}\n{start}\nmain()\n")
            script.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def contained(image: Path, command: list[str], environment: Mapping[str, str], exports: Path) -> list[str]:
    """The command line that runs a command as the container would."""
    given = {
        "PATH": f"{image}/bin:/usr/bin:/bin",
        "PYTHONPATH": f"{image}/site:{image}/locked",
        "LD_LIBRARY_PATH": f"{image}/python/lib",
        "HOME": HOME,
        "PREFECT_HOME": f"{HOME}/.prefect",
        **environment,
    }
    mounts = f"""
        set -e
        mount --make-rprivate /
        mkdir -p {HOME} /exports
        mount --bind {sys.base_prefix} {image}/python
        mount --bind {sysconfig.get_path("purelib")} {image}/locked
        mount --bind {exports} /exports
        mount -t tmpfs -o uid={UID},gid={UID},mode=0700 tmpfs {HOME}
        mount -t tmpfs tmpfs /tmp
        mount -o remount,bind,ro /
        cd /exports
        exec setpriv --reuid={UID} --regid={UID} --clear-groups --no-new-privs --bounding-set=-all "$@"
    """
    words = ["env", "-i", *(f"{name}={value}" for name, value in given.items()), *command]
    return ["unshare", "--mount", "bash", "-c", mounts, "container", *words]


@contextmanager
def container(
    image: Path, command: list[str], environment: Mapping[str, str], exports: Path, log: Path
) -> Generator[subprocess.Popen[bytes]]:
    with log.open("ab") as file:
        process = subprocess.Popen(contained(image, command, environment, exports), stdout=file, stderr=file)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(90)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def exports(tmp_path: Path) -> Path:
    folder = tmp_path / "exports"
    folder.mkdir()
    os.chown(folder, int(UID), int(UID))
    for parent in tmp_path.parents:
        if parent.stat().st_mode & 0o001 == 0:
            parent.chmod(parent.stat().st_mode | 0o001)
    tmp_path.chmod(0o755)
    return folder


def service(name: str) -> tuple[list[str], dict[str, str]]:
    """A service's command and environment, as the compose file has them."""
    found = COMPOSE["services"][name]
    return list(found["command"]), {key: str(value) for key, value in found.get("environment", {}).items()}


def answers(url: str, **headers: str) -> str | None:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return None


def test_every_service_of_the_compose_file_runs_as_the_images_user(image: Path, exports: Path, tmp_path: Path):
    require_postgres()
    with ExitStack() as stack:
        database, messages = stack.enter_context(postgres()), stack.enter_context(redis())
        if messages is None:
            missing("Redis is not installed, so the services of the compose file are not run")
        ports = {"api": free_port(), "ui": free_port()}

        def settings(name: str) -> tuple[list[str], dict[str, str]]:
            command, environment = service(name)
            port = str(ports.get(name, 0))
            command = [port if word == "4200" else "4" if word.startswith("${") else word for word in command]
            environment |= {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
            for key in environment:
                environment[key] = environment[key].replace("127.0.0.1:4200", f"127.0.0.1:{port}")
            if "PREFECT_SERVER_DATABASE_CONNECTION_URL" in environment:
                environment |= {"PREFECT_SERVER_DATABASE_CONNECTION_URL": database, **redis_settings(messages)}
                environment["PREFECT_SERVER_API_AUTH_STRING"] = "user:password"
            else:
                environment["PREFECT_API_URL"] = f"http://127.0.0.1:{ports['api']}/api"
                environment["PREFECT_API_AUTH_STRING"] = "user:password"
            return command, environment

        migrated = subprocess.run(contained(image, *settings("migrate"), exports), capture_output=True, text=True)
        assert migrated.returncode == 0, migrated.stdout + migrated.stderr
        running = {
            name: stack.enter_context(container(image, *settings(name), exports, tmp_path / f"{name}.log"))
            for name in ("api", "ui", "services")
        }
        for name in ("api", "ui"):
            health = f"http://127.0.0.1:{ports[name]}/api/health"
            until(lambda health=health: answers(health) is not None, f"{name} answers")
        page = answers(f"http://127.0.0.1:{ports['ui']}/", Accept="text/html")
        assert page is not None
        assert "<html" in page.lower()
        offered = json.loads(answers(f"http://127.0.0.1:{ports['ui']}/ui-settings") or "{}")
        assert offered["available_uis"] == ["v1", "v2"]
        assert f":{ports['ui']}/api" in offered["api_url"]
        running["worker"] = stack.enter_context(container(image, *settings("worker"), exports, tmp_path / "worker.log"))
        ready = tmp_path / "worker.log"
        until(lambda: "Ready" in ready.read_text() or running["worker"].poll() is not None, "the worker is ready")
        ended = [name for name, one in running.items() if one.poll() is not None]
        dead = {name: (tmp_path / f"{name}.log").read_text()[-2000:] for name in ended}
        assert dead == {}


@pytest.mark.parametrize("pool", [DOCKER, KUBERNETES], ids=lambda pool: pool.type)
def test_a_run_in_a_container_is_executed(pool: Pool, image: Path, exports: Path, tmp_path: Path, prefect_api: str):
    with Simulator() as vcenter, temporary_settings({PREFECT_API_URL: prefect_api}):
        ensure_pool(pool)
        with get_client(sync_client=True) as client:
            flow_id = deployment_of(vm_info, f"in-{pool.type}", pool=pool).apply()
            run = client.create_flow_run_from_deployment(flow_id, parameters={"selection": {"vm": ["web01"]}})
            command, environment = what_is_run(pool.type, run)
            shutil.copy(vcenter.ca_file, exports / "ca.pem")
            environment |= {**vcenter.environment(), "GOVC_TLS_CA_CERTS": "/exports/ca.pem"}
            environment |= {"PREFECT_API_URL": prefect_api, "PREFECT__FLOW_RUN_ID": str(run.id), "DO_NOT_TRACK": "1"}
            done = subprocess.run(contained(image, command, environment, exports), capture_output=True, text=True)
            state = client.read_flow_run(run.id).state
    assert done.returncode == 0, done.stdout + done.stderr
    assert state is not None
    assert state.is_completed(), (state, done.stderr[-2000:])


def what_is_run(kind: str, run: FlowRun) -> tuple[list[str], dict[str, str]]:
    """What the worker of a pool gives the container: the image's CMD is replaced, and there is no entrypoint."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert "\nENTRYPOINT" not in dockerfile
    if kind == "docker":
        configuration = configured(DockerWorkerJobConfiguration, DockerWorker, DOCKER)
        configuration.prepare_for_flow_run(run)
        settings = DockerWorker._build_container_settings(None, NoDocker(), configuration)
        return settings["command"].split(), {}
    configuration = configured(KubernetesWorkerJobConfiguration, KubernetesWorker, KUBERNETES)
    configuration.prepare_for_flow_run(run)
    (one,) = configuration.job_manifest["spec"]["template"]["spec"]["containers"]
    assert "command" not in one
    return one["args"], {}


class NoDocker:
    """Only its version is asked for."""

    def version(self) -> dict[str, str]:
        return {"Version": "27.0.0"}


def configured(kind: Any, worker: Any, pool: Pool) -> Any:
    """The configuration that a worker makes of its pool's template and our deployment's job variables."""
    template = worker.get_default_base_job_template()
    return asyncio.run(kind.from_template_and_values(template, pool.job_variables))
