"""Leases are kept alive while they are held, and given back whatever happens."""

import hashlib
import threading
import time

import pytest
import urllib3

from hyperexport import errors
from hyperexport.base.stop import StopSignal
from hyperexport.simulator import DiskSpec, Fault, FaultKind, Simulator, VmSpec
from hyperexport.vsphere.inventory import describe, find_vm
from hyperexport.vsphere.lease import open_lease
from hyperexport.vsphere.session import connect
from hyperexport.vsphere.snapshots import create_snapshot, remove_snapshot
from tests.engine.conftest import endpoint_of

simulator_only = pytest.mark.parametrize("peer", ["simulated"], indirect=True)


@pytest.fixture
def snapshot(session, vm, owner):
    made = create_snapshot(
        session,
        vm,
        name="for a lease",
        owner=owner,
        quiesce=False,
        memory=False,
        quiesce_required=False,
        tools_running=False,
        powered_on=True,
    )
    return made.record.moref


def hold(session, vm, snapshot, **choice):
    return open_lease(session, vm, snapshot=snapshot, **{"stop": StopSignal(), **choice})


def download(file):
    how = (
        {"cert_reqs": "CERT_NONE", "assert_fingerprint": file.trust.thumbprint}
        if file.trust.thumbprint
        else {"ssl_context": file.trust.ssl_context()}
    )
    with urllib3.PoolManager(retries=False, **how) as pool:
        answer = pool.request("GET", file.url)
    assert answer.status == 200
    return answer.data


def test_a_lease_offers_every_disk_once_and_tells_which_it_is(session, vm, snapshot):
    with hold(session, vm, snapshot) as lease:
        offered = [file.disk_key for file in lease.files if file.disk]
    assert offered == [disk.key for disk in describe(session, vm).disks]


def test_what_it_offers_can_be_read_from_a_host_that_is_trusted_by_what_the_server_said(session, vm, snapshot):
    with hold(session, vm, snapshot) as lease:
        for file in lease.files:
            data = download(file)
            assert len(data) == (file.size or len(data)) > 0
            if file.disk:
                assert data.startswith((b"KDMV", b"# Disk DescriptorFile"))  # vcsim's dummy disks are text


@simulator_only
def test_the_server_tells_the_sha256_of_what_it_sent(session, vm, snapshot):
    with hold(session, vm, snapshot) as lease:
        assert lease.request_checksums("sha256")
        digests = {file.key: hashlib.sha256(download(file)).hexdigest() for file in lease.files}
        told = {key: (sum_.algorithm, sum_.digest) for key, sum_ in lease.checksums().items()}
    assert told
    for file in (file for file in lease.files if file.disk):
        assert told[file.key] == ("sha256", digests[file.key])


@pytest.mark.parametrize("peer", ["vmware"], indirect=True)
def test_a_server_that_knows_no_checksums_is_no_failure(session, vm, snapshot):
    with hold(session, vm, snapshot) as lease:
        assert lease.request_checksums("sha256") is False
        assert lease.checksums() == {}


def test_the_snapshot_can_be_removed_after_the_lease(session, vm, snapshot):
    with hold(session, vm, snapshot):
        pass
    remove_snapshot(session, vm, snapshot, timeout=0)
    assert describe(session, vm).snapshots == ()


@simulator_only
@pytest.mark.parametrize("leave", [None, ValueError, KeyboardInterrupt, SystemExit])
def test_the_lease_is_given_back_however_the_block_ends(simulated, session, vm, snapshot, leave):
    before = dict(simulated.server.requests)
    try:
        with hold(session, vm, snapshot):
            assert len(simulated.server.leases()) == 1
            if leave:
                raise leave
    except (ValueError, KeyboardInterrupt, SystemExit):
        pass
    assert simulated.server.leases() == []
    method = "HttpNfcLeaseAbort" if leave else "HttpNfcLeaseComplete"
    assert simulated.server.requests[method] == before.get(method, 0) + 1


