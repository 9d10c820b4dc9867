"""The Prefect server that a command brings along: many flow runs within one are entered without being refused."""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

from hyperexport.deployments import local_server
from hyperexport.flows import vm_info
from hyperexport.workarounds.sqlite_connection import with_single_connection


@pytest.fixture
def api() -> str:
    """The address of the tests' server, which is such a one."""
    return str(get_current_settings().api.url)


def test_nobody_is_refused_because_another_is_entered(api: str) -> None:
    """What Prefect writes for a flow run within another, from many at once: SQLite would refuse most (503)."""
    with get_client(sync_client=True) as client:
        flow_run = client.create_flow_run(vm_info)

    def enter(number: int) -> list[int]:
        task_run = {"flow_run_id": str(flow_run.id), "task_key": "export-vm", "dynamic_key": ""}
        with httpx.Client(timeout=150) as client:
            return [
                client.post(f"{api}/task_runs/", json={**task_run, "dynamic_key": f"{number}-{again}"}).status_code
                for again in range(20)
            ]

    with ThreadPoolExecutor(8) as threads:
        answers = [code for codes in threads.map(enter, range(8)) for code in codes]
    assert answers == [HTTPStatus.CREATED] * 160


def test_a_service_brings_no_server_where_an_api_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    def launch_none(*_: object, **__: object) -> None:
        raise AssertionError("a server was started")

    monkeypatch.setattr(local_server, "launch", launch_none)
    with temporary_settings({PREFECT_API_URL: "http://prefect.example.com/api"}):
        assert local_server.provide_persistent_api(0) == "http://prefect.example.com/api"


@pytest.mark.parametrize("address", ["postgresql+asyncpg://u:p@host/prefect", "sqlite+aiosqlite:///:memory:"])
def test_what_has_no_file_is_left_as_it_is(address: str) -> None:
    assert with_single_connection(address) == address


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")
def test_another_user_of_the_machine_reads_nothing(api: str) -> None:
    code = """import sys, urllib.error, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=60).status)
except urllib.error.HTTPError as error:
    print(error.code)"""
    for path in ("/health", "/admin/settings"):
        command = ["/usr/bin/python3", "-c", code, f"{api}{path}"]
        answers = [
            subprocess.run(command, user=user, cwd="/", capture_output=True, text=True, check=True, env={})
            for user in (os.getuid(), 65_534)
        ]
        assert [answer.stdout.strip() for answer in answers] == ["200", "403"]
