"""Thirty VMs over three workers, one of which dies at work: all are good in the end, the limits held, nothing is left.

The server is Prefect's own for many workers, on PostgreSQL and Redis; the workers are real processes. Only the
vCenter is simulated, and counts what its hosts bear.
"""

import threading
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from hyperexport.flows import export_fleet, fleet_distribution
from hyperexport.model.ownership import Owner
from hyperexport.options.precedence import ExportOptions
from hyperexport.options.selection import Selection
from hyperexport.results import FleetOutcome
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from hyperexport.store.local import LocalStore
from hyperexport.tasks.lease_limits import limit_name
from tests.flows.support import exported_bytes, exports_in, guest_bytes
from tests.scale.servers import Worker, until, workers

pytestmark = [pytest.mark.scale, pytest.mark.postgres, pytest.mark.timeout(1500)]

MIB = 1 << 20
VMS = 30
DISK = 8 * MIB
MB_PER_SECOND = 1.2
"""So little that a worker is found and killed while it reads."""

LEASES_PER_HOST = 2
LEASE_TIMEOUT = 45.0
"""Seconds after which a host ends the lease of a client that is gone; 300 on a real one."""


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Generator[Simulator]:
    """Thirty running VMs on two hosts, with disks that do not compress."""
    specs = [VmSpec(f"vm-{number:02d}", disks=(DiskSpec(DISK, used=1.0),)) for number in range(1, VMS + 1)]
    with Simulator(specs, hosts=2, lease_timeout=LEASE_TIMEOUT) as simulator:
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(fleet_distribution, "SECONDS_TO_BEGIN", 120.0)
        yield simulator


@pytest.fixture
def client_of(prefect_api: str) -> Generator[str]:
    """This process and its workers talk to that server, with heartbeats as frequent as Prefect allows."""
    with temporary_settings({PREFECT_API_URL: prefect_api, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 30}):
        yield prefect_api


class Killing:
    """Kills one worker that reads a VM, once every host has as many downloads as it may, and remembers its VMs."""

    def __init__(self, fleet: Simulator, victim: Worker) -> None:
        self._fleet = fleet
        self._victim = victim
        self.in_hand: set[str] = set()
        self.leases: set[str] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Killing":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        # However fast or slow this machine is: nothing is sent before the limits are what holds the rest back.
        with self._fleet.downloads_held():
            while not self._over.wait(0.05) and not hosts_are_full(self._fleet):
                pass
        while not self._over.wait(0.05):
            if not self._reads():
                continue
            self._victim.pause()
            # What it had sent already is answered meanwhile; what it reads now, it will still be reading.
            if not self._over.wait(0.5) and self._reads():
                # Looked at before it dies: the other workers reap what it leaves within a moment.
                running = self._victim.flow_processes()
                self.in_hand = {vm for vm, pid in snapshots_of_ours(self._fleet) if pid in running}
                self.leases = {lease.vm_name for lease in self._fleet.leases()} & self.in_hand
                self._victim.die()
                return
            self._victim.resume()

    def _reads(self) -> bool:
        """Whether a VM of the victim's own is being read."""
        reading = {lease.vm_name for lease in self._fleet.leases() if lease.state == "ready"}
        running = self._victim.flow_processes() if reading else set[int]()
        return any(pid in running for vm, pid in snapshots_of_ours(self._fleet) if vm in reading)


def hosts_are_full(fleet: Simulator) -> bool:
    return all(most["downloads"] == LEASES_PER_HOST for most in fleet.most_at_once().values())


def snapshots_of_ours(fleet: Simulator) -> list[tuple[str, int]]:
    """Each VM that bears a snapshot of ours, and the process that made it."""
    marks = [
        (vm.name, Owner.from_description(description)) for vm in fleet.vms() for _, _, description, _ in vm.snapshots()
    ]
    return [(name, owner.pid) for name, owner in marks if owner]


def runs_of(vms: set[str]) -> list[FlowRun]:
    names = [f"export /DC0/vm/{vm}" for vm in vms]
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=names)))


def limit(name: str):
    with get_client(sync_client=True) as client:
        return client.read_global_concurrency_limit_by_name(name)


def test_a_worker_that_dies_costs_no_export(fleet: Simulator, client_of: str, tmp_path: Path) -> None:
    store = tmp_path / "exports"
    options = ExportOptions.from_keys(
        {
            "output": store,
            "snapshot": True,
            "spread": True,
            "max_vms": 12,
            "max_per_host": 8,
            "max_per_datastore": 12,
            "leases_per_host": LEASES_PER_HOST,
            "bandwidth_limit": MB_PER_SECOND,
            "bandwidth_shared": "fleet-link",
        }
    )
    environment = {**fleet.environment(), "PREFECT_API_URL": client_of, "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
    with workers(tmp_path, 3, environment, limit=3) as crew:
        began = time.monotonic()
        with Killing(fleet, crew[0]) as killed:
            result = export_fleet(Selection(match=("*",)), options)
        seconds = time.monotonic() - began

    assert killed.leases, "a worker was killed while it read a VM"
    assert [member.outcome for member in result.members] == [FleetOutcome.EXPORTED] * VMS
    taken_over = [run for run in runs_of(killed.in_hand) if run.state_name == "Crashed"]
    assert {run.parameters["vm"].rpartition("/")[2] for run in taken_over} == killed.in_hand

    exports = exports_in(store)
    assert sorted(export.manifest.vm.name for export in exports) == [vm.name for vm in fleet.vms()]
    for export in exports:
        assert exported_bytes(LocalStore(store), export) == guest_bytes(fleet, export.manifest.vm.name)
        assert export.manifest.transfer.shared == "fleet-link"

    dead = 1 if killed.leases else 0
    for host, most in fleet.most_at_once().items():
        assert most["downloads"] == LEASES_PER_HOST, host
        assert most["leases"] <= LEASES_PER_HOST * (1 + dead), host
    assert sum(member.moved or 0 for member in result.members) <= (seconds + 2) * MB_PER_SECOND * MIB

    assert snapshots_of_ours(fleet) == []
    assert list(store.rglob("*.partial")) == []
    until(lambda: not fleet.leases(), "the host ends the dead worker's lease")
    address = f"{fleet.host}:{fleet.port}"
    until(
        lambda: all(limit(limit_name(address, host)).active_slots == 0 for host in fleet.most_at_once()),
        "Prefect frees the dead worker's slots",
    )
