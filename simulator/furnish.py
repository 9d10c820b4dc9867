"""The VMs that a simulator begins with, made of their specs."""

import random
import uuid
from collections.abc import Mapping
from typing import Any

from pyVmomi import vim

from hyperexport.simulator import devices
from hyperexport.simulator.hardware import Settings, guest_id
from hyperexport.simulator.inventory import Network
from hyperexport.simulator.machine import Machine, PowerState, Services, Site, make_home
from hyperexport.simulator.reconfigure import add_disk
from hyperexport.simulator.spec import VmSpec
from hyperexport.simulator.world import World

_NVRAM_SIZE = {"efi": 270_840, "bios": 8_684}


def furnish(world: World, spec: VmSpec, site: Site, services: Services, networks: Mapping[str, Network]) -> Machine:
    """Make a VM.

    Args:
        world: Where it is to be.
        spec: What it is to be like.
        site: Its place.
        services: What VMs need of their vCenter.
        networks: The networks by their names; the first is that of adapters for which none is named.
    """
    identity = random.Random(f"{site.folder.path}/{spec.name}")
    settings = Settings(
        name=spec.name,
        home=make_home(spec.name, site.datastore),
        uuid=str(uuid.UUID(int=identity.getrandbits(128), version=4)),
        instance_uuid=str(uuid.UUID(int=identity.getrandbits(128), version=4)),
        guest_os=spec.guest_os,
        guest_id=guest_id(spec.guest_os),
        cpus=spec.cpus,
        cores_per_socket=spec.cores_per_socket,
        memory_mb=spec.memory_mb,
        firmware=spec.firmware,
        hardware_version=spec.hardware_version,
        template=spec.template,
        encrypted=spec.encrypted,
        vtpm=spec.vtpm,
        change_tracking=spec.change_tracking,
        annotation=spec.annotation,
        devices=_devices(spec, networks, identity),
        extra=dict(spec.extra_config),
        more={
            "cpuAllocation": _allocation(spec.cpu_reservation, spec.cpus * 1000),
            "memoryAllocation": _allocation(spec.memory_reservation, spec.memory_mb * 10),
        },
    )
    machine = Machine(world, settings, site, services)
    for disk in spec.disks:
        add_disk(machine, disk)
    settings.boot = _boot(machine, spec)
    machine.tools = spec.tools
    machine.connection = spec.connection
    machine.target_prefix = spec.target_prefix
    machine.set_nvram_size(_NVRAM_SIZE[spec.firmware] if spec.nvram else 0)
    if spec.powered_on:
        machine.set_power(PowerState.poweredOn)
    return machine


def _devices(spec: VmSpec, networks: Mapping[str, Network], identity: random.Random) -> tuple[Any, ...]:
    first = next(iter(networks.values()))
    ide = devices.controller("ide", 0)
    made: list[Any] = [ide, devices.pci_controller()]
    made.append(devices.controller(spec.disks[0].controller if spec.disks else "pvscsi", 0))
    if made[-1].key == ide.key:
        made.pop()
    made.append(devices.cdrom(1, ide.key, 0, devices.disk_key(ide, 0)))
    if spec.vtpm:
        label = devices.info("Virtual TPM", "Trusted Platform Module")
        made.append(devices.Device.VirtualTPM(key=11000, deviceInfo=label))
    for number, name in enumerate(spec.networks):
        network = networks[name] if name else first
        given = spec.macs[number] if number < len(spec.macs) else ""
        mac = "00:50:56:" + identity.randbytes(3).hex(":")
        kind = devices.NICS[spec.adapter]
        made.append(devices.nic(kind, number, network, given.lower() or mac, "manual" if given else "assigned"))
    return tuple(made)


def _allocation(reservation: int, shares: int) -> Any:
    return vim.ResourceAllocationInfo(
        reservation=reservation,
        limit=-1,
        expandableReservation=False,
        shares=vim.SharesInfo(shares=shares, level=vim.SharesInfo.Level.normal),
    )


def _boot(machine: Machine, spec: VmSpec) -> Any:
    order = [_bootable(machine, each) for each in spec.boot_order]
    return vim.vm.BootOptions(bootDelay=spec.boot_delay, efiSecureBootEnabled=spec.secure_boot, bootOrder=order)


def _bootable(machine: Machine, each: int | str) -> Any:
    if isinstance(each, int):
        return vim.vm.BootOptions.BootableDiskDevice(deviceKey=machine.disks[each].key)
    if each == "cdrom":
        return vim.vm.BootOptions.BootableCdromDevice()
    number = int(each.removeprefix("nic"))
    return vim.vm.BootOptions.BootableEthernetDevice(deviceKey=devices.NIC_KEY + number)
