"""Each setting in the product's tables comes back: a value that no new VM has is set, exported, and found restored."""

from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import pytest
from pyVmomi import vim

import hyperexport
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from hyperexport.vsphere import kept_settings
from tests.engine.simulator_client import find, finish, logged_in

MIB = 1 << 20
_device = vim.vm.device

PLAIN: dict[str, Any] = {
    "alternateGuestName": "Plan 9",
    "cpuHotAddEnabled": True,
    "cpuHotRemoveEnabled": True,
    "firmware": "efi",
    "guestAutoLockEnabled": True,
    "guestId": "debian12_64Guest",
    "latencySensitivity": vim.LatencySensitivity(level="high"),
    "maxMksConnections": 3,
    "memoryHotAddEnabled": True,
    "messageBusTunnelEnabled": True,
    "nestedHVEnabled": True,
    "rebootPowerOff": True,
    "sevEnabled": True,
    "swapPlacement": "hostLocal",
    "vAssertsEnabled": True,
    "vPMCEnabled": True,
    "vmxStatsCollectionEnabled": True,
}
FLAGS: dict[str, Any] = {
    "cbrcCacheEnabled": True,
    "disableAcceleration": True,
    "diskUuidEnabled": True,
    "enableLogging": False,
    "htSharing": "none",
    "snapshotDisabled": True,
    "snapshotPowerOffBehavior": "revert",
    "vbsEnabled": True,
    "virtualExecUsage": "hvOn",
    "virtualMmuUsage": "off",
    "vvtdEnabled": True,
}
TOOLS: dict[str, Any] = {
    "afterPowerOn": False,
    "afterResume": False,
    "beforeGuestReboot": True,
    "beforeGuestShutdown": False,
    "beforeGuestStandby": False,
    "syncTimeWithHost": True,
    "syncTimeWithHostAllowed": False,
    "toolsUpgradePolicy": "upgradeAtPowerCycle",
}
POWER: dict[str, Any] = {
    "powerOffType": "hard",
    "resetType": "hard",
    "standbyAction": "powerOnSuspend",
    "suspendType": "soft",
}
BOOT: dict[str, Any] = {
    "bootDelay": 1234,
    "bootRetryDelay": 5678,
    "bootRetryEnabled": True,
    "efiSecureBootEnabled": True,
    "enterBIOSSetup": True,
    "networkBootProtocol": "ipv6",
}
MASK = vim.host.CpuIdInfo(level=1, ecx="--0-----------------------------")


def allocation(reservation: int) -> Any:
    shares = vim.SharesInfo(level="custom", shares=777)
    return vim.ResourceAllocationInfo(reservation=reservation, limit=900, expandableReservation=False, shares=shares)


def devices(config: Any, kind: type) -> list[Any]:
    return [each for each in config.hardware.device if isinstance(each, kind)]


def disk(config: Any) -> Any:
    return devices(config, _device.VirtualDisk)[1]


def nic(config: Any) -> Any:
    return devices(config, _device.VirtualEthernetCard)[0]


def boot_order(config: Any) -> list[str]:
    names = {disk(config).key: "the disk", nic(config).key: "the adapter"}
    return [names[each.deviceKey] for each in config.bootOptions.bootOrder]


def extra(config: Any) -> dict[str, str]:
    return {option.key: option.value for option in config.extraConfig}


class Row(NamedTuple):
    """A setting: what it is made, and where it is found. Where nothing is made of it, it is as the VM began."""

    value: Any
    read: Callable[[Any], Any]


def fields(part: str, values: dict[str, Any]) -> dict[str, Row]:
    def reader(name: str) -> Callable[[Any], Any]:
        return lambda config: getattr(getattr(config, part), name)

    return {f"{part}.{name}": Row(value, reader(name)) for name, value in values.items()}


def plain(name: str) -> Callable[[Any], Any]:
    return lambda config: getattr(config, name)


def resources(part: str, value: Any) -> dict[str, Row]:
    return {
        f"{part}.reservation": Row(value.reservation, lambda config: getattr(config, part).reservation),
        f"{part}.limit": Row(value.limit, lambda config: getattr(config, part).limit),
        f"{part}.shares": Row(value.shares.shares, lambda config: getattr(config, part).shares.shares),
    }


