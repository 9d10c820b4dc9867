"""VMs that come back into vSphere: every byte, every setting, in the place that was asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hyperexport
from hyperexport.model.restore import RestoreResult
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from hyperexport.vsphere.endpoint import VSphereEndpoint
from hyperexport.vsphere.session import connect
from hyperexport.vsphere.tags import tags_of
from tests.engine.restores import (
    DB01,
    KEPT_WITH_THE_IDENTITY,
    MIB,
    VMS,
    config_of,
    disk,
    disks_of,
    extra,
    nic,
    nothing_is_left,
)
from tests.engine.s3_servers import S3Server
from tests.engine.simulator_client import find, finish, logged_in


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
