"""Export leases and the NFC downloads of the simulator: their life, what they hold, and everything that breaks."""

import contextlib
import hashlib
import http.client
import socket
import ssl
import threading
import time
import zlib
from urllib.parse import urlsplit

import pytest
from pyVmomi import vim, vmodl

from hyperexport.simulator import DiskSpec, Fault, FaultKind, Simulator, VmSpec
from tests.engine.simulator_client import Download, fetch, find, finish, logged_in, ready, take_snapshot

MIB = 1 << 20
VMS = (
    VmSpec("on", disks=(DiskSpec(16 * MIB), DiskSpec(4 * MIB))),
    VmSpec("off", powered_on=False, disks=(DiskSpec(16 * MIB), DiskSpec(4 * MIB))),
    VmSpec("bare", powered_on=False, nvram=False, disks=(DiskSpec(MIB),)),
    VmSpec("secret", powered_on=False, encrypted=True, disks=(DiskSpec(MIB),)),
)


@pytest.fixture(scope="module")
def shared():
    with Simulator(VMS) as simulator:
        yield simulator


@pytest.fixture
def sim(shared):
    yield shared
    shared.faults.clear()
    assert shared.leases() == []


@pytest.fixture
def service(sim):
    with logged_in(sim) as service:
        yield service


@pytest.fixture
def off(service):
    return find(service, "off")


@pytest.fixture
def lease(off):
    """A lease of the VM that is off, ready; aborted at the end if it still lives."""
    lease = off.ExportVm()
    ready(lease)
    yield lease
    with contextlib.suppress(vmodl.fault.ManagedObjectNotFound, vim.fault.Timedout, vim.fault.NotAuthenticated):
        lease.Abort()


def disk_urls(lease):
    return [each for each in lease.info.deviceUrl if each.disk]


def test_a_running_vm_is_not_exported(service):
    with pytest.raises(vim.fault.InvalidPowerState) as refused:
        find(service, "on").ExportVm()
    assert refused.value.existingState == "poweredOn"


def test_an_encrypted_vm_is_not_exported(service):
    with pytest.raises(vmodl.fault.NotSupported):
        find(service, "secret").ExportVm()


def test_the_device_urls_say_where_each_file_is(sim, off, lease):
    info = lease.info
    first, second, nvram = info.deviceUrl
    assert [each.targetId for each in info.deviceUrl] == ["disk-0.vmdk", "disk-1.vmdk", "off.nvram"]
    assert first.key == f"/{off._moId}/ParaVirtualSCSIController0:0"
    assert second.key == f"/{off._moId}/ParaVirtualSCSIController0:1"
    assert first.disk
    assert first.fileSize is None
    assert not nvram.disk
    assert nvram.fileSize == len(sim.vm("off").nvram)
    assert info.totalDiskCapacityInKB == 20 * 1024
    assert info.leaseTimeout == 300
    assert info.entity == off


def test_downloads_are_chunked_streams_without_a_length(lease):
    download = Download(disk_urls(lease)[0].url)
    assert download.response.getheader("Transfer-Encoding") == "chunked"
    assert download.response.getheader("Content-Length") is None
    assert download.read()[:4] == b"KDMV"


def test_a_range_is_ignored(lease):
    url = disk_urls(lease)[1].url
    download = Download(url, {"Range": "bytes=100-200"})
    assert download.response.status == 200
    assert download.read() == fetch(url)


def test_the_nvram_comes_as_it_is(sim, lease):
    assert fetch(lease.info.deviceUrl[2].url) == sim.vm("off").nvram


def test_hosts_have_certificates_of_their_own_pinned_in_the_url(sim, lease):
    url = lease.info.deviceUrl[0]
    parts = urlsplit(url.url)
    assert parts.port != sim.port
    context = ssl.create_default_context(cafile=str(sim.ca_file))
    with socket.create_connection((parts.hostname, parts.port)) as plain, pytest.raises(ssl.SSLCertVerificationError):
        context.wrap_socket(plain, server_hostname=parts.hostname)
    der = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((parts.hostname, parts.port)))
    assert hashlib.sha1(der).digest().hex(":").upper() == url.sslThumbprint


