"""What would fail tonight is found today: at vCenter, on its hosts, with the VMs, in the stores; nothing is changed."""

import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim

from hyperexport.base.stop import StopSignal
from hyperexport.cli.main import run
from hyperexport.model.vm import VmInfo
from hyperexport.options.precedence import ExportOptions
from hyperexport.options.selection import Selection
from hyperexport.results import Level, SetupFinding
from hyperexport.simulator import DiskSpec, Fault, FaultKind, Permission, Simulator, UserSpec, VmSpec
from hyperexport.steps.check import check_clock, check_store, check_vsphere
from hyperexport.store.local import LocalStore
from hyperexport.vsphere.session import Session
from tests.engine.conftest import endpoint_of

MIB = 1 << 20
NARROW = UserSpec("narrow", "a password", permissions=(Permission("/DC0/vm", frozenset({"VApp.Export"})),))
VMS = (
    VmSpec("on", disks=(DiskSpec(2 * MIB),), tags=("Backup:nightly",)),
    VmSpec("off", powered_on=False, disks=(DiskSpec(2 * MIB),)),
    VmSpec("raw", powered_on=False, disks=(DiskSpec(2 * MIB, backing="RawDiskMappingVer1"),)),
    VmSpec("mixed", disks=(DiskSpec(2 * MIB), DiskSpec(2 * MIB, mode="independent_persistent"))),
    VmSpec("toolless", tools="guestToolsNotRunning", disks=(DiskSpec(2 * MIB),)),
    VmSpec("untracked", change_tracking=False, disks=(DiskSpec(2 * MIB),)),
    VmSpec("tall", snapshots=tuple(f"s{number}" for number in range(31)), disks=(DiskSpec(2 * MIB),)),
    *(VmSpec(f"web-{number}", disks=(DiskSpec(2 * MIB),)) for number in range(8)),
)
CHANGES = {"CreateSnapshot_Task", "RemoveSnapshot_Task", "ReconfigVM_Task", "ExportSnapshot"}


@pytest.fixture(scope="module")
def server():
    with Simulator(VMS, users=(NARROW,)) as running:
        yield running
        assert not any(host["leases"] for host in running.most_at_once().values()), (
            "ExportVm is asked only of a VM that runs, which refuses it"
        )
    assert not CHANGES & set(running.requests), "a check changes nothing"


def tried(server: Simulator, *vms: str, user: UserSpec | None = None, **keys: Any) -> list[SetupFinding]:
    values: dict[str, Any] = {"snapshot": True, **keys}
    fields = {"username": user.name, "password": user.password} if user else {"password": server.password}
    endpoint = endpoint_of(server)
    endpoint = type(endpoint)(**{**endpoint.model_dump(), **fields})
    selection = Selection(vm=vms) if vms else Selection(match=("*",))
    findings, _ = check_vsphere(endpoint, selection, ExportOptions.from_keys(values), stop=StopSignal())
    return findings


def wrong(findings: list[SetupFinding], level: Level = Level.FAIL) -> list[str]:
    return [f"{finding.what}: {finding.words}" for finding in findings if finding.level is level]


def test_what_works_is_said_of_everything_that_was_tried(server):
    findings = tried(server, "on")
    assert [finding.what.split(" of ")[0] for finding in findings] == [
        "certificate",
        "login",
        "clock",
        "choice",
        "host esx-01",
        "privileges",
        "VMs",
        "datastores",
    ]
    assert {finding.level for finding in findings} == {Level.OK}


@pytest.mark.parametrize(
    ("vm", "keys", "level", "words"),
    [
        ("on", {"snapshot": False}, Level.FAIL, "running, and no snapshot was asked for"),
        ("raw", {}, Level.FAIL, "no disk can be exported"),
        ("mixed", {}, Level.WARN, "are left out"),
        ("toolless", {}, Level.WARN, "crash-consistent"),
        ("toolless", {"quiesce_required": True}, Level.FAIL, "cannot be quiesced"),
        ("untracked", {"incremental": True}, Level.WARN, "change tracking is off"),
        ("tall", {}, Level.FAIL, "chain of snapshots"),
    ],
)
def test_a_vm_that_would_not_be_exported_as_hoped_is_told(server, vm, keys, level, words):
    (finding,) = wrong(tried(server, vm, **keys), level)
    assert words in finding
    assert finding.startswith(f"VMs: /DC0/vm/{vm}")


