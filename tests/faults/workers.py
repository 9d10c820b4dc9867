"""Runs that a worker carries out: the project's own (``hyperexport serve``), or Prefect's plain process worker."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen
from uuid import UUID

import psutil
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State, StateType
from prefect.settings import PREFECT_API_URL, temporary_settings

from hyperexport.deployments.definitions import POOL, ensure_pool, on_demand_deployments
from hyperexport.simulator import Simulator
from tests.engine.s3_servers import free_port
from tests.flows.service import eventually
from tests.prefect_database import put_into

SECONDS = 240


class PrefectServer:
    """A Prefect server in a process of its own, which can be killed and started again on the same database and port."""

    def __init__(self, folder: Path) -> None:
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}/api"
        self._home = folder / "prefect"
        self._log = folder / "prefect-server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.environment = {"PREFECT_HOME": str(self._home), "PREFECT_API_URL": self.url}

    def start(self) -> None:
        """Start it, and wait until it answers."""
        if not self._home.exists():
            put_into(self._home)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "prefect", "server", "start", "--host=127.0.0.1", f"--port={self._port}"],
                env=os.environ | self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        eventually(self.answers, "a Prefect server")

    def answers(self) -> bool:
        """Whether it answers."""
        try:
            with urlopen(f"{self.url}/health", timeout=5) as answer:
                return answer.status == 200
        except (URLError, OSError):
            return False

    def kill(self) -> None:
        """Kill it with all its processes, as a power cut does."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextmanager
def prefect_server(folder: Path) -> Generator[PrefectServer]:
    """A running Prefect server; killed in the end."""
    server = PrefectServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@dataclass(frozen=True)
class Worker:
    """A worker and what it needs to be asked."""

    process: "subprocess.Popen[bytes]"
    client: SyncPrefectClient
    log: Path

    def begin(self, deployment: str, **parameters: Any) -> UUID:
        """Have a flow run; returns its id."""
        found = self.client.read_deployment_by_name(f"{deployment}/{deployment}")
        return self.client.create_flow_run_from_deployment(found.id, parameters=parameters).id

    def cancel(self, run: UUID) -> None:
        """As the Cancel button of Prefect's UI does."""
        self.client.set_flow_run_state(run, State(type=StateType.CANCELLING), force=False)

    def state(self, run: UUID) -> State[Any]:
        """How a run is."""
        state = self.client.read_flow_run(run).state
        assert state is not None
        return state

    def end_of(self, run: UUID) -> State[Any]:
        """Wait for a run's end."""

        def ended() -> State[Any] | None:
            state = self.state(run)
            return state if state.is_final() else None

        return eventually(ended, f"the end of run {run}; see {self.log}")

    def flow_process(self, run: UUID) -> psutil.Process:
        """The process that carries out a run."""

        def found() -> psutil.Process | None:
            for process in psutil.Process(self.process.pid).children(recursive=True):
                try:
                    if process.environ().get("PREFECT__FLOW_RUN_ID") == str(run):
                        return process
                except psutil.Error:
                    continue
            return None

        return eventually(found, f"the process of run {run}")


COMMANDS: dict[str, list[str]] = {
    "hyperexport serve": ["hyperexport.cli.main", "serve", "--quiet"],
    "prefect worker start": ["prefect", "worker", "start", "--pool", POOL, "--name", "plain"],
}


@contextmanager
def working(kind: str, server: PrefectServer, folder: Path, environment: dict[str, str]) -> Generator[Worker]:
    """A worker of a kind, whose environment names the vCenter; it ends with the block."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "worker.log"
    with temporary_settings({PREFECT_API_URL: server.url}), get_client(sync_client=True) as client:
        ensure_pool()
        for deployment in on_demand_deployments():
            deployment.apply()
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", *COMMANDS[kind]],
                cwd=folder,
                env=os.environ | server.environment | environment | {"PREFECT_WORKER_QUERY_SECONDS": "1"},
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        try:
            yield Worker(process, client, log)
        finally:
            process.terminate()
            try:
                process.wait(SECONDS)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def marks_on(simulator: Simulator, vm: str) -> list[str]:
    """The snapshots of ours that are on a VM."""
    return [name for _, name, description, _ in simulator.vm(vm).snapshots() if "[hyperexport" in description]


def seconds_until(question: Callable[[], object], what: str) -> float:
    """Wait for something; returns how long that took."""
    began = time.monotonic()
    eventually(question, what)
    return time.monotonic() - began
