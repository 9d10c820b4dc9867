"""Prefect servers for tests, with a database as a first start leaves it: making it takes longer than all later starts.

A real server makes it, once for each state of the lock and of what we start a server with: this is the proof that a
first start, with an empty home, succeeds. A server that finds it does what it does at every later start.
"""

import fcntl
import hashlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final
from urllib.request import urlopen

from hyperexport.deployments.local_server import end, launch
from tests.peers import ROOT

CACHE = ROOT / ".cache" / "prefect"

NOTHING_TO_REGISTER: Final = {
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
    "PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION": "false",
}
"""For a server that finds such a database: it has the blocks, and looking for more of them is half of a start."""


def put_into(home: Path) -> Path:
    """Lay a copy of it where a server with this ``PREFECT_HOME`` looks; answers the home."""
    home.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_made_once(), home / "prefect.db")
    return home


@contextmanager
def prefect_server() -> Generator[None]:
    """A Prefect server for tests, with such a database; flow runs do not wait for heartbeats.

    It is the one that ``hyperexport`` starts for itself: of Prefect's own for tests, a transaction that meets another
    is refused with 503, after which Prefect's client waits 2 s and more, and a fleet can stop it for a minute
    (:mod:`hyperexport.workarounds.sqlite_connection`). It keeps no task runs and evaluates no automations: these are
    two thirds of what a flow run costs a server, and are tested on whole servers (``service``, tests/ui).
    """
    from prefect.context import (
        _temporary_global_settings_context,  # pyright: ignore[reportPrivateUsage] - as Prefect's own test server does
        get_settings_context,
    )
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        PREFECT_SERVER_DATABASE_CONNECTION_URL,
        temporary_settings,
    )

    with tempfile.TemporaryDirectory(prefix="hyperexport-prefect-") as name, Path(name, "log").open("wb") as log:
        environment = {
            **os.environ,
            "PREFECT_HOME": str(home := put_into(Path(name, "home"))),
            "PREFECT_API_URL": "",
            **NOTHING_TO_REGISTER,
            "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_ENABLED": "false",
            "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
            "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "0.2",  # seconds until an event can be asked for
        }
        server, url = launch(0, environment, log, whole=False)
        try:
            urlopen(f"{url}/health", timeout=150).close()
            # Each sync flow run would otherwise wait a second for its heartbeat thread.
            own = temporary_settings(
                {
                    PREFECT_API_URL: url,
                    PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
                    PREFECT_SERVER_DATABASE_CONNECTION_URL: f"sqlite+aiosqlite:///{home}/prefect.db",
                }
            )
            with own, _temporary_global_settings_context(get_settings_context()):  # for new threads, too
                yield
        finally:
            end(server)


def _state() -> str:
    """What a first start depends on: what is installed, which has the migrations, and our code."""
    ours = (ROOT / "hyperexport" / "deployments", ROOT / "hyperexport" / "workarounds")
    files = [ROOT / "requirements" / "lock.txt", *sorted(file for folder in ours for file in folder.glob("*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def _made_once() -> Path:
    made = CACHE / f"{_state()}.db"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test workers may come here at once
        if not made.exists():
            for outdated in CACHE.glob("*.db"):
                outdated.unlink()
            with tempfile.TemporaryDirectory(dir=CACHE) as home:
                _start_once(Path(home))
                filled, whole = (sqlite3.connect(f"{home}/{name}.db") for name in ("prefect", "whole"))
                with closing(filled), closing(whole):
                    filled.backup(whole)  # with what is still in the write-ahead log
                (Path(home) / "whole.db").rename(made)
    return made


def _start_once(home: Path) -> None:
    """Start a server, and end it as soon as it answers: its first start has made its database."""
    with (home / "log").open("wb") as log:
        server, url = launch(0, {**os.environ, "PREFECT_HOME": str(home), "PREFECT_API_URL": ""}, log, whole=False)
        try:
            urlopen(f"{url}/health", timeout=150).close()
        finally:
            end(server)
