"""The vSphere servers that the engine is tested against: our simulator, and VMware's own vcsim.

A test that takes ``peer`` runs against both; one that takes ``simulator`` needs what only ours has (leases that end,
change tracking, faults). Servers live as long as the test session; each test gets a VM of its own.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hyperexport.model.ownership import Owner
from hyperexport.model.vm import VmRef
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from hyperexport.store import s3_errors, s3_settings
from hyperexport.vsphere.endpoint import VSphereEndpoint
from hyperexport.vsphere.inventory import find_vm
from hyperexport.vsphere.session import Session, connect
from tests.conformance.vcsim import running_vcsim
from tests.engine.s3_servers import S3Server, rclone_s3

MIB = 1 << 20
VMS = 120
VCSIM_VMS = 40
"""Its tests use up 27. vcsim takes 80 ms to make one."""


@dataclass(frozen=True)
class Peer:
    """A vSphere server and its VMs that no test has used yet; all are powered on and have two disks."""

    name: str
    endpoint: VSphereEndpoint
    fresh: Iterator[str]
    server: Any


def endpoint_of(server: Any) -> VSphereEndpoint:
    """The administrator's way into a server, its certificate verified."""
    return VSphereEndpoint(
        url=server.url, username=server.username, password=server.password, ca_file=server.ca_file, timeout=20
    )


@pytest.fixture(scope="session")
def simulated() -> Generator[Peer]:
    """Our simulator, with many equal VMs."""
    vms = (VmSpec(f"sim-{number:02d}", disks=(DiskSpec(4 * MIB), DiskSpec(2 * MIB))) for number in range(VMS))
    with Simulator(tuple(vms)) as server:
        endpoint = endpoint_of(server)
        yield Peer("simulator", endpoint, (f"sim-{number:02d}" for number in range(VMS)), server)


@pytest.fixture(scope="session")
def vmware(go_peers: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Peer]:
    """VMware's vcsim, with many too."""
    with running_vcsim(go_peers, tmp_path_factory.mktemp("vcsim"), "-disks", "2", "-vm", str(VCSIM_VMS)) as server:
        endpoint = endpoint_of(server)
        yield Peer("vcsim", endpoint, (f"DC0_H0_VM{number}" for number in range(VCSIM_VMS)), server)


@pytest.fixture(params=["simulated", "vmware"])
def peer(request: pytest.FixtureRequest) -> Peer:
    """Each of the two servers in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[S3Server]:
    """A real S3 server of the module's own."""
    with rclone_s3(tmp_path_factory.mktemp("rclone")) as running:
        yield running


@pytest.fixture
def session(peer: Peer) -> Generator[Session]:
    """A login to the peer."""
    with connect(peer.endpoint) as session:
        yield session


@pytest.fixture
def vm(peer: Peer, session: Session) -> VmRef:
    """A running VM that only this test uses."""
    return find_vm(session, next(peer.fresh))


@pytest.fixture
def owner(session: Session, vm: VmRef) -> Owner:
    """The mark of a run of its own."""
    return Owner.of_this_process(run=vm.name, vcenter=session.address, vm=vm.instance_uuid)


@pytest.fixture
def faults(simulated: Peer) -> Generator[Any]:
    """The simulator's faults on demand; none outlives its test."""
    yield simulated.server.faults
    simulated.server.faults.clear()


@pytest.fixture
def short_s3_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an S3 server fails is tried again as often as ever, but sooner, and by boto3 itself only once more."""
    monkeypatch.setattr(s3_errors, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(s3_settings, "CONTROL_ATTEMPTS", 2)
