"""Exports that come back into vSphere: every byte, every setting, in the place that was asked for; and no other VM."""

import hashlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
from pyVmomi import vim

import hyperexport
from hyperexport import errors
from hyperexport.base.stop import StopSignal
from hyperexport.jobs.direct import DirectRunner
from hyperexport.jobs.reap import reap_snapshots
from hyperexport.model.manifest import sealed
from hyperexport.model.restore import RestoreResult
from hyperexport.model.vm import VmRef
from hyperexport.options.precedence import resolve
from hyperexport.simulator import DatastoreSpec, DiskSpec, Fault, FaultKind, Simulator, UserSpec, VmSpec
from hyperexport.steps.check_restore import check_restore
from hyperexport.store.local import LocalStore
from hyperexport.vsphere import partial_vms, questions
from hyperexport.vsphere.endpoint import VSphereEndpoint
from hyperexport.vsphere.inventory import describe_many, find_vm
from hyperexport.vsphere.names import escape
from hyperexport.vsphere.restore_privileges import RestoreNeeds
from hyperexport.vsphere.session import connect
from hyperexport.vsphere.tags import tags_of
from tests.engine.s3_servers import S3Server
from tests.engine.simulator_client import find, finish, logged_in

MIB = 1 << 20

DB01 = VmSpec(
    "db01",
    folder="production",
    powered_on=False,
    disks=(DiskSpec(4 * MIB), DiskSpec(2 * MIB, controller="sata", mode="independent_persistent", thin=False)),
    pool="web",
    networks=("VM Network", "Backup"),
    macs=("00:50:56:00:00:01", "00:50:56:00:00:02"),
    secure_boot=True,
    boot_order=(1, "nic1", 0),
    boot_delay=1500,
    annotation="ask the database team\nsecond line",
    tags=("tier:gold", "backup:daily"),
    custom_attributes=(("owner", "ada"), ("cost center", "42")),
    extra_config=(("disk.EnableUUID", "TRUE"), ("migrate.hostlog", "x"), ("guestinfo.password", "hunter2")),
    cpu_reservation=500,
    memory_reservation=256,
    cores_per_socket=2,
)
VMS = (DB01, VmSpec("other", folder="production", disks=(DiskSpec(2 * MIB),)))
INTO_PRODUCTION = {"host": "esx-01"}


@pytest.fixture(scope="module")
def shared() -> Generator[Simulator]:
    with Simulator(
        VMS,
        datastores=(DatastoreSpec("datastore1"), DatastoreSpec("tiny", MIB)),
        networks=("VM Network", "Backup", "Isolated"),
        pools=("web", "drills"),
        folders=("restored/linux",),
        boot_seconds=0.0,
    ) as simulator:
        yield simulator


@pytest.fixture
def sim(shared: Simulator, monkeypatch: pytest.MonkeyPatch) -> Generator[Simulator]:
    """The simulated vCenter, named by the environment; the VMs that a test makes are gone after it."""
    for name, value in shared.environment().items():
        monkeypatch.setenv(name, value)
    before = look(shared)
    yield shared
    shared.faults.clear()
    assert shared.leases() == []
    with logged_in(shared) as service:
        for vm in shared.vms():
            if vm.name not in {spec.name for spec in VMS}:
                found = find(service, escape(vm.name))
                if found.runtime.powerState == "poweredOn":
                    finish(found.PowerOffVM_Task())
                finish(found.Destroy_Task())
    assert shared.detached_disks() == []
    assert look(shared) == before, "a VM that was there before was touched"


