"""The Prefect server is killed in the middle of an export, and comes back, or never does: the export is made."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from hyperexport.store.local import LocalStore
from tests.faults.workers import COMMANDS, PrefectServer, eventually, marks_on, prefect_server, working
from tests.flows.support import exported_bytes, exports_in, guest_bytes, leftovers

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

MIB = 1 << 20
VM = "db01"


@pytest.fixture
def vcenter() -> Generator[Simulator]:
    with Simulator([VmSpec(VM, disks=(DiskSpec(24 * MIB, used=1.0), DiskSpec(8 * MIB)))]) as running:
        yield running


@pytest.fixture
def server(tmp_path: Path) -> Generator[PrefectServer]:
    with prefect_server(tmp_path / "server-of-prefect") as running:
        yield running


def command(server: PrefectServer, vcenter: Simulator, store: Path, *flags: str) -> "subprocess.Popen[str]":
    words = ["--vm", VM, "--snapshot", "--output", str(store), "--bandwidth-limit", "2", "--verify", "--json"]
    return subprocess.Popen(
        [sys.executable, "-m", "hyperexport.cli.main", *words, *flags],
        env=os.environ | server.environment | vcenter.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def asked(server: PrefectServer, path: str, **question: Any) -> Any:
    request = Request(server.url + path, json.dumps(question).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=60) as answer:
        return json.load(answer)


def kill_during_the_transfer(server: PrefectServer, vcenter: Simulator, store: Path) -> None:
    eventually(lambda: vcenter.leases() and list(store.rglob("*.vmdk*")), "a transfer")
    server.kill()


def assert_exported(vcenter: Simulator, store: Path) -> None:
    export, *_ = exports_in(store)
    assert exported_bytes(LocalStore(store), export) == guest_bytes(vcenter, VM)
    assert leftovers(vcenter, store) == []


def test_a_server_that_comes_back_is_told_everything(server: PrefectServer, vcenter: Simulator, tmp_path: Path) -> None:
    store = tmp_path / "exports"
    with command(server, vcenter, store) as process:
        kill_during_the_transfer(server, vcenter, store)
        eventually(lambda: exports_in(store), "an export without a server")
        assert marks_on(vcenter, VM) == [], "nor did the snapshot wait for it"
        server.start()
        out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert_exported(vcenter, store)
    assert json.loads(out)["errors"] == []
    (run,) = asked(server, "/flow_runs/filter")
    assert run["state"]["type"] == "COMPLETED"
    assert any(found["type"] == "markdown" for found in asked(server, "/artifacts/filter")), "the closing page"
    eventually(
        lambda: {task["state_type"] for task in asked(server, "/task_runs/filter")} == {"COMPLETED"},
        "every step's end, reported after the fact",
    )
    completed = {"event": {"name": ["hyperexport.export.completed"]}}
    eventually(lambda: asked(server, "/events/filter", filter=completed)["events"], "the event for automations")


def test_a_server_that_never_comes_back_fails_nothing(
    server: PrefectServer, vcenter: Simulator, tmp_path: Path
) -> None:
    store = tmp_path / "exports"
    with command(server, vcenter, store, "--bandwidth-shared", "wan") as process:
        kill_during_the_transfer(server, vcenter, store)
        out, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert_exported(vcenter, store)
    document = json.loads(out)
    assert document["errors"] == []
    assert "Prefect" in errors
    assert "Traceback" not in errors
    assert "Error logging to API" not in errors
    assert any("shared bandwidth budget" in warning for warning in document["exports"][0]["warnings"])


def test_a_delta_is_made_without_a_server_that_never_comes_back(
    server: PrefectServer, vcenter: Simulator, tmp_path: Path
) -> None:
    store, chain = tmp_path / "exports", ("--incremental", "--max-chain", "3")
    with command(server, vcenter, store, *chain) as process:
        _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    vcenter.vm(VM).guest_write(0, MIB, b"changed")
    with command(server, vcenter, store, *chain) as process:
        eventually(lambda: vcenter.leases() and list(store.rglob("*.partial/*.vmdk")), "a transfer")
        server.kill()
        _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert [export.manifest.deltas for export in exports_in(store)] == [1, 0]
    assert_exported(vcenter, store)


def test_a_failure_keeps_its_own_words_and_exit_code(server: PrefectServer, vcenter: Simulator, tmp_path: Path) -> None:
    from hyperexport.simulator import Fault, FaultKind

    vcenter.faults.add(Fault(FaultKind.REMOVE_SNAPSHOT_FAILED, times=0))
    store = tmp_path / "exports"
    with command(server, vcenter, store) as process:
        kill_during_the_transfer(server, vcenter, store)
        _, errors = process.communicate(timeout=600)
    assert process.returncode == 1
    assert "[snapshot-leaked]" in errors
    assert len(exports_in(store)) == 1


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_run_on_a_worker_ends_as_completed_once_the_server_is_back(
    kind: str, server: PrefectServer, vcenter: Simulator, tmp_path: Path
) -> None:
    store = tmp_path / "exports"
    with working(kind, server, tmp_path / "worker", vcenter.environment()) as worker:
        run = worker.begin(
            "export-vm",
            vm=VM,
            options={
                "snapshot": {"take": True},
                "destination": {"output": str(store)},
                "bandwidth": {"limit": 2},
            },
        )
        kill_during_the_transfer(server, vcenter, store)
        eventually(lambda: exports_in(store), "an export without a server")
        time.sleep(75)  # longer than Prefect's own client tries
        server.start()
        assert worker.end_of(run).is_completed(), worker.log.read_text()[-4000:]
    assert_exported(vcenter, store)
