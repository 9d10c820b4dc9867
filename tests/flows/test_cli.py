"""The command line from outside: what stands on standard output, what on standard error, and the exit code."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from prefect.settings import get_current_settings

from hyperexport.cli.main import run
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from tests.flows.support import exports_in, leftovers

HYPEREXPORT = [sys.executable, "-m", "hyperexport.cli.main"]


class Answer:
    """What a command line came to."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def keys(self) -> dict[str, str]:
        """The key=value lines; a line of another form fails the test."""
        return dict(line.split("=", 1) for line in self.out.splitlines() if line)


@pytest.fixture
def hyperexport(capsys, store) -> Callable[..., Answer]:
    """Runs a command line in this process, with the test's store."""

    def answer(*words: str) -> Answer:
        if "--vm-info" not in words:
            words = (*words, "--output", str(store))
        code = run(words)
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return answer


@pytest.fixture
def without_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command lines run in this process: what the test proves does not depend on where."""
    monkeypatch.setenv("HYPEREXPORT_NO_PREFECT", "true")


def started(*words: str, **environment: str) -> subprocess.Popen[str]:
    """A command line in a process of its own, that talks to the tests' Prefect server."""
    api = {"PREFECT_API_URL": str(get_current_settings().api.url), **environment}
    return subprocess.Popen(
        [*HYPEREXPORT, *words],
        env={**os.environ, **api},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def eventually(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Wait until it is so; fail when the process ends before, or after long."""
    end = time.monotonic() + 150
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)


# -- information -------------------------------------------------------------------------------------------------------


def test_vm_info_quiet_is_exactly_the_promised_lines(vcenter, hyperexport):
    answer = hyperexport("--vm-info", "--vm", "db01", "--quiet")
    assert (answer.code, answer.err) == (0, "")
    assert list(answer.keys) == ["name", "path", "power_state", "guest_os", "cpu", "memory_mb", "storage_bytes"]
    assert answer.keys["name"] == "db01"
    assert answer.keys["power_state"] == "poweredOn"
    assert answer.keys["storage_bytes"] == str(12 << 20)


def test_vm_info_of_two_vms_is_two_blocks_or_one_document(hyperexport, monkeypatch):
    with Simulator([VmSpec("a", powered_on=False), VmSpec("b")]) as simulator:
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        blocks = hyperexport("--vm-info", "--vm", "a", "--vm", "b", "--quiet").out.split("\n\n")
        document = json.loads(hyperexport("--vm-info", "--vm", "a", "--vm", "b", "--json").out)
        table = hyperexport("--vm-info", "--vm", "a").out
    assert [block.splitlines()[0] for block in blocks] == ["name=a", "name=b"]
    assert [vm["ref"]["name"] for vm in document["vms"]] == ["a", "b"]
    assert "● poweredOff" in table


def test_vm_info_needs_no_prefect(vcenter):
    script = "import sys; from hyperexport.cli.main import run; run(sys.argv[1:]); sys.exit('prefect' in sys.modules)"
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    done = subprocess.run(
        [sys.executable, "-c", script, "--vm-info", "--vm", "db01", "--quiet"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("name=db01\n")


def test_a_reader_that_leaves_early_breaks_nothing(vcenter):
    shell = f"{' '.join(HYPEREXPORT)} --vm-info --vm db01 | head -c 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", shell], capture_output=True, text=True, timeout=150, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


# -- export ------------------------------------------------------------------------------------------------------------


def test_a_quiet_export_answers_in_key_value_lines_and_nothing_else(vcenter, hyperexport, store):
    answer = hyperexport("--vm", "db01", "--snapshot", "--verify", "--quiet")
    assert answer.code == 0, answer.err
    (export,) = exports_in(store)
    assert answer.keys["export_id"] == export.export_id
    assert Path(answer.keys["location"]) == store / str(export)
    assert answer.keys["kind"] == "full"
    assert answer.keys["verified"] == "true"
    assert answer.keys["snapshot_removed"] == "true"
    assert answer.keys["bytes_transferred"] == str(export.manifest.transfer.bytes_transferred)
    assert answer.err == ""


def test_among_json_logs_every_line_is_an_object(vcenter, hyperexport, store, monkeypatch):
    monkeypatch.setenv("HYPEREXPORT_LOG_FORMAT", "json")
    answer = hyperexport("--vm", "db01", "--snapshot")
    assert answer.code == 0, answer.err
    told = [json.loads(line) for line in answer.err.splitlines()]
    assert {line["vm"] for line in told if "disk" in line} == {"db01"}


def test_a_json_export_is_one_document(vcenter, hyperexport, store):
    answer = hyperexport("--vm", "db01", "--snapshot", "--json")
    document = json.loads(answer.out)
    assert "db01-disk-0.vmdk: done" in answer.err
    (export,) = exports_in(store)
    assert document["errors"] == []
    assert document["exports"][0]["manifest"]["export_id"] == export.export_id


@pytest.mark.usefixtures("without_prefect")
def test_one_failed_vm_does_not_stop_the_next(vcenter, hyperexport, store):
    answer = hyperexport("--vm", "nobody", "--vm", "db01", "--snapshot", "--json")
    assert answer.code == 3
    assert [error["code"] for error in json.loads(answer.out)["errors"]] == ["vm-not-found"]
    assert len(exports_in(store)) == 1


def test_a_failure_is_one_line_and_leaves_nothing(vcenter, hyperexport, store):
    answer = hyperexport("--vm", "db01", "--quiet")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.startswith("hyperexport: ")
    assert answer.err.endswith("[vm-powered-on]\n")
    assert answer.err.count("\n") == 1
    assert not store.exists()


@pytest.mark.usefixtures("without_prefect")
def test_debug_shows_where_it_failed(vcenter, hyperexport):
    answer = hyperexport("--vm", "db01", "--debug")
    assert "Traceback" in answer.err
    assert answer.err.rstrip().endswith("[vm-powered-on]")


def test_a_dry_run_tells_and_changes_nothing(vcenter, hyperexport, store):
    answer = hyperexport("--vm", "db01", "--snapshot", "--dry-run")
    assert answer.code == 0, answer.err
    assert "nothing was changed" in answer.out
    assert "Hard disk 2" in answer.out
    assert f"Where it would be stored: {store}" in answer.out
    assert not store.exists()
    assert vcenter.vm("db01").snapshots() == []


def test_the_saving_of_an_incremental_export_is_told_before_and_after(vcenter, hyperexport):
    hyperexport("--vm", "db01", "--snapshot", "--no-prefect")
    vcenter.vm("db01").guest_write(1, 0, b"changed")
    before = hyperexport("--vm", "db01", "--snapshot", "--incremental-info", "--quiet")
    assert before.keys["disk_0_decision"] == "unchanged"
    assert before.keys["disk_1_decision"] == "transfer"
    after = hyperexport("--vm", "db01", "--snapshot", "--incremental", "--quiet")
    assert after.keys["kind"] == "incremental"
    assert after.keys["bytes_saved"] == before.keys["saved_bytes"]


# -- what is stored ----------------------------------------------------------------------------------------------------


def test_cleanup_says_what_it_would_delete_and_then_deletes_just_that(vcenter, hyperexport, store):
    for _ in range(2):
        hyperexport("--vm", "db01", "--snapshot", "--quiet", "--no-prefect")
    newest, oldest = exports_in(store)
    words = ("--cleanup", "--cleanup-max-count", "1")
    assert re.search(rf"{oldest} +│ would delete ", hyperexport(*words, "--cleanup-dry-run").out)
    assert len(exports_in(store)) == 2
    assert hyperexport(*words, "--quiet").keys["deleted"] == str(oldest)
    assert exports_in(store) == [newest]


def test_list_shows_what_the_store_holds(vcenter, hyperexport, store):
    assert "no exports" in hyperexport("list").out
    hyperexport("--vm", "db01", "--snapshot", "--quiet", "--no-prefect")
    (export,) = exports_in(store)
    listed = hyperexport("list", "--quiet").keys
    assert listed["export"] == str(export)
    assert listed["id"] in hyperexport("list").out
    assert hyperexport("verify", listed["id"], "--quiet").keys["verified"] == "true"
    assert json.loads(hyperexport("list", "--json").out)["stores"][0]["exports"][0]["export_id"] == export.export_id


@pytest.mark.usefixtures("without_prefect")
def test_verify_tells_good_exports_from_damaged_ones(vcenter, hyperexport, store):
    hyperexport("--vm", "db01", "--snapshot", "--quiet", "--no-prefect")
    (export,) = exports_in(store)
    good = hyperexport("verify", export.export_id, "--quiet")
    assert (good.code, good.keys["verified"]) == (0, "true")
    with (store / str(export) / "db01-disk-1.vmdk").open("r+b") as disk:
        disk.seek(4096)
        disk.write(b"rot")
    damaged = hyperexport("verify")
    assert damaged.code == 1
    assert f"verify {export.export_id}/db01-disk-0.vmdk: done" in damaged.err
    assert "db01-disk-1.vmdk" in damaged.err
    assert damaged.err.rstrip().endswith("[verification-failed]")


# -- interruptions -----------------------------------------------------------------------------------------------------


@pytest.mark.sample("SIGTERM")
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_an_interrupted_export_cleans_up_and_a_second_signal_does_not_break_that(monkeypatch, store, first):
    with Simulator([VmSpec("big", disks=(DiskSpec(256 << 20, used=1.0),))]) as simulator:
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        process = started("--vm", "big", "--snapshot", "--bandwidth-limit=1", "--quiet", "--output", str(store))
        eventually(lambda: simulator.leases() and list(store.rglob("*.vmdk*")), process)
        process.send_signal(first)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=150)
        assert process.returncode == 130, err
        assert out == ""
        assert "Traceback" not in err
        assert err.rstrip().endswith("hyperexport: interrupted [interrupted]")
        assert leftovers(simulator, store) == []
        assert exports_in(store) == []


# -- without any Prefect server ----------------------------------------------------------------------------------------


def test_an_export_without_a_prefect_api_starts_no_server_and_leaves_no_process(vcenter, store, tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_API")}
    home = str(tmp_path / "prefect")
    done = subprocess.run(
        [*HYPEREXPORT, "--vm", "db01", "--snapshot", "--quiet", "--output", str(store)],
        env={**environment, "PREFECT_HOME": home},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert Answer(0, done.stdout, "").keys["vm"] == "db01"
    assert all(line.startswith("db01: ") for line in done.stderr.splitlines()), done.stderr
    assert [process for process in psutil.process_iter() if home in _environment(process)] == []


def _environment(process: psutil.Process) -> tuple[str, ...]:
    try:
        return tuple(process.environ().values())
    except psutil.Error:
        return ()
