"""The VMs that the tests of restores export and restore, and how they look."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim

import hyperexport
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from tests.engine.simulator_client import find, logged_in

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


def export_all(sim: Simulator, folder: Path, *names: str) -> Path:
    """Export VMs into a folder, in a fixture that lasts longer than one test; returns the folder."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in sim.environment().items():
            patch.setenv(name, value)
        for vm in names:
            hyperexport.export(vm, output=folder)
    return folder


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


def disk(config: Any, number: int) -> Any:
    return [each for each in config.hardware.device if isinstance(each, vim.vm.device.VirtualDisk)][number]


def nic(config: Any, number: int) -> Any:
    return [each for each in config.hardware.device if isinstance(each, vim.vm.device.VirtualEthernetCard)][number]


def extra(config: Any) -> dict[str, str]:
    return {option.key: option.value for option in config.extraConfig}


KEPT_WITH_THE_IDENTITY: dict[str, Callable[[Any], Any]] = {
    "BIOS UUID": lambda config: config.uuid,
    "MAC addresses": lambda config: [nic(config, number).macAddress for number in (0, 1)],
}