@simulator_only
def test_the_lease_is_given_back_even_after_the_run_was_stopped(simulated, session, vm, snapshot):
    stop = StopSignal()

    def work():
        with hold(session, vm, snapshot, stop=stop):
            stop.set()
            stop.check()

    with pytest.raises(errors.Interrupted):
        work()
    assert simulated.server.leases() == []


@simulator_only
def test_a_running_vm_is_exported_only_from_a_snapshot(session, vm):
    with pytest.raises(errors.VmPoweredOn, match=vm.name), hold(session, vm, None):
        pass


@simulator_only
def test_a_vm_that_is_off_is_exported_as_it_is(simulated, session, vm):
    simulated.server.vm(vm.name).power_off()
    with hold(session, vm, None) as lease:
        assert [file.disk_key for file in lease.files if file.disk] == [2000, 2001]


@simulator_only
def test_one_lease_for_each_disk_can_be_held_at_once(simulated, session, vm, snapshot):
    with hold(session, vm, snapshot) as first, hold(session, vm, snapshot) as second:
        assert len(simulated.server.leases()) == 2
        assert {file.url for file in first.files}.isdisjoint(file.url for file in second.files)


@simulator_only
class TestFaults:
    def test_a_lease_that_ends_in_an_error_says_why(self, simulated, session, vm, snapshot, faults):
        faults.add(Fault(FaultKind.LEASE_ERROR, vm=vm.name))
        with pytest.raises(errors.LeaseFailed, match="locked"), hold(session, vm, snapshot):
            pass
        assert simulated.server.leases() == []

    def test_a_lease_that_does_not_become_ready_is_given_up(self, simulated, session, vm, snapshot, faults):
        faults.add(Fault(FaultKind.LEASE_SLOW, vm=vm.name, delay=60))
        with pytest.raises(errors.LeaseFailed, match="initializing"), hold(session, vm, snapshot, ready_timeout=0):
            pass
        assert simulated.server.leases() == []

    def test_waiting_for_a_lease_can_be_stopped(self, simulated, session, vm, snapshot, faults):
        faults.add(Fault(FaultKind.LEASE_SLOW, vm=vm.name, delay=60))
        stop = StopSignal()
        timer = threading.Timer(0.2, stop.set)
        timer.start()
        with pytest.raises(errors.Interrupted), hold(session, vm, snapshot, stop=stop):
            pass
        timer.join()
        assert simulated.server.leases() == []

    def test_a_login_that_ends_while_a_lease_is_waited_for_may_be_tried_again(
        self, simulated, session, vm, snapshot, faults
    ):
        faults.add(Fault(FaultKind.LEASE_SLOW, vm=vm.name, delay=60))
        with connect(session.endpoint) as observer:

            def end_the_login() -> None:
                while not simulated.server.leases():
                    time.sleep(0.01)
                observer.content.sessionManager.TerminateSession([session.key])

            thread = threading.Thread(target=end_the_login)
            thread.start()
            with pytest.raises(errors.LeaseExpired, match="before it was ready"), hold(session, vm, snapshot):
                pass
            thread.join()
        assert simulated.server.leases() == []

    def test_a_vm_that_another_task_holds_is_waited_for(self, session, vm, snapshot, faults):
        faults.add(Fault(FaultKind.TASK_IN_PROGRESS, vm=vm.name, method="ExportSnapshot", times=2))
        with hold(session, vm, snapshot) as lease:
            assert lease.files

    def test_waiting_for_another_task_can_be_stopped(self, simulated, session, vm, snapshot, faults):
        faults.add(Fault(FaultKind.TASK_IN_PROGRESS, vm=vm.name, method="ExportSnapshot", times=0))
        stop = StopSignal()
        timer = threading.Timer(0.2, stop.set)
        timer.start()
        with pytest.raises(errors.Interrupted), hold(session, vm, snapshot, stop=stop):
            pass
        timer.join()
        assert simulated.server.leases() == []

    @pytest.mark.parametrize("fault", ["RestrictedVersion", "NotSupported", "MethodNotFound", "FileNotFound"])
    def test_a_refusal_that_lasts_is_not_transient(self, session, vm, snapshot, faults, fault):
        faults.add(Fault(FaultKind.METHOD_FAULT, method="ExportSnapshot", fault=fault))
        with pytest.raises(errors.LeaseRefused, match=fault) as caught, hold(session, vm, snapshot):
            pass
        assert not caught.value.transient

    def test_a_missing_privilege_is_named(self, session, vm, snapshot, faults):
        faults.add(
            Fault(FaultKind.METHOD_FAULT, method="ExportSnapshot", fault="NoPermission", privilege="VApp.Export")
        )
        with pytest.raises(errors.PermissionMissing, match=r"VApp\.Export"), hold(session, vm, snapshot):
            pass

    def test_a_manifest_that_is_empty_is_no_failure(self, session, vm, snapshot, faults):
        faults.add(Fault(FaultKind.MANIFEST_MISSING))
        with hold(session, vm, snapshot) as lease:
            assert lease.checksums() == {}


