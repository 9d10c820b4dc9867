"""Who may do what at the simulator: logins, sessions that end, privileges."""

import hashlib
import http.client
import socket
import ssl
import time

import pytest
from pyVim.connect import SmartConnect
from pyVmomi import vim, vmodl

from hyperexport.simulator import Fault, FaultKind, Simulator, UserSpec
from tests.engine.simulator_client import PC, find, finish, logged_in, ready, take_snapshot

READER = UserSpec("reader@vsphere.local", "reading", frozenset())
BACKUP = UserSpec("backup@vsphere.local", "backing-up", frozenset({"VirtualMachine.State.CreateSnapshot"}))


@pytest.fixture(scope="module")
def sim():
    with Simulator(users=(READER, BACKUP)) as simulator:
        yield simulator
        assert simulator.sessions() == []


@pytest.fixture
def service(sim):
    with logged_in(sim) as service:
        yield service
    sim.faults.clear()


def test_a_login_makes_a_session_and_a_logout_ends_it(sim):
    before = len(sim.sessions())
    with logged_in(sim) as service:
        session = service.content.sessionManager.currentSession
        assert session.userName == sim.username
        assert len(sim.sessions()) == before + 1
        assert service.content.sessionManager.SessionIsActive(session.key, session.userName)
    assert len(sim.sessions()) == before


def test_a_wrong_password_is_an_invalid_login(sim):
    with pytest.raises(vim.fault.InvalidLogin), logged_in(sim, password="wrong"):
        pass


def test_a_call_without_a_session_is_not_authenticated(sim):
    context = ssl.create_default_context(cafile=str(sim.ca_file))
    with logged_in(sim) as service:
        folder = service.content.rootFolder
        stub = type(service._stub)(host=sim.host, port=sim.port, sslContext=context, version=service._stub.version)
        with pytest.raises(vim.fault.NotAuthenticated) as refused:
            _ = type(folder)(folder._moId, stub).name
        assert refused.value.privilegeId == "System.Read"
        with pytest.raises(vim.fault.NotAuthenticated):
            vim.ServiceInstance("ServiceInstance", stub).CurrentTime()
        assert vim.ServiceInstance("ServiceInstance", stub).RetrieveContent().about.apiVersion == "8.0.3.0"
        stub.DropConnections()


def test_an_idle_session_ends_and_its_next_call_is_not_authenticated():
    with Simulator(session_timeout=0.05) as sim, logged_in(sim) as service:
        manager = service.content.sessionManager
        deadline = time.monotonic() + 90
        while sim.sessions():
            assert time.monotonic() < deadline, "the session does not end"
            time.sleep(0.01)
        with pytest.raises(vim.fault.NotAuthenticated):
            _ = manager.sessionList


def test_an_expired_session_takes_its_leases_with_it(sim, service):
    lease = find(service, "build01").ExportVm()
    ready(lease)
    assert len(sim.leases()) == 1
    sim.faults.add(Fault(FaultKind.SESSION_EXPIRED))
    assert sim.leases() == []
    assert sim.faults.fired[0].kind is FaultKind.SESSION_EXPIRED
    with pytest.raises(vim.fault.NotAuthenticated):
        lease.Progress(1)


def test_a_session_can_be_made_to_end_at_a_call(sim, service):
    sim.faults.add(Fault(FaultKind.SESSION_EXPIRED, method="CurrentTime"))
    with pytest.raises(vim.fault.NotAuthenticated):
        service.CurrentTime()
    assert sim.sessions() == []


def test_a_missing_privilege_is_named_with_its_object(sim):
    with logged_in(sim, BACKUP.name, BACKUP.password) as service:
        vm = find(service, "web01")
        snapshot = take_snapshot(vm)
        with pytest.raises(vim.fault.NoPermission) as refused:
            snapshot.ExportSnapshot()
        assert refused.value.privilegeId == "VApp.Export"
        assert refused.value.object._moId == snapshot._moId
        with pytest.raises(vim.fault.NoPermission) as refused:
            snapshot.RemoveSnapshot_Task(removeChildren=False)
        assert refused.value.privilegeId == "VirtualMachine.State.RemoveSnapshot"
    with logged_in(sim) as service:
        finish(find(service, "web01").RemoveAllSnapshots_Task())


def test_a_reader_reads_and_changes_nothing(sim):
    with logged_in(sim, READER.name, READER.password) as service:
        vm = find(service, "web01")
        assert vm.config.hardware.numCPU == 2
        spec = vim.vm.ConfigSpec(changeTrackingEnabled=False)
        for call in (
            lambda: vm.CreateSnapshot_Task("x", "", memory=False, quiesce=False),
            lambda: vm.ReconfigVM_Task(spec),
            vm.PowerOff,
            vm.ExportVm,
        ):
            with pytest.raises(vim.fault.NoPermission):
                call()
    assert sim.vm("web01").snapshots() == []


