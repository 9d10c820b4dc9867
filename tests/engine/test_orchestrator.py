"""Where a command runs: what is configured, what is running, and what is forced, in that order of proof."""

import json
import os
import socket
import sys
import urllib.request
from pathlib import Path

import pytest

from hyperexport.base.machine import identity_of
from hyperexport.deployments import orchestrator
from hyperexport.errors import ServerUnreachable

URL = "http://127.0.0.1:9/api"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Prefect home with nothing in it, and a process that has not imported Prefect."""
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.delitem(sys.modules, "prefect", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def announce(home: Path, **facts: object) -> Path:
    path = home / "hyperexport-serve.json"
    document = {"pid": os.getpid(), "process": str(identity_of(os.getpid())), "url": URL, **facts}
    path.write_text(json.dumps(document))
    path.chmod(0o600)
    return path


def test_without_anything_a_command_runs_in_its_own_process(home: Path) -> None:
    assert orchestrator.find_place().url is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (".env", f"export PREFECT_API_URL='{URL}'\n"),
        ("prefect.toml", f'[api]\nurl = "{URL}"\n'),
        ("pyproject.toml", f'[tool.prefect.api]\nurl = "{URL}"\n'),
        ("profiles.toml", f'active = "work"\n[profiles.work]\nPREFECT_API_URL = "{URL}"\n'),
    ],
)
def test_an_api_is_found_wherever_prefect_looks_for_it(home: Path, name: str, text: str) -> None:
    (home / name).write_text(text)
    assert orchestrator.find_place().url == URL


def test_a_profile_that_is_not_active_does_not_count(home: Path) -> None:
    (home / "profiles.toml").write_text(f'active = "other"\n[profiles.work]\nPREFECT_API_URL = "{URL}"\n')
    assert orchestrator.find_place().url is None


@pytest.mark.parametrize("forced", ["flag", "variable"])
def test_no_prefect_wins_over_what_is_configured(home: Path, monkeypatch: pytest.MonkeyPatch, forced: str) -> None:
    monkeypatch.setenv("PREFECT_API_URL", URL)
    assert orchestrator.find_place().url == URL
    if forced == "variable":
        monkeypatch.setenv("HYPEREXPORT_NO_PREFECT", "1")
    place = orchestrator.find_place(no_prefect=forced == "flag")
    assert place.url is None
    assert "NO_PREFECT" in place.why or "--no-prefect" in place.why


@pytest.mark.parametrize(
    "facts",
    [
        {"pid": 2**22 - 1},
        {"process": "other-boot/4026531836/1"},
        {"process": ""},
        {"url": None},
    ],
    ids=["dead", "another process of that number", "no identity", "no address"],
)
def test_a_service_that_is_not_proved_alive_is_not_believed(home: Path, facts: dict[str, object]) -> None:
    announce(home, **facts)
    assert orchestrator._find_service() is None


def test_a_file_that_others_may_have_written_is_not_read(home: Path) -> None:
    announce(home).chmod(0o666)
    assert orchestrator._read_service() == {}


def test_a_living_service_whose_address_does_not_answer_is_not_used(home: Path) -> None:
    announce(home)
    assert orchestrator._lives(os.getpid(), str(identity_of(os.getpid())))
    assert orchestrator.find_place().url is None


def test_the_file_of_a_service_is_private_and_goes_with_it(home: Path) -> None:
    path = home / "hyperexport-serve.json"
    with orchestrator.announced(URL):
        assert path.stat().st_mode & 0o777 == 0o600
        assert orchestrator._read_service()["url"] == URL
    assert not path.exists()


@pytest.mark.parametrize("excepted", ["", "example.com"])
def test_prefect_asks_an_api_on_this_machine_without_a_proxy(
    home: Path, monkeypatch: pytest.MonkeyPatch, excepted: str
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, excepted)
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    orchestrator.use_no_proxy_for(URL)
    assert urllib.request.proxy_bypass("127.0.0.1")
    assert bool(excepted) == bool(urllib.request.proxy_bypass("example.com"))
    orchestrator.use_no_proxy_for("https://prefect.example/api")
    assert not urllib.request.proxy_bypass("prefect.example")


def test_an_api_that_listens_is_used_and_one_that_does_not_is_reported(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "")  # put back afterwards
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = orchestrator.Place(f"http://127.0.0.1:{listener.getsockname()[1]}/api", "because")
        orchestrator.use(place)
        assert os.environ["PREFECT_API_URL"] == place.url
    monkeypatch.setattr(orchestrator, "_SECONDS_TO_CONNECT", 0.1)
    with pytest.raises(ServerUnreachable, match="because"):
        orchestrator.use(place)


def test_an_api_behind_a_proxy_is_looked_for_at_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "inside.example")
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    assert orchestrator._first_hop("https://prefect.example/api") == ("proxy.example", 3128)
    assert orchestrator._first_hop("https://inside.example/api") == ("inside.example", 443)
    assert orchestrator._first_hop("https://127.0.0.1:4200/api") == ("127.0.0.1", 4200)