@pytest.fixture(scope="module")
def impatient():
    """A vCenter that ends a lease after one second without a sign of life."""
    with Simulator((VmSpec("off", powered_on=False, disks=(DiskSpec(1 << 20),)),), lease_timeout=1.0) as server:
        yield server


@pytest.fixture
def off(impatient):
    with connect(endpoint_of(impatient)) as session:
        yield session, find_vm(session, "off")


def test_a_lease_outlives_its_timeout_while_it_is_held(impatient, off):
    session, vm = off
    with hold(session, vm, None) as lease:
        lease.progress(41.9)
        signs = impatient.requests.get("HttpNfcLeaseProgress", 0)
        while impatient.requests.get("HttpNfcLeaseProgress", 0) < signs + 8:  # four in each second: twice its timeout
            threading.Event().wait(0.05)
        lease.check()
        assert [held.transferProgress for held in impatient.leases()] == [41]
    assert impatient.leases() == []


def test_readers_are_woken_when_the_lease_ends_under_them(impatient, off):
    session, vm = off
    woken, too_late = threading.Event(), threading.Event()
    with hold(session, vm, None) as lease:
        lease.on_lost(woken.set)
        taken_back = lease.on_lost(lambda: pytest.fail("it was taken back"))
        taken_back()
        impatient.faults.add(Fault(FaultKind.METHOD_FAULT, method="HttpNfcLeaseProgress", fault="InvalidState"))
        assert woken.wait(90)
        lease.on_lost(too_late.set)
        assert too_late.is_set()
        with pytest.raises(errors.LeaseExpired, match="off"):
            lease.check()
    assert impatient.leases() == []


def test_a_lease_whose_session_ended_is_lost(impatient, off):
    session, vm = off
    woken = threading.Event()
    with hold(session, vm, None) as lease:
        lease.on_lost(woken.set)
        impatient.faults.add(Fault(FaultKind.SESSION_EXPIRED))
        assert woken.wait(90)
        with pytest.raises(errors.LeaseExpired):
            lease.check()


def test_a_lease_that_is_asked_tells_its_end_before_the_next_sign_of_life():
    with (
        Simulator((VmSpec("off", powered_on=False),)) as server,
        connect(endpoint_of(server)) as session,
        hold(session, find_vm(session, "off"), None) as lease,
    ):
        lease.confirm()
        server.faults.add(Fault(FaultKind.METHOD_FAULT, method="HttpNfcLeaseProgress", fault="InvalidState"))
        with pytest.raises(errors.LeaseExpired, match="off"):
            lease.confirm()
        server.faults.add(Fault(FaultKind.METHOD_FAULT, method="HttpNfcLeaseProgress", fault="RuntimeFault"))
        lease.confirm()