def test_privileges_can_be_asked_for_beforehand(sim):
    with logged_in(sim, BACKUP.name, BACKUP.password) as service:
        content = service.RetrieveContent()
        manager, key = content.authorizationManager, content.sessionManager.currentSession.key
        vm = find(service, "web01")
        asked = ["VirtualMachine.State.CreateSnapshot", "VApp.Export", "System.Read"]
        assert list(manager.HasPrivilegeOnEntity(vm, key, asked)) == [True, False, True]
        by_entity = manager.HasPrivilegeOnEntities([vm], key, asked)
        assert [each.isGranted for each in by_entity[0].privAvailability] == [True, False, True]
        granted = manager.FetchUserPrivilegeOnEntities([vm], BACKUP.name)[0].privileges
        assert "VApp.Export" not in granted
        assert set(asked) <= {each.privId for each in manager.privilegeList}


def test_an_unknown_privilege_is_an_invalid_argument(sim, service):
    content = service.RetrieveContent()
    key = content.sessionManager.currentSession.key
    with pytest.raises(vmodl.fault.InvalidArgument):
        content.authorizationManager.HasPrivilegeOnEntity(content.rootFolder, key, ["No.SuchPrivilege"])


def test_a_fault_can_be_made_of_any_call(sim, service):
    fault = Fault(FaultKind.METHOD_FAULT, method="CurrentTime", fault="NoPermission", privilege="A.B", times=2)
    sim.faults.add(fault)
    for _ in range(2):
        with pytest.raises(vim.fault.NoPermission) as raised:
            service.CurrentTime()
        assert raised.value.privilegeId == "A.B"
    assert service.CurrentTime() is not None


def test_a_call_can_be_answered_with_an_http_status(sim, service):
    sim.faults.add(Fault(FaultKind.HTTP_STATUS, method="CurrentTime", status=503))
    with pytest.raises(Exception, match="503"):
        service.CurrentTime()


def test_what_cannot_be_read_of_one_object_is_in_its_missing_set(sim, service):
    sim.faults.add(Fault(FaultKind.METHOD_FAULT, vm="db01", method="config", fault="NoPermission"))
    spec = PC.FilterSpec(
        objectSet=[PC.ObjectSpec(obj=find(service, name)) for name in ("web01", "db01")],
        propSet=[PC.PropertySpec(type=vim.VirtualMachine, pathSet=["name", "config"])],
    )
    sim.faults.clear()
    sim.faults.add(Fault(FaultKind.METHOD_FAULT, vm="db01", method="config", fault="NoPermission"))
    web, db = service.content.propertyCollector.RetrieveContents([spec])
    assert not web.missingSet
    assert [each.path for each in db.missingSet] == ["config"]
    assert isinstance(db.missingSet[0].fault, vim.fault.NoPermission)
    assert [each.name for each in db.propSet] == ["name"]


def test_the_certificate_is_vouched_for_by_the_ca_only(sim):
    with pytest.raises(ssl.SSLCertVerificationError):
        SmartConnect(host=sim.host, port=sim.port, user="x", pwd="y", sslContext=ssl.create_default_context())
    context = ssl.create_default_context(cafile=str(sim.ca_file))
    with (
        socket.create_connection((sim.host, sim.port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        der = tls.getpeercert(binary_form=True)
        assert hashlib.sha256(der).digest().hex(":").upper() == sim.thumbprint


def test_calls_can_be_made_slow(sim, service):
    sim.faults.add(Fault(FaultKind.LATENCY, method="CurrentTime", delay=0.2, times=0))
    began = time.monotonic()
    for _ in range(2):
        service.CurrentTime()
    assert time.monotonic() - began >= 0.4
    assert [fault.kind for fault in sim.faults.fired] == [FaultKind.LATENCY]


@pytest.mark.parametrize(
    "wrong", [{"kind": FaultKind.HTTP_STATUS}, {"kind": FaultKind.METHOD_FAULT, "method": "CurrentTime"}]
)
def test_a_fault_that_lacks_what_it_needs_is_refused(wrong):
    with pytest.raises(ValueError, match="needs"):
        Fault(**wrong)


@pytest.mark.parametrize("body", [b"no xml", b"<a/>", b"<a><b></a>"])
def test_what_is_no_soap_is_an_invalid_request(sim, body):
    context = ssl.create_default_context(cafile=str(sim.ca_file))
    connection = http.client.HTTPSConnection(sim.host, sim.port, context=context, timeout=20)
    connection.request("POST", "/sdk", body=body, headers={"SOAPAction": "urn:vim25/8.0.3.0"})
    response = connection.getresponse()
    assert response.status == 500
    assert b"InvalidRequest" in response.read()
    connection.close()