def test_a_vm_that_needs_consolidation_is_told(server):
    server.vm("on").consolidation_needed = True
    try:
        (finding,) = wrong(tried(server, "on"), Level.WARN)
    finally:
        server.vm("on").consolidation_needed = False
    assert "need consolidation" in finding


def test_a_name_that_no_vm_bears_fails_and_the_others_are_looked_at(server):
    findings = tried(server, "on", "of")
    (finding,) = wrong(findings)
    assert "no VM named 'of'" in finding
    assert any(finding.what == "VMs" and finding.level is Level.OK for finding in findings)


def test_what_many_vms_have_alike_is_told_once(server):
    found = wrong(tried(server, snapshot=False))
    (running,) = [finding for finding in found if "no snapshot was asked for" in finding]
    assert running.count("/DC0/vm/") == 5
    assert "and 8 more" in running


def test_the_vms_of_a_tag_are_found(server):
    findings, vms = check_vsphere(
        endpoint_of(server), Selection(tag=("Backup:nightly",)), ExportOptions(), stop=StopSignal()
    )
    assert [vm.name for vm in vms] == ["on"]
    assert any(finding.what == "tags and choice" and finding.level is Level.OK for finding in findings)


def test_a_tag_that_nobody_made_fails(server):
    findings, vms = check_vsphere(
        endpoint_of(server), Selection(tag=("Backup:daily",)), ExportOptions(), stop=StopSignal()
    )
    (finding,) = wrong(findings)
    assert finding.startswith("tags and choice: ")
    assert vms == []


@pytest.mark.parametrize("vm", ["on", "off"])
def test_a_licence_that_makes_the_api_read_only_is_told(vm, monkeypatch):
    """The free licence is of a host by itself, which the simulator is not."""
    monkeypatch.setattr(Session, "is_vcenter", property(lambda _: False))
    restricted = [
        Fault(FaultKind.METHOD_FAULT, method=method, fault="RestrictedVersion", times=0)
        for method in ("CreateSnapshot_Task", "ExportVm", "ExportSnapshot")
    ]
    with Simulator(VMS[:2]) as host:
        assert not any("licence" in words for words in wrong(tried(host, vm)))
        assert host.leases() == []
        for fault in restricted:
            host.faults.add(fault)
        (finding,) = [finding for finding in tried(host, vm) if finding.what == "licence"]
        assert finding.level is Level.FAIL
        assert "RestrictedVersion" in finding.words
        assert "free ESXi" in (finding.fix or "")
        assert host.leases() == []


def test_without_a_vm_nothing_is_said_of_any(server):
    findings, _ = check_vsphere(endpoint_of(server), Selection(), ExportOptions(), stop=StopSignal())
    assert [finding.what for finding in findings][-1] == "choice"
    assert findings[-1].level is Level.WARN


# -- server and hosts --------------------------------------------------------------------------------------------------


def test_a_certificate_that_nobody_vouches_for_ends_the_questions(server):
    endpoint = endpoint_of(server).model_copy(update={"ca_file": None})
    findings, _ = check_vsphere(endpoint, Selection(vm=("on",)), ExportOptions(), stop=StopSignal())
    (finding,) = findings
    assert finding.level is Level.FAIL
    assert f"HYPEREXPORT_VSPHERE_THUMBPRINT={server.thumbprint}" in (finding.fix or "")


def test_a_ca_file_that_is_not_there_is_told(server):
    endpoint = endpoint_of(server).model_copy(update={"ca_file": "/nowhere/ca.pem"})
    findings, _ = check_vsphere(endpoint, Selection(vm=("on",)), ExportOptions(), stop=StopSignal())
    assert "/nowhere/ca.pem" in wrong(findings)[0]


def test_a_login_that_is_refused_is_told_without_the_password(server):
    findings = tried(server, "on", user=UserSpec(server.username, "wr0ng-passw0rd"))
    assert "refuses the login" in wrong(findings)[0]
    assert "wr0ng-passw0rd" not in str(findings)