def test_the_manifest_lists_only_what_was_served_as_a_whole(sim, lease):
    lease.SetManifestChecksumType([vim.KeyValue(key=disk_urls(lease)[0].key, value="sha256")])
    assert lease.GetManifest() == []
    content = fetch(disk_urls(lease)[0].url)
    sim.faults.add(Fault(FaultKind.TRUNCATE, vm="off", disk=1, at_byte=1000))
    assert len(fetch(disk_urls(lease)[1].url)) == 1000
    (entry,) = lease.GetManifest()
    assert entry.key == disk_urls(lease)[0].key
    assert entry.size == len(content)
    assert entry.capacity == 16 * MIB
    assert 0 < entry.populatedSize < 16 * MIB
    assert entry.sha1 == hashlib.sha1(content).hexdigest()
    assert (entry.checksumType, entry.checksum) == ("sha256", hashlib.sha256(content).hexdigest())


def test_a_checksum_of_an_unknown_kind_or_device_is_refused(lease):
    for key, value in ((disk_urls(lease)[0].key, "crc"), ("/nothing", "sha256")):
        with pytest.raises(vmodl.fault.InvalidArgument):
            lease.SetManifestChecksumType([vim.KeyValue(key=key, value=value)])


def test_the_manifest_can_be_missing(sim, lease):
    fetch(disk_urls(lease)[1].url)
    while not lease.GetManifest():  # a host records a file after its last byte
        pass
    sim.faults.add(Fault(FaultKind.MANIFEST_MISSING))
    assert lease.GetManifest() == []
    assert len(lease.GetManifest()) == 1


def test_a_completed_lease_is_gone_and_its_urls_with_it(off, service):
    lease = off.ExportVm()
    url = ready(lease).deviceUrl[0].url
    task = off.recentTask[-1]
    assert task.info.state == "running"
    assert task.info.descriptionId == "VirtualMachine.exportVm"
    lease.Progress(50)
    lease.Complete()
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        lease.Progress(100)
    download = Download(url)
    assert download.response.status == 404
    download.close()
    finish(task)


def test_an_aborted_lease_ends_its_task_with_an_error(off):
    lease = off.ExportVm()
    ready(lease)
    task = off.recentTask[-1]
    lease.Abort()
    with pytest.raises(vmodl.fault.RequestCanceled):
        finish(task)
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        lease.Abort()


def test_a_lease_holds_its_vm(off, lease):
    for start in (
        off.PowerOnVM_Task,
        off.Destroy_Task,
        lambda: off.CreateSnapshot_Task("x", "", memory=False, quiesce=False),
        off.ConsolidateVMDisks_Task,
        lambda: off.ReconfigVM_Task(vim.vm.ConfigSpec(annotation="x")),
    ):
        with pytest.raises(vim.fault.TaskInProgress):
            finish(start())
    with pytest.raises(vim.fault.TaskInProgress) as refused:
        off.ExportVm()
    assert refused.value.task.info.descriptionId == "VirtualMachine.exportVm"
    assert refused.value.task in off.recentTask


def test_a_snapshot_has_several_leases_at_once_and_is_not_removed_meanwhile(sim, service):
    snapshot = take_snapshot(find(service, "on"))
    leases = [snapshot.ExportSnapshot() for _ in range(2)]
    for lease in leases:
        ready(lease)
    assert len(sim.leases()) == 2
    with pytest.raises(vim.fault.TaskInProgress):
        finish(snapshot.RemoveSnapshot_Task(removeChildren=False))
    for lease in leases:
        lease.Complete()
    finish(snapshot.RemoveSnapshot_Task(removeChildren=False))


def test_a_snapshot_export_is_of_the_frozen_content(sim, service):
    vm = find(service, "on")
    sim.vm("on").guest_write(0, 0, b"frozen")
    snapshot = take_snapshot(vm)
    sim.vm("on").guest_write(0, 0, b"living")
    lease = snapshot.ExportSnapshot()
    stream = fetch(ready(lease).deviceUrl[0].url)
    lease.Complete()
    finish(snapshot.RemoveSnapshot_Task(removeChildren=False))
    assert first_grain(stream)[:6] == b"frozen"


