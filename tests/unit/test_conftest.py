"""The promises of the test suite itself: no foreign settings, no connections in unit tests, peers plainly missed."""

import os
import re
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import scope_of
from tests.peers import ROOT, missing, require_program


def connect_and_swallow() -> None:
    """What code under test might do."""
    with socket.socket() as client, suppress(Exception):
        client.connect(("127.0.0.1", 9))


def test_a_unit_test_that_connects_fails_even_if_the_code_swallows_exceptions():
    with pytest.raises(pytest.fail.Exception, match="belongs in tests/engine"):
        connect_and_swallow()


def test_nothing_of_the_developers_settings_reaches_a_test():
    foreign = {
        "AWS_PROFILE": "production",
        "GOVC_PASSWORD": "a real one",
        "HYPEREXPORT_OUTPUT": "/backup",
        "PREFECT_API_URL": "http://127.0.0.1:9/api",
    }
    show = f"import os, tests.conftest; print([name for name in {list(foreign)} if name in os.environ])"
    seen = subprocess.run(
        [sys.executable, "-c", show], env=os.environ | foreign, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert seen.stdout.strip() == "[]"


def test_a_missing_peer_skips_the_test_where_a_person_works(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no-such-program is not installed, so nothing is proved"):
        require_program("no-such-program", "nothing is proved")


def test_a_missing_peer_fails_the_test_in_ci(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="Go is not installed"):
        missing("Go is not installed")


def test_the_files_that_share_the_service_are_all_that_use_it_and_are_run_by_one_worker() -> None:
    """Each worker that runs one of them starts a Prefect server with all deployments, which takes it long."""
    using = re.compile(r"^def \w+\([^)]*\bservice: Service\b", re.MULTILINE)
    files = {path.relative_to(ROOT).as_posix(): _with_fixtures(path) for path in (ROOT / "tests").rglob("test_*.py")}
    served = {path for path, text in files.items() if using.search(text)}
    assert served
    assert {scope_of(f"{path}::test_x[a::b]") for path in served} == {"service"}
    assert {scope_of(f"{path}::test_x[a::b]") for path in files.keys() - served} == files.keys() - served


def _with_fixtures(path: Path) -> str:
    conftest = path.with_name("conftest.py")
    return path.read_text() + (conftest.read_text() if conftest.exists() else "")


LEAVING = """
import os, subprocess, sys

def test_it_leaves_a_process():
    code = "import os; os.setsid(); print('started', flush=True); open('door').close()"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "started\\n"
"""


@pytest.mark.sample("-n1")
@pytest.mark.parametrize("workers", ["-n0", "-n1"])
def test_a_suite_that_leaves_a_process_fails_and_names_it(tmp_path: Path, workers: str) -> None:
    (tmp_path / "test_leaving.py").write_text(LEAVING)
    (tmp_path / "conftest.py").write_text(
        "from tests.conftest import pytest_configure, pytest_sessionfinish\n"
        "import tests.leftovers\ntests.leftovers._SECONDS_TO_END = 0.0\n"
    )
    os.mkfifo(tmp_path / "door")
    command = [sys.executable, "-m", "pytest", "-q", workers, "-p", "no:cacheprovider", "-c", os.devnull, "."]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    (tmp_path / "door").open("w").close()  # there it goes
    assert "1 passed" in done.stdout
    assert "LEFT BEHIND by the tests: process" in done.stdout
    assert "open('door')" in done.stdout
    assert done.returncode == 1