def test_hosts_that_the_user_may_not_see_are_told_and_so_is_what_he_lacks(server):
    findings = tried(server, "on", user=NARROW)
    assert any("VirtualMachine.State.CreateSnapshot" in finding for finding in wrong(findings))
    assert any("may not see 1 of the hosts" in finding for finding in wrong(findings, Level.WARN))
    assert any("may fill" in finding for finding in wrong(findings, Level.WARN)), "nor the datastore's free space"


@pytest.fixture
def host(server):
    """The host of the VM ``on``, as it was afterwards."""
    chosen = server._vcenter.hosts[0]
    before = (chosen.netloc, chosen.thumbprint, chosen.runtime.connectionState)
    yield chosen
    chosen.netloc, chosen.thumbprint, chosen.runtime.connectionState = before


def test_a_host_that_cannot_be_reached_is_told(server, host):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host.netloc = f"127.0.0.1:{listener.getsockname()[1]}"
    (finding,) = wrong(tried(server, "on"))
    assert finding.startswith("host esx-01: ")
    assert "cannot be reached" in finding


def test_a_host_with_another_certificate_than_vcenter_knows_is_told(server, host):
    host.thumbprint = ":".join(["AB"] * 20)
    (finding,) = wrong(tried(server, "on"))
    assert finding.startswith("host esx-01: it is not trusted")


def test_a_host_of_which_vcenter_knows_no_certificate_needs_a_ca(server, host):
    host.thumbprint = ""
    (finding,) = wrong(tried(server, "on"))
    assert "it is signed by itself" in finding


def test_a_host_that_vcenter_has_lost_is_told(server, host):
    host.runtime.connectionState = vim.HostSystem.ConnectionState.notResponding
    (finding,) = wrong(tried(server, "on"))
    assert "vCenter has lost it" in finding


class Clock:
    """A session whose server's clock is so many seconds ahead."""

    address = "vcenter.example.com"

    def __init__(self, seconds: float) -> None:
        self._ahead = timedelta(seconds=seconds)

    def time(self) -> datetime:
        return datetime.now(UTC) + self._ahead


@pytest.mark.parametrize(
    ("ahead", "level", "words"),
    [(3, Level.OK, "within 60 s"), (600, Level.WARN, "ahead of"), (-600, Level.WARN, "behind")],
)
def test_clocks_that_differ_are_told(ahead, level, words):
    finding = check_clock(Clock(ahead))  # type: ignore[arg-type]
    assert finding.level is level
    assert words in finding.words


# -- stores ------------------------------------------------------------------------------------------------------------


class Small(LocalStore):
    """A local store with so much room."""

    free = 0

    def free_bytes(self) -> int:
        return self.free


@pytest.fixture
def vms(server) -> list[VmInfo]:
    return check_vsphere(endpoint_of(server), Selection(vm=("mixed",)), ExportOptions(), stop=StopSignal())[1]


def test_a_store_is_proved_by_a_probe_that_leaves_nothing(tmp_path: Path, vms):
    assert {finding.level for finding in check_store(LocalStore(tmp_path), vms)} == {Level.OK}
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_written_fails(tmp_path: Path, vms):
    (tmp_path / "file").write_text("in the way")
    (finding,) = check_store(LocalStore(tmp_path / "file" / "exports"), vms)
    assert finding.level is Level.FAIL


@pytest.mark.parametrize(("share", "level"), [(0.05, Level.FAIL), (0.5, Level.WARN), (2, Level.OK)])
def test_room_is_compared_with_what_the_disks_hold(tmp_path: Path, vms, share, level):
    store = Small(tmp_path)
    store.free = int(share * sum(disk.used or 0 for vm in vms for disk in vm.disks))
    assert check_store(store, vms)[-1].level is level


@pytest.mark.parametrize("vms", [("raw",), ("on", "raw"), ("on", "off", "raw")])
def test_the_command_exits_with_its_own_code_however_many_vms_are_named(server, monkeypatch, tmp_path, vms):
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    words = [word for vm in vms for word in ("--vm", vm)]
    assert run(["check", "--no-prefect", "--quiet", "--snapshot", "--output", str(tmp_path), *words]) == 1