@pytest.fixture(scope="module")
def exports(shared: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one export of db01."""
    folder = tmp_path_factory.mktemp("exports")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in shared.environment().items():
            patch.setenv(name, value)
        hyperexport.export("db01", output=folder)
    return folder


@pytest.fixture
def restore(sim: Simulator, exports: Path) -> Callable[..., RestoreResult]:
    """Restores db01's newest export, under another name unless the test gives one."""

    def run(**given: Any) -> RestoreResult:
        named = {"name": "copy"} if not given.keys() & {"name", "attach_to"} else {}
        return hyperexport.restore(**{"vm": "db01", "output": exports, **named, **given})

    return run


def look(sim: Simulator) -> list[Any]:
    """What could be noticed of the VMs that were there before."""
    return [(vm.name, vm.path, disks_of(sim, vm.name)) for vm in sim.vms() if vm.name in {spec.name for spec in VMS}]


def disks_of(sim: Simulator, name: str) -> list[str]:
    """A digest of what the guest has on each of its disks."""
    vm = sim.vm(name)
    sizes = vm.state()["disks"]
    return [hashlib.sha256(vm.read_disk(number, 0, size)).hexdigest() for number, size in enumerate(sizes)]


def config_of(sim: Simulator, name: str) -> Any:
    with logged_in(sim) as service:
        return find(service, name).config


def nothing_is_left(sim: Simulator) -> bool:
    return [vm.name for vm in sim.vms()] == [spec.name for spec in VMS] and sim.detached_disks() == []


# -- bytes -------------------------------------------------------------------------------------------------------------


@pytest.mark.sample("folder-ovf", "s3-ova")
@pytest.mark.parametrize("package", ["ovf", "ova"])
@pytest.mark.parametrize("place", ["folder", "s3"])
def test_the_restored_disks_are_the_guests_at_the_export_full_and_incremental(
    place: str, package: str, sim: Simulator, tmp_path: Path, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    where: dict[str, Any] = {"output": tmp_path}
    if place == "s3":
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.secret_key)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(server.ca_file))
        bucket = server.make_bucket(f"restore-{package}")
        where = {"output": tmp_path, "upload": f"s3://{bucket}/x", "s3_endpoint": server.endpoint_url}
    before, then = sim.vm("other").read_disk(0, MIB, 50_000), disks_of(sim, "other")
    full = hyperexport.export("other", snapshot=True, format=package, **where)
    sim.vm("other").guest_write(0, MIB, b"later" * 10_000)
    later = disks_of(sim, "other")
    newer = hyperexport.export("other", snapshot=True, format=package, incremental=True, **where)
    where |= {"keep_local": place == "folder"}  # an OVA cannot be streamed to S3 alone
    try:
        assert full.manifest
        assert newer.manifest
        for number, (export, wanted) in enumerate(((full.manifest.export_id, then), (newer.manifest.export_id, later))):
            hyperexport.restore(export, name=f"copy-{number}", resource_pool="DC0_C0", **where)
            assert disks_of(sim, f"copy-{number}") == wanted
    finally:
        sim.vm("other").guest_write(0, MIB, before)
        with logged_in(sim) as service:
            assert find(service, "other").snapshot is None


def test_the_nvram_comes_back_and_the_servers_checksums_were_compared(
    sim: Simulator, restore: Callable[..., RestoreResult]
) -> None:
    result = restore()
    assert sim.vm("copy").nvram == sim.vm("db01").nvram
    assert disks_of(sim, "copy") == disks_of(sim, "db01")
    assert result.verified is True
    assert result.uploaded == result.plan.upload_bytes
    assert result.vm
    assert (result.vm.name, result.vm.path) == ("copy", "/DC0/vm/production/copy")


# -- settings ----------------------------------------------------------------------------------------------------------


def disk(config: Any, number: int) -> Any:
    return [each for each in config.hardware.device if isinstance(each, vim.vm.device.VirtualDisk)][number]


def nic(config: Any, number: int) -> Any:
    return [each for each in config.hardware.device if isinstance(each, vim.vm.device.VirtualEthernetCard)][number]


def extra(config: Any) -> dict[str, str]:
    return {option.key: option.value for option in config.extraConfig}


SETTINGS: dict[str, Callable[[Any], Any]] = {
    "firmware": lambda config: config.firmware,
    "Secure Boot": lambda config: config.bootOptions.efiSecureBootEnabled,
    "boot delay": lambda config: config.bootOptions.bootDelay,
    "boot order": lambda config: [each.deviceKey for each in config.bootOptions.bootOrder],
    "notes": lambda config: config.annotation,
    "CPUs": lambda config: (config.hardware.numCPU, config.hardware.numCoresPerSocket),
    "memory": lambda config: config.hardware.memoryMB,
    "guest": lambda config: config.guestId,
    "hardware version": lambda config: config.version,
    "CPU reservation": lambda config: config.cpuAllocation.reservation,
    "memory reservation": lambda config: config.memoryAllocation.reservation,
    "change tracking": lambda config: config.changeTrackingEnabled,
    "flags": lambda config: config.flags.diskUuidEnabled,
    "power operations": lambda config: config.defaultPowerOps.standbyAction,
    "extra configuration": lambda config: extra(config).get("disk.EnableUUID"),
    "disk modes": lambda config: [disk(config, number).backing.diskMode for number in (0, 1)],
    "provisioning": lambda config: [disk(config, number).backing.thinProvisioned for number in (0, 1)],
    "controllers": lambda config: [(disk(config, n).controllerKey, disk(config, n).unitNumber) for n in (0, 1)],
    "adapters": lambda config: [type(nic(config, number)) for number in (0, 1)],
    "networks": lambda config: [nic(config, number).backing.deviceName for number in (0, 1)],
}
KEPT_WITH_THE_IDENTITY: dict[str, Callable[[Any], Any]] = {
    "BIOS UUID": lambda config: config.uuid,
    "MAC addresses": lambda config: [nic(config, number).macAddress for number in (0, 1)],
}


