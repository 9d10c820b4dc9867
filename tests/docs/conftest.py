"""What the commands of the documentation meet: a vCenter, an S3 server, mail servers, a Prefect server."""

from collections.abc import Generator

import pytest

from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from hyperexport.simulator.spec import numbered_vms
from tests.engine.s3_servers import S3Server, rclone_s3
from tests.flows.smtp_server import Postbox, smtp_server
from tests.prefect_database import prefect_server

MIB = 1 << 20
LOGIN = ("backup@example.com", "the mail server's password")


@pytest.fixture(scope="session", autouse=True)
def prefect_harness() -> Generator[None]:
    """A server with an empty database for all pages."""
    with prefect_server():
        yield


@pytest.fixture
def vcenter(monkeypatch: pytest.MonkeyPatch) -> Generator[Simulator]:
    """A vCenter with the VMs that the pages speak of, named by the environment."""
    small = (DiskSpec(MIB), DiskSpec(MIB))
    named = [
        VmSpec(name, folder="production", disks=small, tags=("backup:daily",))
        for name in ("db01", "web-1", "web-2", "MyVM", "FileServer", "ProductionDB")
    ]
    with Simulator((*named, *numbered_vms(3, disk_size=MIB))) as simulator:
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        yield simulator


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Generator[S3Server]:
    """A real S3 server."""
    with rclone_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def postboxes(tmp_path_factory: pytest.TempPathFactory) -> Generator[dict[bool, Postbox]]:
    """Two real mail servers with STARTTLS: one that wants a login, and one that wants none."""
    homes = [tmp_path_factory.mktemp("mail") for _ in range(2)]
    with (
        smtp_server(homes[0], tls="starttls", login=LOGIN) as guarded,
        smtp_server(homes[1], tls="starttls") as opened,
    ):
        yield {True: guarded, False: opened}
