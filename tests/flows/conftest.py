"""One Prefect server for this folder; flow runs do not wait for heartbeats."""

from collections.abc import Generator
from pathlib import Path

import pytest
from prefect.events.clients import NullEventsClient
from prefect.events.worker import EventsWorker

from hyperexport.base import secrets as process_secrets
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from tests.prefect_database import prefect_server


@pytest.fixture(scope="session", autouse=True)
def prefect_harness() -> Generator[None]:
    """A server with an empty database, which every flow in this folder talks to."""
    with prefect_server():
        yield


@pytest.fixture(scope="session", autouse=True)
def no_events(prefect_harness: None) -> None:
    """Runs of this process emit no events: three for each step, a quarter of what a run costs the server."""
    EventsWorker.set_client_override(NullEventsClient)


@pytest.fixture(scope="module")
def events_are_emitted() -> Generator[None]:
    """For files that ask the server which events it received."""
    EventsWorker.set_client_override(None)
    yield
    EventsWorker.set_client_override(NullEventsClient)


@pytest.fixture(autouse=True)
def no_password_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A password that one test gave on a command line, which runs in this process, is no other test's."""
    monkeypatch.setattr(process_secrets, "_kept", {})


@pytest.fixture
def vcenter(monkeypatch: pytest.MonkeyPatch) -> Generator[Simulator]:
    """A simulated vCenter of the test's own, with one running VM of two disks, named by the environment."""
    with Simulator([VmSpec("db01", disks=(DiskSpec(8 << 20), DiskSpec(4 << 20)))]) as simulator:
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        yield simulator


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The root of a local store that is not there yet."""
    return tmp_path / "exports"
