"""Disks read in ranges at the simulated vCenter: the guest's bytes, and clear refusals."""

from collections.abc import Generator

import pytest

from hyperexport.base.stop import StopSignal
from hyperexport.errors import TransferInterrupted, TransportUnavailable
from hyperexport.jobs.direct import DirectRunner
from hyperexport.jobs.export import prepare_job
from hyperexport.options.precedence import resolve
from hyperexport.simulator import DiskSpec, Fault, FaultKind, Simulator, VmSpec
from hyperexport.steps.job import Job
from hyperexport.steps.plan import disks_of
from hyperexport.steps.range_sources import open_datastore
from hyperexport.transfer.bandwidth.throttle import Throttle
from hyperexport.transfer.ranges import Range, RangeSource, read_ranges
from hyperexport.vsphere.endpoint import VSphereEndpoint
from hyperexport.vsphere.session import connect

MIB = 1 << 20
SIZE = MIB + 1536


@pytest.fixture(scope="module")
def vcenter() -> Generator[Simulator]:
    disks = (DiskSpec(SIZE, used=0.5), DiskSpec(MIB, backing="SeSparse"), DiskSpec(MIB, backing="RawDiskMappingVer1"))
    vms = (VmSpec("off", powered_on=False, disks=disks), VmSpec("on", disks=disks[:1]))
    with Simulator(vms, datacenter="DC & 1") as simulator:
        yield simulator


@pytest.fixture(autouse=True)
def no_faults(vcenter: Simulator) -> Generator[None]:
    yield
    vcenter.faults.clear()
    vcenter.folder.requests.clear()


@pytest.fixture
def job_for(vcenter: Simulator) -> Generator[dict[str, Job]]:
    """The job of an export of each VM, before its first step."""
    endpoint = VSphereEndpoint(
        url=vcenter.url, username=vcenter.username, password=vcenter.password, ca_file=str(vcenter.ca_file)
    )
    stop = StopSignal()
    with connect(endpoint, stop=stop) as session:
        runner = DirectRunner(vsphere=endpoint)
        options = resolve().options
        throttle = Throttle(None)
        yield {
            name: prepare_job(runner, session, name, options, stop=stop, throttle=throttle) for name in ("off", "on")
        }


def read(source: RangeSource, offset: int, length: int) -> bytes:
    [(part, data)] = read_ranges(source, [Range(offset, length)], throttle=Throttle(None), stop=StopSignal())
    assert part == (offset, length)
    return data


def sent(vcenter: Simulator) -> int:
    return sum(each.sent for each in vcenter.folder.requests if each.path.endswith("-flat.vmdk"))


def test_a_flat_disk_of_a_vm_that_is_off_is_read_at_any_place(vcenter: Simulator, job_for: dict[str, Job]) -> None:
    job = job_for["off"]
    vcenter.vm("off").guest_write(0, SIZE - 700, b"end" * 200)
    with open_datastore(job, disks_of(job, None)[0]) as source:
        assert source.capacity == SIZE
        for offset, length in [(0, 1), (65_536, 65_536), (SIZE - 512, 512), (100, SIZE - 200)]:
            assert read(source, offset, length) == vcenter.vm("off").read_disk(0, offset, length)
    assert sent(vcenter) == 512 + 1 + 65_536 + 512 + SIZE - 200


@pytest.mark.parametrize(("disk", "why"), [(1, "type seSparse"), (2, "RawDeviceMap")])
def test_a_disk_that_is_no_flat_file_is_refused_without_a_read(
    vcenter: Simulator, job_for: dict[str, Job], disk: int, why: str
) -> None:
    job = job_for["off"]
    with pytest.raises(TransportUnavailable, match=why), open_datastore(job, disks_of(job, None)[disk]):
        pass
    assert sent(vcenter) == 0


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (Fault(FaultKind.FOLDER_WHOLE, times=0), "ignores ranges"),
        (Fault(FaultKind.FOLDER_REFUSED, times=0, status=403), "403"),
        (Fault(FaultKind.FOLDER_REFUSED, times=0, status=416), "fewer bytes than the disk"),
        (Fault(FaultKind.FOLDER_REFUSED, times=0, status=404), "404"),
    ],
)
def test_a_server_that_serves_no_ranges_is_refused_with_its_answer(
    vcenter: Simulator, job_for: dict[str, Job], fault: Fault, why: str
) -> None:
    job = job_for["off"]
    vcenter.faults.add(fault)
    with pytest.raises(TransportUnavailable, match=why), open_datastore(job, disks_of(job, None)[0]):
        pass