TABLE: dict[str, Row] = {
    **{name: Row(value, plain(name)) for name, value in PLAIN.items() if name != "latencySensitivity"},
    "latencySensitivity": Row("high", lambda config: config.latencySensitivity.level),
    **fields("flags", FLAGS),
    **fields("tools", TOOLS),
    **fields("defaultPowerOps", POWER),
    **fields("bootOptions", BOOT),
    "bootOptions.bootOrder": Row(["the disk", "the adapter"], boot_order),
    **resources("cpuAllocation", allocation(100)),
    **resources("memoryAllocation", allocation(512)),
    "memoryReservationLockedToMax": Row(True, plain("memoryReservationLockedToMax")),
    "annotation": Row("of the database team", plain("annotation")),
    "changeTrackingEnabled": Row(True, plain("changeTrackingEnabled")),
    "cpuFeatureMask": Row(MASK.ecx, lambda config: config.cpuFeatureMask[0].ecx),
    "extraConfig": Row("42", lambda config: extra(config)["answer"]),
    "hardware.numCPU": Row(6, lambda config: config.hardware.numCPU),
    "hardware.numCoresPerSocket": Row(3, lambda config: config.hardware.numCoresPerSocket),
    "hardware.memoryMB": Row(512, lambda config: config.hardware.memoryMB),
    "uuid": Row("4c4c4544-0043-4210-8056-b5c04f4d3233", plain("uuid")),
    "instanceUuid": Row("5c4c4544-0043-4210-8056-b5c04f4d3233", plain("instanceUuid")),
    "name": Row("db01", plain("name")),
    "version": Row("vmx-19", plain("version")),
    "disk mode": Row("independent_persistent", lambda config: disk(config).backing.diskMode),
    "disk provisioning": Row(False, lambda config: disk(config).backing.thinProvisioned),
    "disk I/O limit": Row(500, lambda config: disk(config).storageIOAllocation.limit),
    "disk place": Row((15000, 0), lambda config: (disk(config).controllerKey, disk(config).unitNumber)),
    "disk size": Row(MIB, lambda config: disk(config).capacityInBytes),
    "MAC address": Row("00:50:56:0a:0b:0c", lambda config: nic(config).macAddress),
    "adapter": Row(_device.VirtualVmxnet3, lambda config: type(nic(config))),
    "network": Row("Backup", lambda config: nic(config).backing.deviceName),
    "adapter connects": Row(False, lambda config: nic(config).connectable.startConnected),
    "wake on LAN": Row(False, lambda config: nic(config).wakeOnLanEnabled),
}
OF_THE_DESCRIPTOR = {"vAppConfig": "the OVF descriptor has it; a VM whose descriptor has none is told that it is lost"}


@pytest.fixture(scope="module")
def restored(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[Any, Any]]:
    """The configuration of a VM, and of what came back after it was exported and destroyed."""
    spec = VmSpec(
        "db01",
        powered_on=False,
        disks=(DiskSpec(MIB), DiskSpec(MIB, controller="sata", thin=False)),
        networks=("Backup",),
    )
    folder = tmp_path_factory.mktemp("exports")
    with Simulator((spec,), networks=("VM Network", "Backup")) as sim, pytest.MonkeyPatch.context() as patch:
        for name, value in sim.environment().items():
            patch.setenv(name, value)
        with logged_in(sim) as service:
            vm = find(service, "db01")
            finish(vm.ReconfigVM_Task(changes(vm.config)))
            was = vm.config
        hyperexport.export("db01", output=folder)
        sim.vm("db01").destroy()
        hyperexport.restore(vm="db01", output=folder)
        with logged_in(sim) as service:
            yield was, find(service, "db01").config


def changes(config: Any) -> Any:
    """What makes the VM as the table says."""
    edit = _device.VirtualDeviceSpec
    one_disk, adapter = disk(config), nic(config)
    one_disk.backing.diskMode = "independent_persistent"
    one_disk.storageIOAllocation = vim.StorageResourceManager.IOAllocationInfo(limit=500)
    adapter.macAddress, adapter.addressType = "00:50:56:0a:0b:0c", "manual"
    adapter.wakeOnLanEnabled = adapter.connectable.startConnected = adapter.connectable.connected = False
    order = [
        vim.vm.BootOptions.BootableDiskDevice(deviceKey=one_disk.key),
        vim.vm.BootOptions.BootableEthernetDevice(deviceKey=adapter.key),
    ]
    return vim.vm.ConfigSpec(
        **PLAIN,
        flags=vim.vm.FlagInfo(**FLAGS),
        tools=vim.vm.ToolsConfigInfo(**TOOLS),
        powerOpInfo=vim.vm.DefaultPowerOpInfo(**POWER),
        bootOptions=vim.vm.BootOptions(**BOOT, bootOrder=order),
        cpuAllocation=allocation(100),
        memoryAllocation=allocation(512),
        memoryReservationLockedToMax=True,
        annotation="of the database team",
        changeTrackingEnabled=True,
        cpuFeatureMask=[vim.vm.ConfigSpec.CpuIdInfoSpec(operation="add", info=MASK)],
        extraConfig=[vim.option.OptionValue(key="answer", value="42")],
        numCPUs=6,
        numCoresPerSocket=3,
        memoryMB=512,
        uuid="4c4c4544-0043-4210-8056-b5c04f4d3233",
        instanceUuid="5c4c4544-0043-4210-8056-b5c04f4d3233",
        deviceChange=[edit(operation="edit", device=each) for each in (one_disk, adapter)],
    )


@pytest.mark.parametrize("setting", TABLE)
def test_a_setting_comes_back(setting: str, restored: tuple[Any, Any]) -> None:
    was, now = restored
    value, read = TABLE[setting]
    assert (read(was), read(now)) == (value, value)


def test_the_table_has_every_setting_that_the_product_puts_back() -> None:
    tables = {"flags": FLAGS, "tools": TOOLS, "defaultPowerOps": POWER, "bootOptions": BOOT}
    of_product = (kept_settings._FLAGS, kept_settings._TOOLS, kept_settings._POWER, kept_settings._BOOT)
    assert set(kept_settings.PLAIN) == set(PLAIN)
    assert [set(names) for names in of_product] == [set(names) for names in tables.values()]
    told = {name.partition(".")[0] for name in TABLE} | set(OF_THE_DESCRIPTOR)
    assert set(kept_settings.HANDLED) <= told
