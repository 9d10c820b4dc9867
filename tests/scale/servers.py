"""PostgreSQL, Redis, a Prefect server on both, and workers: each a process of the test's own, on a free port."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import psutil

from tests.peers import missing

SECONDS = 180
"""However busy the machine is, a server has started by then."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(question: Callable[[], bool], what: str, *, seconds: float = SECONDS) -> None:
    end = time.monotonic() + seconds
    while not question():
        assert time.monotonic() < end, f"it never came to this: {what}"
        time.sleep(0.1)


def require_postgres() -> None:
    if postgres_program("postgres") is None:
        missing("PostgreSQL is not installed, so nothing is proved of several workers on one server")


def postgres_program(name: str) -> str | None:
    """Debian keeps them off the PATH, in a folder for each version."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(found[-1]) if found else None)


@contextmanager
def postgres() -> Generator[str]:
    """A database cluster of the test's own; gives SQLAlchemy's address of a database. It refuses to run as root."""
    as_whom: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))
    port = free_port()
    server = None
    try:
        if as_whom:
            shutil.chown(folder, **as_whom)
        initdb = [postgres_program("initdb"), "-D", folder / "data", "-U", "postgres", "-A", "trust", "--no-sync"]
        subprocess.run(initdb, check=True, capture_output=True, cwd=folder, **as_whom)
        settings = ("fsync=off", f"unix_socket_directories={folder}", "listen_addresses=127.0.0.1")
        command = [postgres_program("postgres"), "-D", folder / "data", "-p", str(port)]
        server = subprocess.Popen(
            [*command, *(word for setting in settings for word in ("-c", setting))],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            **as_whom,
        )
        until(lambda: _listens(port), "PostgreSQL answers")
        yield f"postgresql+asyncpg://postgres@127.0.0.1:{port}/postgres"
    finally:
        if server:
            server.terminate()
            server.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def redis() -> Generator[int | None]:
    """A Redis server's port; None where there is none, or nothing that lets Prefect use it."""
    program = shutil.which("redis-server")
    if program is None or find_spec("prefect_redis") is None:
        yield None
        return
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            until(lambda: _listens(port), "Redis answers")
            yield port
        finally:
            server.terminate()
            server.wait(60)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def redis_settings(port: int) -> dict[str, str]:
    """What docs.prefect.io names for a server of several processes (self-hosted, "How to scale")."""
    return {
        "PREFECT_SERVER_EVENTS_MESSAGING_BROKER": "prefect_redis.messaging",
        "PREFECT_SERVER_EVENTS_MESSAGING_CACHE": "prefect_redis.messaging",
        "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "prefect_redis.ordering",
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect_redis.lease_storage",
        "PREFECT_REDIS_MESSAGING_HOST": "127.0.0.1",
        "PREFECT_REDIS_MESSAGING_PORT": str(port),
        "PREFECT_SERVER_DOCKET_URL": f"redis://127.0.0.1:{port}/1",
    }


@contextmanager
def prefect_server(home: Path, database: str, messages: int | None) -> Generator[str]:
    """A Prefect server: one process that answers the API, another for its services where Redis lets them part."""
    home.mkdir()
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    environment = {
        **os.environ,
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": database,
        **(redis_settings(messages) if messages else {}),
    }
    api = ["server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
    with ExitStack() as stack:
        start = lambda *words: stack.enter_context(_process(home, environment, *words))  # noqa: E731
        start(*api, *(["--no-services"] if messages else []))
        until(lambda: _answers(f"{url}/health"), "the Prefect server answers")
        if messages:
            start("server", "services", "start")
        yield url


@contextmanager
def _process(folder: Path, environment: Mapping[str, str], *words: str) -> Generator[subprocess.Popen[bytes]]:
    with (folder / f"{'-'.join(words[:2])}.log").open("ab") as log:
        command = [sys.executable, "-m", "prefect", *words]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


class Worker:
    """A ``hyperexport serve`` that works for a server elsewhere."""

    def __init__(self, folder: Path, environment: Mapping[str, str], *, limit: int) -> None:
        folder.mkdir()
        self.log = folder / "serve.log"
        self._file: IO[str] = self.log.open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hyperexport.cli.main", "serve", "--quiet", f"--limit={limit}"],
            cwd=folder,
            env={**os.environ, **environment, "PREFECT_HOME": str(folder / "home")},
            stdout=subprocess.PIPE,
            stderr=self._file,
            text=True,
            start_new_session=True,
        )

    def wait_until_ready(self) -> None:
        assert self.process.stdout
        assert self.process.stdout.readline(), self.log.read_text()

    def flow_processes(self) -> set[int]:
        return {child.pid for child in psutil.Process(self.process.pid).children(recursive=True)}

    def pause(self) -> None:
        """Stand still, with everything that it runs."""
        worker = psutil.Process(self.process.pid)
        worker.suspend()  # first, so that it starts nothing more
        for child in worker.children(recursive=True):
            child.suspend()

    def resume(self) -> None:
        worker = psutil.Process(self.process.pid)
        for process in (*worker.children(recursive=True), worker):
            process.resume()

    def die(self) -> set[int]:
        """Be gone with everything that it runs, as when its machine fails. Gives the ids of what ran."""
        self.pause()  # it must not see its children die: its machine would be gone
        worker = psutil.Process(self.process.pid)
        children = worker.children(recursive=True)
        for process in (*children, worker):
            process.kill()
        psutil.wait_procs(children, timeout=30)
        self.process.wait(30)
        return {child.pid for child in children}

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(120)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()
        self._file.close()


@contextmanager
def workers(folder: Path, count: int, environment: Mapping[str, str], *, limit: int) -> Generator[list[Worker]]:
    """So many of them, ready to work."""
    crew = [Worker(folder / f"worker-{number}", environment, limit=limit) for number in range(count)]
    try:
        for worker in crew:
            worker.wait_until_ready()
        yield crew
    finally:
        for worker in crew:
            worker.stop()