def first_grain(stream):
    """Inflate the first grain of a streamOptimized disk: its header is 12 bytes, after the disk's overhead."""
    start = int.from_bytes(stream[64:72], "little") * 512
    size = int.from_bytes(stream[start + 8 : start + 12], "little")
    return zlib.decompress(stream[start + 12 : start + 12 + size])


def test_a_lease_without_progress_times_out():
    with Simulator(VMS, lease_timeout=0.3) as sim, logged_in(sim) as service:
        vm = find(service, "off")
        lease = vm.ExportVm()
        url = ready(lease).deviceUrl[0].url
        deadline = time.monotonic() + 90
        while lease.state == "ready":
            assert time.monotonic() < deadline, "the lease does not end"
        assert isinstance(lease.error, vim.fault.Timedout)
        assert sim.leases() == []
        for call in (lambda: lease.Progress(1), lease.Complete, lease.Abort, lease.GetManifest):
            with pytest.raises(vim.fault.Timedout):
                call()
        assert Download(url).response.status == 404
        with pytest.raises(vim.fault.Timedout):
            finish(vm.recentTask[-1])
        finish(vm.PowerOnVM_Task())


def test_progress_keeps_a_lease_alive():
    with Simulator(VMS, lease_timeout=1.0) as sim, logged_in(sim) as service:
        lease = find(service, "off").ExportVm()
        ready(lease)
        ended = threading.Event()
        for _ in range(15):
            lease.Progress(0)
            ended.wait(0.1)
        assert lease.state == "ready"
        lease.Complete()


def test_progress_is_a_percentage(lease):
    with pytest.raises(vmodl.fault.InvalidArgument):
        lease.Progress(101)


def test_a_lease_can_end_in_an_error_instead_of_becoming_ready(sim, off):
    sim.faults.add(Fault(FaultKind.LEASE_ERROR, vm="off"))
    lease = off.ExportVm()
    with pytest.raises(vim.fault.FileFault):
        ready(lease)
    assert lease.info is None


def test_a_lease_can_be_slow_to_become_ready_and_be_aborted_before(sim, off):
    sim.faults.add(Fault(FaultKind.LEASE_SLOW, vm="off", delay=60))
    lease = off.ExportVm()
    assert lease.state == "initializing"
    with pytest.raises(vim.fault.InvalidState):
        lease.Progress(0)
    lease.Abort()


def test_a_download_can_be_cut(sim, lease):
    sim.faults.add(Fault(FaultKind.CUT, vm="off", disk=0, at_byte=100_000))
    download = Download(disk_urls(lease)[0].url)
    assert len(download.read_part(100_000)) == 100_000
    with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
        download.read()
    assert len(fetch(disk_urls(lease)[0].url)) > 100_000


def test_a_download_can_be_empty_and_look_like_success(sim, lease):
    sim.faults.add(Fault(FaultKind.EMPTY, vm="off", disk=1))
    url = disk_urls(lease)[1].url
    assert fetch(url) == b""
    assert lease.GetManifest() == []
    assert fetch(url) != b""


def test_one_bit_of_a_download_can_be_flipped(sim, lease):
    url = disk_urls(lease)[0].url
    good = fetch(url)
    sim.faults.add(Fault(FaultKind.CORRUPT, disk=0, at_byte=70_000))
    bad = fetch(url)
    assert len(bad) == len(good)
    assert [place for place, (a, b) in enumerate(zip(good, bad, strict=True)) if a != b] == [70_000]
    assert (good[70_000] ^ bad[70_000]).bit_count() == 1


def test_a_download_can_stall_and_go_on(sim, lease):
    url = disk_urls(lease)[0].url
    good = fetch(url)
    sim.faults.add(Fault(FaultKind.STALL, disk=0, at_byte=100_000, delay=0.2))
    assert fetch(url) == good
    assert [fault.kind for fault in sim.faults.fired] == [FaultKind.STALL]


