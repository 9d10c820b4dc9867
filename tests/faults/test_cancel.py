"""A run is cancelled wherever it waits, on each kind of worker: it stops, cleans up, and ends as Cancelled.

The seconds from the button to the end of the transfer and to the end of the run are printed, not asserted: on a busy
machine they say nothing.
"""

import signal
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from hyperexport.simulator import DiskSpec, Fault, FaultKind, Simulator, VmSpec
from tests.engine.s3_servers import S3Server, rclone_s3
from tests.faults.workers import (
    COMMANDS,
    PrefectServer,
    Worker,
    eventually,
    marks_on,
    prefect_server,
    seconds_until,
    working,
)

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

MIB = 1 << 20
SIZE = 24 * MIB
LONG = 600.0
"""Seconds that a fault would last, were it waited for."""


@dataclass(frozen=True)
class Wait:
    """Where a run waits when it is cancelled."""

    name: str
    there: Callable[[Simulator, str, Path], object]
    """Whether it has come there."""
    faults: tuple[Fault, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    to_s3: bool = False
    published: bool = False
    """Whether the export is complete by then, and stays."""
    removed_later: bool = False
    """Whether the server is left removing the snapshot."""
    chained: bool = False
    """Whether it makes a delta on an earlier export."""


def fired(simulator: Simulator, _vm: str, _store: Path) -> bool:
    return bool(simulator.faults.fired)


def transferring(simulator: Simulator, _vm: str, _store: Path) -> bool:
    return any(lease.state == "ready" for lease in simulator.leases())


def begun(simulator: Simulator, vm: str, _store: Path) -> bool:
    return bool(marks_on(simulator, vm))


SLOWLY = {"bandwidth": {"limit": 1, "burst": 0.1}}
WAITS = [
    Wait("stalled in a read", fired, (Fault(FaultKind.STALL, disk=0, at_byte=MIB, delay=LONG),)),
    Wait("held back by the limit", transferring, options=SLOWLY),
    Wait("making a delta", fired, (Fault(FaultKind.STALL, disk=0, at_byte=MIB, delay=LONG),), chained=True),
    Wait(
        "making a delta in S3",
        fired,
        (Fault(FaultKind.STALL, disk=0, at_byte=MIB, delay=LONG),),
        to_s3=True,
        chained=True,
    ),
    Wait("uploading to S3", transferring, options=SLOWLY, to_s3=True),
    Wait("waiting for a lease", fired, (Fault(FaultKind.LEASE_SLOW, delay=LONG),)),
    Wait(
        "waiting for the snapshot's removal",
        fired,
        (Fault(FaultKind.SLOW_CONSOLIDATION, delay=45.0),),
        published=False,
        removed_later=True,
    ),
    Wait(
        "verifying from S3",
        begun,
        options={"bandwidth": {"limit": 2, "burst": 0.1}, "execution": {"verify": "deep"}},
        to_s3=True,
        published=True,
    ),
]


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Generator[PrefectServer]:
    with prefect_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Generator[S3Server]:
    with rclone_s3(tmp_path_factory.mktemp("rclone")) as running:
        running.make_bucket("backups")
        yield running


@pytest.fixture(scope="module")
def vcenter() -> Generator[Simulator]:
    names = [f"vm-{number}" for number in range(40)]
    with Simulator([VmSpec(name, disks=(DiskSpec(SIZE, used=1.0), DiskSpec(4 * MIB))) for name in names]) as running:
        yield running


@pytest.fixture(scope="module")
def fresh() -> Callable[[], str]:
    numbers = iter(range(40))
    return lambda: f"vm-{next(numbers)}"


@pytest.fixture(scope="module", params=list(COMMANDS))
def worker(
    request: pytest.FixtureRequest,
    prefect: PrefectServer,
    vcenter: Simulator,
    s3: S3Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Generator[Worker]:
    environment = {
        **vcenter.environment(),
        "AWS_ACCESS_KEY_ID": s3.access_key,
        "AWS_SECRET_ACCESS_KEY": s3.secret_key,
        "AWS_CA_BUNDLE": str(s3.ca_file),
    }
    with working(request.param, prefect, tmp_path_factory.mktemp("worker"), environment) as running:
        yield running


def begin(worker: Worker, vm: str, store: Path, s3: S3Server, *, to_s3: bool = False, **options: Any):
    destination: dict[str, Any] = {"output": str(store)}
    if to_s3:
        destination = {"upload": f"s3://backups/{vm}", "s3_endpoint": s3.endpoint_url, "keep_local": False}
    return worker.begin("export-vm", vm=vm, options={"snapshot": {"take": True}, "destination": destination, **options})


def objects(s3: S3Server, vm: str) -> list[str]:
    client = s3.client()
    found = [item["Key"] for item in client.list_objects_v2(Bucket="backups", Prefix=f"{vm}/").get("Contents", [])]
    try:
        uploads = client.list_multipart_uploads(Bucket="backups").get("Uploads", [])
    except client.exceptions.NoSuchUpload:
        uploads = []
    return found + [f"upload {upload['Key']}" for upload in uploads if upload["Key"].startswith(f"{vm}/")]


@pytest.mark.parametrize("wait", WAITS, ids=lambda wait: wait.name)
def test_a_cancelled_run_stops_cleans_up_and_ends_as_cancelled(
    worker: Worker,
    vcenter: Simulator,
    s3: S3Server,
    fresh: Callable[[], str],
    tmp_path: Path,
    wait: Wait,
    record_property: Callable[[str, object], None],
) -> None:
    vm, store = fresh(), tmp_path / "exports"
    vcenter.faults.clear()
    options, before = dict(wait.options), list[str]()
    if wait.chained:
        options["incremental"] = {"enabled": True, "max_chain": 3}
        first = begin(worker, vm, store, s3, to_s3=wait.to_s3, **options)
        assert worker.end_of(first).is_completed(), worker.log.read_text()[-4000:]
        before = objects(s3, vm) if wait.to_s3 else []
        vcenter.vm(vm).guest_write(0, MIB, b"changed")
    for fault in wait.faults:
        vcenter.faults.add(fault)
    run = begin(worker, vm, store, s3, to_s3=wait.to_s3, **options)
    eventually(lambda: wait.there(vcenter, vm, store), f"it is {wait.name}; see {worker.log}")
    if wait.published:
        eventually(lambda: any(key.endswith("/export.json") for key in objects(s3, vm)), "the export")

    worker.cancel(run)
    stopped = seconds_until(lambda: not vcenter.leases() or worker.state(run).is_final(), "the end of the transfer")
    state = worker.end_of(run)

    record_property("seconds", f"{wait.name}: the transfer ended after {stopped:.1f} s")
    assert state.is_cancelled(), f"{state}; {worker.log.read_text()[-4000:]}"
    vcenter.faults.clear()
    assert vcenter.leases() == []
    eventually(lambda: not vcenter.sessions(), "the logout")
    eventually(lambda: not marks_on(vcenter, vm), "the snapshot's end, which vSphere comes to by itself")
    assert list(store.rglob("*.partial")) == []
    if wait.to_s3:
        left = objects(s3, vm)
        assert any(key.endswith("/export.json") for key in left) == (wait.published or wait.chained), left
        assert wait.published or left == before


def test_a_flow_that_is_killed_is_told_of_and_the_next_run_cleans_up(
    worker: Worker, vcenter: Simulator, s3: S3Server, fresh: Callable[[], str], tmp_path: Path
) -> None:
    vm, store = fresh(), tmp_path / "exports"
    vcenter.faults.clear()
    run = begin(worker, vm, store, s3, **SLOWLY)
    eventually(lambda: transferring(vcenter, vm, store), "a transfer")
    worker.flow_process(run).send_signal(signal.SIGKILL)
    assert worker.end_of(run).is_crashed()
    assert marks_on(vcenter, vm), "nobody was left to remove it"

    again = begin(worker, vm, store, s3)
    assert worker.end_of(again).is_completed(), worker.log.read_text()[-4000:]
    assert marks_on(vcenter, vm) == []
    assert list(store.rglob("*.partial")) == []


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_machine_that_dies_with_its_worker_is_told_of_by_the_next_run(
    kind: str,
    vcenter: Simulator,
    s3: S3Server,
    fresh: Callable[[], str],
    tmp_path: Path,
) -> None:
    vm, store = fresh(), tmp_path / "exports"
    vcenter.faults.clear()
    with prefect_server(tmp_path / "server") as prefect:  # its own: the other tests' worker would take up the run
        the_machine_dies_and_the_next_run_tells(kind, prefect, vcenter, vm, store, s3, tmp_path)


def the_machine_dies_and_the_next_run_tells(
    kind: str, prefect: PrefectServer, vcenter: Simulator, vm: str, store: Path, s3: S3Server, tmp_path: Path
) -> None:
    with working(kind, prefect, tmp_path / "first", vcenter.environment()) as worker:
        run = begin(worker, vm, store, s3, **SLOWLY)
        eventually(lambda: transferring(vcenter, vm, store), "a transfer")
        for process in [*psutil.Process(worker.process.pid).children(recursive=True), worker.process]:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        worker.process.wait()
        assert worker.state(run).is_running(), "nobody was left to say otherwise"
    with working(kind, prefect, tmp_path / "second", vcenter.environment()) as worker:
        again = begin(worker, vm, store, s3)
        assert worker.end_of(again).is_completed(), worker.log.read_text()[-4000:]
        assert worker.state(run).is_crashed()
    assert marks_on(vcenter, vm) == []
    assert list(store.rglob("*.partial")) == []
