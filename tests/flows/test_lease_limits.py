"""Limits on export leases that runs share are real limits of a real Prefect server, counted by the simulated hosts."""

import logging
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate

from hyperexport.errors import UsageError
from hyperexport.flows import export_vm
from hyperexport.model.progress import Progress, Stage, subscribed
from hyperexport.options.precedence import ExportOptions
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from hyperexport.tasks import lease_limits
from hyperexport.tasks.lease_limits import limit_name
from tests.flows.support import exports_in, leftovers

MIB = 1 << 20


@pytest.fixture
def one_host(monkeypatch: pytest.MonkeyPatch) -> Generator[Simulator]:
    """A vCenter with one host and a VM of three disks."""
    with Simulator([VmSpec("db01", disks=(DiskSpec(2 * MIB),) * 3, nvram=False)], hosts=1) as simulator:
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        yield simulator


@pytest.fixture
def name(one_host: Simulator) -> str:
    return limit_name(f"{one_host.host}:{one_host.port}", "esx-01")


def options(store: Path, **keys: object) -> ExportOptions:
    return ExportOptions.from_keys({"output": store, "snapshot": True, **keys})


def make_limit(name: str, slots: int, *, taken: int = 0) -> None:
    with get_client(sync_client=True) as client:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=slots, active_slots=taken))


def read_limit(name: str):
    with get_client(sync_client=True) as client:
        return client.read_global_concurrency_limit_by_name(name)


@contextmanager
def none_ends_before_there_are(leases: int, simulator: Simulator) -> Generator[None]:
    """Hold every disk at its beginning until so many are held at once: more than that is what the limit is against."""
    seen = threading.Event()

    def hold(progress: Progress) -> None:
        end = time.monotonic() + 150
        while progress.stage is Stage.TRANSFER and not seen.is_set() and time.monotonic() < end:
            if len(simulator.leases()) >= leases:
                seen.set()
            time.sleep(0.01)

    with subscribed(hold):
        yield
    assert seen.is_set()


def test_a_limit_is_made_held_and_given_back(one_host: Simulator, store: Path, name: str) -> None:
    with none_ends_before_there_are(2, one_host):
        export_vm("db01", options(store, leases_per_host=2, leases_per_vcenter=9))
    assert one_host.most_at_once()["esx-01"]["leases"] == 2
    assert (read_limit(name).limit, read_limit(name).active_slots) == (2, 0)
    whole = read_limit(name.removesuffix(" esx-01"))
    assert (whole.limit, whole.active_slots) == (9, 0)


def test_a_limit_that_is_there_is_its_administrators(one_host: Simulator, store: Path, name: str) -> None:
    make_limit(name, 1)
    export_vm("db01", options(store, leases_per_host=3))
    assert one_host.most_at_once() == {"esx-01": {"leases": 1, "downloads": 1}}


def test_a_vm_waits_for_its_slots_before_its_snapshot_is_made(one_host: Simulator, store: Path, name: str) -> None:
    make_limit(name, 1, taken=1)
    snapshots_while_waiting: list[int] = []

    class GiveBackWhenWaiting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "waiting for a slot" in record.getMessage():
                snapshots_while_waiting.append(one_host.requests.get("CreateSnapshot_Task", 0))
                threading.Thread(target=give_back).start()

    def give_back() -> None:
        with get_client(sync_client=True) as client:
            client.release_concurrency_slots([name], 1, occupancy_seconds=1.0)

    handler = GiveBackWhenWaiting()
    lease_limits.logger.addHandler(handler)
    lease_limits.logger.setLevel(logging.INFO)
    try:
        export_vm("db01", options(store, leases_per_host=1))
    finally:
        lease_limits.logger.removeHandler(handler)
        lease_limits.logger.setLevel(logging.NOTSET)
    assert snapshots_while_waiting == [0]
    assert len(exports_in(store)) == 1


def test_a_limit_of_none_at_all_is_refused_and_nothing_is_left(one_host: Simulator, store: Path, name: str) -> None:
    make_limit(name, 0)
    with pytest.raises(UsageError, match="prefect gcl update"):
        export_vm("db01", options(store, leases_per_host=3))
    assert one_host.requests.get("CreateSnapshot_Task", 0) == 0
    assert leftovers(one_host, store) == []


def test_a_server_that_does_not_answer_is_a_warning_and_the_export_goes_on(
    one_host: Simulator, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise ConnectionError

    monkeypatch.setattr(lease_limits, "SERVER_TIMEOUT", 0.0)
    monkeypatch.setattr(lease_limits, "_look", away)
    with none_ends_before_there_are(2, one_host):
        result = export_vm("db01", options(store, leases_per_host=1))
    assert [warning for warning in result.warnings if "continuing at this run's own limits" in warning]
    assert len(exports_in(store)) == 1