def test_a_stalled_download_ends_with_its_lease(sim, off):
    lease = off.ExportVm()
    ready(lease)
    sim.faults.add(Fault(FaultKind.STALL, disk=0, at_byte=100_000))
    download = Download(disk_urls(lease)[0].url)
    assert len(download.read_part(100_000)) == 100_000
    lease.Abort()
    with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
        download.read()


def test_a_download_can_be_refused_with_a_status(sim, lease):
    sim.faults.add(Fault(FaultKind.HTTP_STATUS, status=503, disk=0))
    download = Download(disk_urls(lease)[0].url)
    assert download.response.status == 503
    download.close()
    assert fetch(disk_urls(lease)[0].url)


def test_the_lease_can_expire_in_the_middle_of_a_download(sim, off, lease):
    sim.faults.add(Fault(FaultKind.LEASE_EXPIRED, vm="off", disk=0, at_byte=50_000))
    with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
        fetch(disk_urls(lease)[0].url)
    with pytest.raises(vim.fault.Timedout):
        lease.Progress(1)


def test_the_session_can_expire_in_the_middle_of_a_download(sim, off, lease):
    sim.faults.add(Fault(FaultKind.SESSION_EXPIRED, vm="off", disk=0, at_byte=50_000))
    with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
        fetch(disk_urls(lease)[0].url)
    with pytest.raises(vim.fault.NotAuthenticated):
        lease.Progress(1)


def test_an_unknown_path_is_not_found(lease):
    url = disk_urls(lease)[0].url.replace("disk-0", "disk-9")
    download = Download(url)
    assert download.response.status == 404
    download.close()


def test_the_descriptor_is_made_from_the_files_that_the_client_has(sim, off, service):
    manager = service.content.ovfManager
    key = f"/{off._moId}/ParaVirtualSCSIController0"
    params = vim.OvfManager.CreateDescriptorParams(
        name="renamed",
        ovfFiles=[
            vim.OvfManager.OvfFile(deviceId=f"{key}:0", path="a.vmdk", size=111, populatedSize=5),
            vim.OvfManager.OvfFile(deviceId=f"/{off._moId}/nvram", path="a.nvram", size=222),
        ],
    )
    result = manager.CreateDescriptor(off, params)
    assert result.error == []
    assert [warning.device.deviceInfo.label for warning in result.warning] == ["Hard disk 2"]
    text = result.ovfDescriptor
    assert 'ovf:href="a.vmdk" ovf:id="file1" ovf:size="111"' in text
    assert 'ovf:href="a.nvram" ovf:id="file2" ovf:size="222"' in text
    assert 'vmw:key="nvram" vmw:value="ovf:/file/file2"' in text
    assert '<ovf:VirtualSystem ovf:id="renamed">' in text
    sim.faults.add(Fault(FaultKind.DESCRIPTOR_ERROR))
    failed = manager.CreateDescriptor(off, params)
    assert len(failed.error) == 1
    assert failed.ovfDescriptor == ""


def test_a_simulator_stops_at_once_with_a_download_at_work():
    sim = Simulator(VMS).start()
    with logged_in(sim) as service:
        lease = find(service, "off").ExportVm()
        ready(lease)
        sim.faults.add(Fault(FaultKind.STALL, disk=0, at_byte=100_000))
        download = Download(disk_urls(lease)[0].url)
        download.read_part(100_000)
        sim.stop()
        with pytest.raises((ConnectionError, http.client.IncompleteRead)):
            download.read()


def test_hosts_that_make_no_manifests_answer_an_empty_one():
    with Simulator(VMS, manifests=False) as sim, logged_in(sim) as service:
        lease = find(service, "bare").ExportVm()
        assert fetch(ready(lease).deviceUrl[0].url)
        assert lease.GetManifest() == []
        lease.Complete()


def test_a_port_that_is_taken_is_an_error_and_leaves_nothing_behind():
    before = set(threading.enumerate())
    with Simulator(VMS) as sim, pytest.raises(OSError, match="in use"):
        Simulator(VMS, port=sim.port).start()
    assert set(threading.enumerate()) == before