def test_every_setting_comes_back(sim: Simulator, restore: Callable[..., RestoreResult]) -> None:
    restore(identity="keep")
    was, now = config_of(sim, "db01"), config_of(sim, "copy")
    settings = SETTINGS | KEPT_WITH_THE_IDENTITY
    assert {name: value(now) for name, value in settings.items()} == {
        name: value(was) for name, value in settings.items()
    }
    assert sim.vm("copy").conflicts().keys() == {"uuid", *KEPT_WITH_THE_IDENTITY["MAC addresses"](was)}


def test_what_does_not_come_back_is_listed_with_the_reason(
    sim: Simulator, restore: Callable[..., RestoreResult]
) -> None:
    result = restore()
    lost = {each.setting: each.reason for each in result.plan.lost}
    assert lost.keys() == {
        "MAC addresses, BIOS UUID, instance UUID",
        "guestinfo.password",
        "storage policy, DRS groups and rules, permissions",
    }
    assert all(lost.values())
    assert "migrate.hostlog" not in extra(config_of(sim, "copy"))
    assert "hunter2" not in str(extra(config_of(sim, "copy")))


def test_tags_custom_attributes_and_the_place_come_back(sim: Simulator, restore: Callable[..., RestoreResult]) -> None:
    result = restore()
    assert result.warnings == ()
    with logged_in(sim) as service:
        vm = find(service, "copy")
        names = {field.key: field.name for field in service.content.customFieldsManager.field}
        assert {names[each.key]: each.value for each in vm.customValue} == {"owner": "ada", "cost center": "42"}
        assert (vm.parent.name, vm.resourcePool.name) == ("production", "web")
    with connect(VSphereEndpoint.from_environment()) as session:
        assert result.vm
        assert tags_of(session, result.vm.moref) == ("backup:daily", "tier:gold")