def test_a_broken_answer_is_asked_for_again(vcenter: Simulator, job_for: dict[str, Job]) -> None:
    job = job_for["off"]
    with open_datastore(job, disks_of(job, None)[0]) as source:
        vcenter.faults.add(Fault(FaultKind.FOLDER_SHORT))
        vcenter.faults.add(Fault(FaultKind.FOLDER_REFUSED, status=503))
        assert read(source, 0, SIZE) == vcenter.vm("off").read_disk(0, 0, SIZE)
        vcenter.faults.add(Fault(FaultKind.SESSION_EXPIRED))
        assert read(source, 0, 512) == vcenter.vm("off").read_disk(0, 0, 512)
        vcenter.faults.add(Fault(FaultKind.FOLDER_SHORT, times=0))
        with pytest.raises(TransferInterrupted, match=r"broke off|announced"):
            read(source, 0, SIZE)


def test_a_host_that_refuses_a_running_vm_is_asked_once_in_a_run(vcenter: Simulator, job_for: dict[str, Job]) -> None:
    job = job_for["on"]
    snapshot = vcenter.vm("on").take_snapshot("s")
    disk = disks_of(job, snapshot)[0]
    for _ in range(3):
        with pytest.raises(TransportUnavailable, match="500"), open_datastore(job, disk):
            pass
    refused = [each for each in vcenter.folder.requests if each.status == 500]
    assert len(refused) == 1
    vcenter.vm("on").remove_snapshot(snapshot)


@pytest.mark.parametrize(("status", "host_wide"), [(404, False), (403, False), (416, False), (500, True)])
def test_a_refusal_that_concerns_one_file_is_not_held_against_the_others_of_its_host(
    vcenter: Simulator, job_for: dict[str, Job], monkeypatch: pytest.MonkeyPatch, status: int, host_wide: bool
) -> None:
    job = job_for["on"]
    monkeypatch.setattr(vcenter.folder, "serves_frozen", True)
    snapshot = vcenter.vm("on").take_snapshot("s")
    disk = disks_of(job, snapshot)[0]
    vcenter.faults.add(Fault(FaultKind.FOLDER_REFUSED, vm="on", status=status, times=0))
    with pytest.raises(TransportUnavailable), open_datastore(job, disk):
        pass
    vcenter.faults.clear()
    if host_wide:
        with pytest.raises(TransportUnavailable, match="refused it before in this run"), open_datastore(job, disk):
            pass
    else:
        with open_datastore(job, disk) as source:
            assert source.capacity == disk.capacity
    vcenter.vm("on").remove_snapshot(snapshot)


def test_a_host_that_serves_the_frozen_base_gives_the_bytes_of_the_snapshot(
    vcenter: Simulator, job_for: dict[str, Job]
) -> None:
    job, vm = job_for["on"], vcenter.vm("on")
    snapshot = vm.take_snapshot("s")
    frozen = vm.read_disk(0, 0, SIZE)
    vm.guest_write(0, 0, b"later")
    later = vm.take_snapshot("on top of it")
    vcenter.folder.serves_frozen = True
    try:
        with open_datastore(job, disks_of(job, snapshot)[0]) as source:
            assert read(source, 0, SIZE) == frozen
        with (
            pytest.raises(TransportUnavailable, match="delta on another disk"),
            open_datastore(job, disks_of(job, later)[0]),
        ):
            pass
    finally:
        vcenter.folder.serves_frozen = False
        vm.remove_snapshot(later)
        vm.remove_snapshot(snapshot)