def test_the_owner_tag_is_on_the_vm_from_its_first_moment_and_gone_at_the_end(
    sim: Simulator, restore: Callable[..., RestoreResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hyperexport.steps import restoring

    seen: list[str] = []
    upload = restoring.open_upload

    def watch(*args: Any, **kwargs: Any) -> Any:
        seen.append(config_of(sim, "copy").annotation)
        return upload(*args, **kwargs)

    monkeypatch.setattr(restoring, "open_upload", watch)
    restore()
    assert len(seen) == 3
    assert all("[hyperexport {" in words for words in seen)
    assert config_of(sim, "copy").annotation == DB01.annotation


# -- what is asked for -------------------------------------------------------------------------------------------------


def test_a_dry_run_tells_the_place_the_space_and_the_networks_and_makes_nothing(
    sim: Simulator, restore: Callable[..., RestoreResult]
) -> None:
    result = restore(dry_run=True)
    plan = result.plan
    assert nothing_is_left(sim)
    assert (plan.path, plan.datastore, plan.host) == ("/DC0/vm/production/copy", "datastore1", "esx-01")
    assert plan.resource_pool == "/DC0/host/DC0_C0/Resources/web"
    assert plan.networks == (("VM Network", "VM Network"), ("Backup", "Backup"))
    assert plan.space_free
    assert plan.space_needed >= 2 * MIB
    assert result.vm is None


def test_the_vm_goes_where_it_is_asked_for(sim: Simulator, restore: Callable[..., RestoreResult]) -> None:
    result = restore(
        folder="/DC0/vm/restored/linux",
        resource_pool="drills",
        networks=["VM Network=Isolated", "Backup=Isolated"],
        disk_provisioning="eager",
        power_on=True,
    )
    config = config_of(sim, "copy")
    assert sim.vm("copy").path == "/DC0/vm/restored/linux/copy"
    assert [nic(config, number).backing.deviceName for number in (0, 1)] == ["Isolated", "Isolated"]
    assert [disk(config, number).backing.eagerlyScrub for number in (0, 1)] == [True, True]
    assert result.powered_on
    with logged_in(sim) as service:
        vm = find(service, "copy")
        assert (vm.resourcePool.name, vm.runtime.powerState) == ("drills", "poweredOn")


def test_network_none_leaves_every_adapter_disconnected(sim: Simulator, restore: Callable[..., RestoreResult]) -> None:
    restore(networks=["none"])
    config = config_of(sim, "copy")
    states = [(nic(config, n).connectable.startConnected, nic(config, n).connectable.connected) for n in (0, 1)]
    assert states == [(False, False), (False, False)]


def test_the_identity_is_new_while_the_original_is_there_and_kept_once_it_is_gone(tmp_path: Path) -> None:
    spec = VmSpec("db01", powered_on=False, disks=(DiskSpec(2 * MIB),))
    with Simulator((spec,)) as sim, pytest.MonkeyPatch.context() as patch:
        for name, value in sim.environment().items():
            patch.setenv(name, value)
        hyperexport.export("db01", output=tmp_path)
        was = config_of(sim, "db01")
        beside = hyperexport.restore(vm="db01", output=tmp_path, name="copy")
        assert beside.plan.identity == "new"
        assert sim.vm("copy").conflicts() == {}
        with logged_in(sim) as service:
            for name in ("copy", "db01"):
                finish(find(service, name).Destroy_Task())
        assert hyperexport.restore(vm="db01", output=tmp_path).plan.identity == "keep"
        now = config_of(sim, "db01")
        for read in (*KEPT_WITH_THE_IDENTITY.values(), lambda config: config.instanceUuid):
            if read is not KEPT_WITH_THE_IDENTITY["MAC addresses"]:
                assert read(now) == read(was)
        assert nic(now, 0).macAddress == nic(was, 0).macAddress


def test_only_the_disks_that_are_asked_for_are_restored(sim: Simulator, restore: Callable[..., RestoreResult]) -> None:
    result = restore(disks=[1])
    assert disks_of(sim, "copy") == disks_of(sim, "db01")[1:]
    lost = {each.setting for each in result.plan.lost}
    assert {"Hard disk 1", "boot order"} <= lost


def test_disks_are_attached_to_a_vm_that_is_there(
    sim: Simulator, restore: Callable[..., RestoreResult], exports: Path
) -> None:
    restore(name="target", disks=[0])
    wanted = disks_of(sim, "db01")
    result = restore(attach_to="target", disks=[1, 0])
    assert disks_of(sim, "target") == [wanted[0], wanted[1], wanted[0]]
    assert len(result.attached) == 2
    assert [vm.name for vm in sim.vms()] == [*(spec.name for spec in VMS), "target"]


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"name": "DB01"}, errors.TargetExists, "already has something named 'DB01'"),
        ({"datastore": "ssd"}, errors.PlaceNotFound, "there are: datastore1, tiny"),
        ({"datastore": "tiny"}, errors.DatastoreFull, "tiny has 1.0 MB free"),
        ({"folder": "nowhere"}, errors.PlaceNotFound, "/DC0/vm/restored/linux"),
        ({"resource_pool": "nope"}, errors.PlaceNotFound, "/DC0/host/DC0_C0/Resources/drills"),
        ({"host": "esx-09"}, errors.PlaceNotFound, "esx-01, esx-02"),
        ({"networks": ["VM Network=Missing"]}, errors.PlaceNotFound, "Backup, Isolated, VM Network"),
        ({"networks": ["Other=Backup"]}, errors.PlaceNotFound, "was on no network 'Other'"),
        ({"networks": ["x"]}, errors.UsageError, "not SOURCE=TARGET"),
        ({"networks": ["none", "VM Network=Backup"]}, errors.UsageError, "leaves every adapter disconnected"),
        ({"disks": [7]}, errors.UsageError, "has no disk 7"),
        ({"attach_to": "other"}, errors.UsageError, "--attach-to needs the disks"),
        ({"attach_to": "other", "disks": [0], "power_on": True}, errors.UsageError, "--power-on would have no effect"),
        ({"attach_to": "nobody", "disks": [0]}, errors.VmNotFound, "nobody"),
        ({"disk_provisioning": "fat"}, errors.UsageError, "disk_provisioning"),
        ({"vm": "nobody"}, errors.ExportNotFound, "nobody"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_made(
    given: dict[str, Any], error: type[Exception], words: str, sim: Simulator, restore: Callable[..., RestoreResult]
) -> None:
    before = sim.requests.get("ImportVApp", 0)
    with pytest.raises(error, match=words):
        restore(**given)
    assert nothing_is_left(sim)
    assert sim.requests.get("ImportVApp", 0) == before


def test_a_place_that_is_not_there_any_more_has_to_be_given(
    sim: Simulator, restore: Callable[..., RestoreResult], tmp_path: Path
) -> None:
    spec = VmSpec("db01", folder="gone", powered_on=False, disks=(DiskSpec(2 * MIB),))
    with Simulator((spec,)) as elsewhere, pytest.MonkeyPatch.context() as patch:
        for name, value in elsewhere.environment().items():
            patch.setenv(name, value)
        hyperexport.export("db01", output=tmp_path)
    with pytest.raises(errors.PlaceNotFound, match="no VM folder '/DC0/vm/gone', where the VM was"):
        restore(output=tmp_path)
    result = restore(output=tmp_path, folder="restored", resource_pool="web")
    assert result.plan.identity == "keep"


# -- damage and faults -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [600, -600, -70_000])
def test_a_stored_disk_that_rotted_never_becomes_a_vm(
    at: int, sim: Simulator, restore: Callable[..., RestoreResult], exports: Path
) -> None:
    (path,) = exports.glob("*/*/db01-disk-0.vmdk")
    whole = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    try:
        with pytest.raises(errors.HyperExportError) as failed:
            restore()
    finally:
        path.write_bytes(whole)
    assert failed.value.code == "verification-failed"
    assert nothing_is_left(sim)


def test_a_stored_disk_of_another_size_is_found_before_anything_is_made(
    sim: Simulator, restore: Callable[..., RestoreResult], exports: Path
) -> None:
    (path,) = exports.glob("*/*/db01-disk-0.vmdk")
    whole = path.read_bytes()
    path.write_bytes(whole[:-512])
    before = sim.requests.get("ImportVApp", 0)
    try:
        with pytest.raises(errors.VerificationFailed, match="the manifest says"):
            restore()
    finally:
        path.write_bytes(whole)
    assert sim.requests.get("ImportVApp", 0) == before


@pytest.mark.parametrize(
    ("old", "new", "error", "words"),
    [
        (b'"schema_version": 3', b'"schema_version": 9', errors.ExportNotFound, "schema_version"),
        (b'"damage": []', b'"damage": ["disk 0 rotted"]', errors.VerificationFailed, "disk 0 rotted"),
        (b"", None, errors.ExportNotFound, "export.json is missing"),
    ],
    ids=["newer schema", "noted damage", "incomplete"],
)
def test_an_export_that_cannot_be_relied_on_is_refused_before_anything_is_made(
    old: bytes,
    new: bytes | None,
    error: type[Exception],
    words: str,
    sim: Simulator,
    restore: Callable[..., RestoreResult],
    exports: Path,
    tmp_path: Path,
) -> None:
    shutil.copytree(exports, tmp_path / "store")
    (manifest,) = (tmp_path / "store").glob("*/*/export.json")
    head = manifest.read_bytes().rpartition(b'"seal": "')[0]
    manifest.unlink()
    if new is not None:
        assert old in head
        manifest.write_bytes(sealed(head.replace(old, new)))
    before = sim.requests.get("ImportVApp", 0)
    for named in ({"vm": "db01"}, {"vm": None, "export": manifest.parent.name}):
        with pytest.raises((error, errors.ExportNotFound), match=words if named["vm"] is None else "db01"):
            restore(output=tmp_path / "store", **named)
    assert sim.requests.get("ImportVApp", 0) == before


FAULTS = {
    "upload cut once": (Fault(FaultKind.UPLOAD_CUT, vm="copy", disk=0, at_byte=100_000), None),
    "upload cut for ever": (
        Fault(FaultKind.UPLOAD_CUT, vm="copy", disk=0, at_byte=100_000, times=0),
        "transfer-interrupted",
    ),
    "503 once": (Fault(FaultKind.HTTP_STATUS, vm="copy", disk=1, status=503), None),
    "503 for ever": (Fault(FaultKind.HTTP_STATUS, vm="copy", disk=1, status=503, times=0), "transfer-interrupted"),
    "datastore full": (Fault(FaultKind.DATASTORE_FULL, vm="copy", at_byte=50_000), "datastore-full"),
    "wrong checksum once": (Fault(FaultKind.MANIFEST_WRONG, vm="copy", disk=0), None),
    "wrong checksum for ever": (Fault(FaultKind.MANIFEST_WRONG, vm="copy", disk=0, times=0), "checksum-mismatch"),
    "no checksum": (Fault(FaultKind.MANIFEST_MISSING, vm="copy", times=0), None),
    "lease error once": (Fault(FaultKind.LEASE_ERROR, vm="copy"), None),
    "lease error for ever": (Fault(FaultKind.LEASE_ERROR, vm="copy", times=0), "lease-failed"),
    "lease timeout": (Fault(FaultKind.LEASE_EXPIRED, vm="copy", disk=0, at_byte=60_000), "restore-failed"),
    "lease slow": (Fault(FaultKind.LEASE_SLOW, vm="copy", delay=0.3), None),
    "session ends": (Fault(FaultKind.SESSION_EXPIRED, vm="copy", at_byte=1000), "restore-failed"),
    "import refused": (Fault(FaultKind.METHOD_FAULT, method="ImportVApp", fault="NoDiskSpace"), "datastore-full"),
    "completion fails": (
        Fault(FaultKind.METHOD_FAULT, method="HttpNfcLeaseComplete", fault="InvalidState"),
        "restore-failed",
    ),
    "handing over fails": (
        Fault(FaultKind.METHOD_FAULT, method="ReconfigVM_Task", fault="GenericVmConfigFault"),
        "server-fault",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_survived_or_leaves_no_vm_no_lease_and_no_file(
    name: str, sim: Simulator, restore: Callable[..., RestoreResult]
) -> None:
    fault, code = FAULTS[name]
    sim.faults.add(fault)
    if code is None:
        result = restore()
        assert disks_of(sim, "copy") == disks_of(sim, "db01")
        assert result.verified is (name != "no checksum")
        return
    with pytest.raises(errors.HyperExportError) as failed:
        restore()
    assert failed.value.code == code, failed.value
    assert sim.faults.fired
    sim.faults.clear()
    assert sim.leases() == []
    assert nothing_is_left(sim)


@pytest.mark.parametrize("method", ["ReconfigVM_Task"])
def test_disks_that_could_not_be_attached_leave_nothing(
    method: str, sim: Simulator, restore: Callable[..., RestoreResult]
) -> None:
    sim.faults.add(Fault(FaultKind.METHOD_FAULT, vm="other", method=method, fault="InvalidDeviceSpec"))
    with pytest.raises(errors.HyperExportError):
        restore(attach_to="other", disks=[1])
    assert nothing_is_left(sim)


def test_a_vm_that_cannot_be_powered_on_is_there_and_the_result_says_why(
    sim: Simulator, restore: Callable[..., RestoreResult]
) -> None:
    sim.faults.add(
        Fault(FaultKind.METHOD_FAULT, vm="copy", method="PowerOnVM_Task", fault="InsufficientMemoryResourcesFault")
    )
    result = restore(power_on=True)
    assert not result.powered_on
    assert "could not be powered on" in result.warnings[-1]
    assert disks_of(sim, "copy") == disks_of(sim, "db01")


def test_a_vm_that_asks_a_question_when_it_is_powered_on_is_there_and_the_result_has_the_question(
    sim: Simulator, restore: Callable[..., RestoreResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "SECONDS_FOR_AN_ANSWER", 0.0)
    sim.faults.add(Fault(FaultKind.QUESTION, vm="copy"))
    result = restore(power_on=True)
    assert not result.powered_on
    assert "waits for an answer to a question of copy: msg.uuid.altered: This virtual" in result.warnings[-1]
    assert disks_of(sim, "copy") == disks_of(sim, "db01")
    with logged_in(sim) as service:  # it goes on when somebody answers
        vm = find(service, "copy")
        vm.AnswerVM(vm.runtime.question.id, "0")
        for task in vm.recentTask:
            finish(task)
        assert vm.runtime.powerState == "poweredOn"


def test_a_question_that_the_host_answers_by_itself_does_not_disturb_a_power_on(
    sim: Simulator, restore: Callable[..., RestoreResult]
) -> None:
    sim.faults.add(Fault(FaultKind.QUESTION, vm="copy", delay=1.5))
    result = restore(power_on=True)
    assert result.powered_on
    assert result.warnings == ()


# -- the reaper --------------------------------------------------------------------------------------------------------


def left_half_made(restore: Callable[..., RestoreResult], monkeypatch: pytest.MonkeyPatch, *steps: str) -> None:
    """Have a restore fail after its import, and its way back too, as if it had been killed."""
    from hyperexport.jobs import restore as job
    from hyperexport.steps import restoring

    def dies(*_args: Any, **_kwargs: Any) -> None:
        raise errors.ServerFault("killed")

    with monkeypatch.context() as patch:
        patch.setattr(restoring, "undo", lambda *_: None)
        for name in steps:
            dying: Any = FunctionType(dies.__code__, dies.__globals__, name)
            dying.hyperexport_step = getattr(restoring, name).hyperexport_step
            patch.setattr(job.restoring, name, dying)
        with pytest.raises(errors.ServerFault, match="killed"):
            restore()


def test_a_half_made_vm_of_a_dead_run_is_reaped_and_a_restored_one_never_is(
    sim: Simulator, restore: Callable[..., RestoreResult], exports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restore(name="whole")
    left_half_made(restore, monkeypatch, "restore_attributes")
    assert {vm.name for vm in sim.vms()} >= {"whole", "copy"}
    options = resolve(hyperexport.ExportOptions.from_keys({"output": exports})).options
    result = reap_snapshots(DirectRunner(), options)
    assert result.vms == ("/DC0/vm/production/copy",)
    assert [vm.name for vm in sim.vms()] == [*(spec.name for spec in VMS), "whole"]


def test_a_vm_that_runs_is_never_reaped_whatever_its_notes_say(
    sim: Simulator, restore: Callable[..., RestoreResult], exports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_half_made(restore, monkeypatch, "restore_attributes")
    with logged_in(sim) as service:
        finish(find(service, "copy").PowerOnVM_Task())
    options = resolve(hyperexport.ExportOptions.from_keys({"output": exports})).options
    assert reap_snapshots(DirectRunner(), options).vms == ()
    assert "copy" in {vm.name for vm in sim.vms()}


def test_a_server_that_leaves_the_tag_in_the_notes_gets_no_vm_that_a_reaper_would_destroy(
    sim: Simulator, restore: Callable[..., RestoreResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    def pretending(*given: Any, doing: str, **how: Any) -> Any:
        return None if doing.startswith("taking the restore's tag off") else run_task(*given, doing=doing, **how)

    run_task = partial_vms.run_task
    monkeypatch.setattr(partial_vms, "run_task", pretending)
    with pytest.raises(errors.ServerFault, match="the tag is still there"):
        restore()
    assert nothing_is_left(sim)


def test_a_name_with_signs_that_vsphere_escapes_is_restored_and_reaped_as_any_other(
    sim: Simulator, restore: Callable[..., RestoreResult], exports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "50% a/b\\c"
    left_half_made(lambda: restore(name=name), monkeypatch, "restore_attributes")
    options = resolve(hyperexport.ExportOptions.from_keys({"output": exports})).options
    assert reap_snapshots(DirectRunner(), options).vms == ("/DC0/vm/production/50%25 a%2fb%5cc",)
    assert nothing_is_left(sim)
    restore(name=name)
    assert disks_of(sim, name) == disks_of(sim, "db01")


def test_the_next_restore_removes_what_a_dead_one_left(
    sim: Simulator, restore: Callable[..., RestoreResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    left_half_made(restore, monkeypatch, "restore_attributes")
    result = restore()
    assert any("left half made by a restore that did not end" in words for words in result.warnings)
    assert disks_of(sim, "copy") == disks_of(sim, "db01")


def test_a_restore_never_changes_the_store(
    sim: Simulator, restore: Callable[..., RestoreResult], exports: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in exports.rglob("*")}
    restore()
    assert {path: path.stat().st_mtime_ns for path in exports.rglob("*")} == before
    assert LocalStore(exports).listing().damaged == ()


# -- privileges --------------------------------------------------------------------------------------------------------


def needed(way: str) -> frozenset[str]:
    """The privileges that a restore asks for, by its table, those that the simulator does not ask for left out."""
    needs = RestoreNeeds(power_on=True, attributes=True)
    if way == "disks":
        needs = RestoreNeeds(attach_to=VmRef(moref="vm-1", name="x", path="/x", instance_uuid=""))
    return frozenset(each.privilege for each in needs.requirements)


CASES = [(way, lacking) for way in ("a VM", "disks") for lacking in (None, *sorted(needed(way)))]


@pytest.fixture(scope="module")
def guarded(exports: Path) -> Generator[Simulator]:
    """A vCenter with a user for each case: a role of exactly what the table says, or of that less one privilege."""
    users = tuple(
        UserSpec(f"{way} {lacking}", "a password", privileges=needed(way) - {lacking}) for way, lacking in CASES
    )
    with Simulator(
        (replace(DB01, tags=()), VMS[1]), users=users, networks=("VM Network", "Backup"), pools=("web",)
    ) as simulator:
        yield simulator


@pytest.mark.parametrize(("way", "lacking"), CASES)
def test_a_role_of_exactly_the_table_restores_and_of_less_does_not_begin(
    way: str, lacking: str | None, guarded: Simulator, exports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in guarded.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GOVC_USERNAME", f"{way} {lacking}")
    monkeypatch.setenv("GOVC_PASSWORD", "a password")
    given: dict[str, Any] = {"name": "copy", "power_on": True, "identity": "new"}
    if way == "disks":
        given = {"attach_to": "other", "disks": [1]}
    before = guarded.requests.get("ImportVApp", 0)
    if lacking in {None, "Global.SetCustomField"}:
        result = hyperexport.restore(vm="db01", output=exports, **given)
        undo(guarded, way)
        assert ("lacks" in " ".join(result.warnings)) is (lacking is not None)
        return
    with pytest.raises(errors.PermissionMissing, match=lacking):
        hyperexport.restore(vm="db01", output=exports, **given)
    assert guarded.requests.get("ImportVApp", 0) == before


def undo(sim: Simulator, way: str) -> None:
    """Take away what a test has restored."""
    with logged_in(sim) as service:
        if way == "a VM":
            vm = find(service, "copy")
            finish(vm.PowerOffVM_Task())
            finish(vm.Destroy_Task())
            return
        vm = find(service, "other")
        spec = vim.vm.device.VirtualDeviceSpec(operation="remove", fileOperation="destroy", device=disk(vm.config, 1))
        finish(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[spec])))


@pytest.mark.parametrize("lacking", [None, "VApp.Import"])
def test_check_says_whether_a_restore_would_work(
    lacking: str | None, guarded: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in guarded.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GOVC_USERNAME", f"a VM {lacking}")
    monkeypatch.setenv("GOVC_PASSWORD", "a password")
    with connect(VSphereEndpoint.from_environment()) as session:
        vms = describe_many(session, [find_vm(session, "db01")])
        found = check_restore(session, vms, stop=StopSignal())
    assert {finding.level for finding in found} == {"ok" if lacking is None else "fail"}
    assert all(lacking in finding.words for finding in found if lacking)


# -- interruptions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_restore_that_is_stopped_while_it_sends_leaves_nothing(
    number: signal.Signals, sim: Simulator, exports: Path
) -> None:
    sim.faults.add(Fault(FaultKind.UPLOAD_STALL, vm="copy", disk=0, at_byte=100_000))
    said = "print('moving', flush=True) if progress.moved else None"
    lines = (
        "import hyperexport",
        "from hyperexport.model.progress import subscribed",
        f"told = lambda progress: {said}",
        "with subscribed(told):",
        f"    hyperexport.restore(vm='db01', name='copy', output={str(exports)!r})",
    )
    command = [sys.executable, "-c", "\n".join(lines)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "moving\n"
        process.send_signal(number)
        process.wait(timeout=60)
    assert process.returncode != 0
    sim.faults.clear()
    assert sim.leases() == []
    assert sim.sessions() == []
    assert nothing_is_left(sim)
