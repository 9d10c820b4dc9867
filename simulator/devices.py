"""A VM's virtual devices other than disks, as the API describes them, and the numbers that vSphere gives to devices.

Device keys follow vSphere's own numbering: IDE controllers from 200, SCSI from 1000, SATA from 15000, NVMe from 31000;
disks from 2000, 16000 and 32000 by controller and unit, CD-ROM and disks on IDE from 3000, network adapters from 4000.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pyVmomi import vim

Device = vim.vm.device

PCI_KEY: Final = 100
NIC_KEY: Final = 4000
_FIRST_NIC_UNIT: Final = 7
RESERVED_UNIT: Final = 7
"""The unit number of a SCSI bus that the controller itself has."""


@dataclass(frozen=True)
class Bus:
    """One kind of bus: where its keys begin, how many there may be, and how many places each has."""

    first_key: int
    first_disk_key: int
    stride: int
    controllers: int
    units: tuple[int, ...]


_SCSI = Bus(1000, 2000, 16, 4, tuple(unit for unit in range(16) if unit != RESERVED_UNIT))
_SATA = Bus(15000, 16000, 30, 4, tuple(range(30)))
_NVME = Bus(31000, 32000, 64, 4, tuple(range(15)))
_IDE = Bus(200, 3000, 2, 2, (0, 1))

CONTROLLERS: Final[dict[str, tuple[Any, str]]] = {
    "pvscsi": (Device.ParaVirtualSCSIController, "VMware paravirtual SCSI"),
    "lsilogic": (Device.VirtualLsiLogicController, "LSI Logic"),
    "lsisas": (Device.VirtualLsiLogicSASController, "LSI Logic SAS"),
    "buslogic": (Device.VirtualBusLogicController, "Bus Logic"),
    "sata": (Device.VirtualAHCIController, "AHCI"),
    "nvme": (Device.VirtualNVMEController, "NVME Controller"),
    "ide": (Device.VirtualIDEController, "IDE"),
}
"""The controllers by the names that ``DiskSpec`` has for them: the API's class, and what its summary says."""

NICS: Final[dict[str, Any]] = {
    "vmxnet3": Device.VirtualVmxnet3,
    "e1000": Device.VirtualE1000,
    "e1000e": Device.VirtualE1000e,
}


def bus_of(controller: Any) -> Bus | None:
    """The kind of bus that a controller drives; None for a device that takes no disks."""
    for kind, bus in (
        (Device.VirtualSCSIController, _SCSI),
        (Device.VirtualSATAController, _SATA),
        (Device.VirtualNVMEController, _NVME),
        (Device.VirtualIDEController, _IDE),
    ):
        if isinstance(controller, kind):
            return bus
    return None


def controller(kind: str | Any, number: int) -> Any:
    """Make a controller, by its short name or the API's class."""
    made, summary = CONTROLLERS[kind] if isinstance(kind, str) else (kind, _summary(kind))
    scsi = issubclass(made, Device.VirtualSCSIController)
    more = {"hotAddRemove": True, "sharedBus": "noSharing", "scsiCtlrUnitNumber": RESERVED_UNIT} if scsi else {}
    device = made(busNumber=number, **more)
    bus = bus_of(device)
    assert bus is not None
    device.key = bus.first_key + number
    name = "SCSI controller" if scsi else "IDE" if bus is _IDE else "SATA controller" if bus is _SATA else summary
    device.deviceInfo = info(f"{name} {number}", f"IDE {number}" if bus is _IDE else summary)
    if bus is not _IDE:
        device.controllerKey = PCI_KEY
        device.unitNumber = {_SCSI: 3, _SATA: 24, _NVME: 30}[bus] + number
    return device


def _summary(kind: Any) -> str:
    return next((summary for made, summary in CONTROLLERS.values() if made is kind), "")


def pci_controller() -> Any:
    """Make the PCI controller that every VM has."""
    name = "PCI controller 0"
    return Device.VirtualPCIController(key=PCI_KEY, busNumber=0, deviceInfo=info(name, name))


def cdrom(number: int, controller_key: int, unit: int, key: int) -> Any:
    """Make a CD-ROM drive without a medium."""
    return Device.VirtualCdrom(
        key=key,
        controllerKey=controller_key,
        unitNumber=unit,
        deviceInfo=info(f"CD/DVD drive {number}", "Remote ATAPI"),
        backing=Device.VirtualCdrom.RemoteAtapiBackingInfo(deviceName="", useAutoDetect=False),
        connectable=connectable(False),
    )


def nic(kind: Any, number: int, network: Any, mac: str, address_type: str = "assigned") -> Any:
    """Make a network adapter.

    Args:
        kind: The API's class.
        number: 0 for the first.
        network: The simulated network.
        mac: Its address.
        address_type: ``assigned``, or ``manual``.
    """
    return kind(
        key=NIC_KEY + number,
        controllerKey=PCI_KEY,
        unitNumber=_FIRST_NIC_UNIT + number,
        deviceInfo=info(f"Network adapter {number + 1}", network.name),
        backing=nic_backing(network),
        connectable=connectable(True),
        addressType=address_type,
        macAddress=mac,
        wakeOnLanEnabled=True,
    )


def nic_backing(network: Any) -> Any:
    """How an adapter names a standard port group."""
    return Device.VirtualEthernetCard.NetworkBackingInfo(
        deviceName=network.name, network=network.ref, useAutoDetect=False
    )


def adapters(devices: Iterable[Any]) -> list[Any]:
    """The network adapters among devices."""
    return [each for each in devices if isinstance(each, Device.VirtualEthernetCard)]


def free_unit(device: Any, taken: Iterable[tuple[int, int]]) -> int | None:
    """The first free place on a controller.

    Args:
        device: The controller.
        taken: Key of the controller and unit number of each device.
    """
    bus = bus_of(device)
    used = {unit for key, unit in taken if key == device.key}
    return next((unit for unit in bus.units if unit not in used), None) if bus else None


def next_controller(kind: Any, devices: Sequence[Any]) -> Any | None:
    """Make one more controller of a kind beside those that are there; None where the bus has no number left."""
    bus = bus_of(kind())
    assert bus is not None
    numbers = {each.busNumber for each in devices if bus_of(each) is bus}
    free = next((number for number in range(bus.controllers) if number not in numbers), None)
    return None if free is None else controller(kind, free)


def disk_key(device: Any, unit: int) -> int:
    """The key of a device at a place of a controller."""
    bus = bus_of(device)
    assert bus is not None
    return bus.first_disk_key + bus.stride * device.busNumber + unit


def clone(obj: Any, **changes: Any) -> Any:
    """Copy a data object, with other values for some fields."""
    fields = {each.name: getattr(obj, each.name) for each in obj._GetPropertyList()}
    return type(obj)(**{**fields, **changes})


def info(label: str, summary: str) -> Any:
    """A device's label and summary."""
    return vim.Description(label=label, summary=summary)


def connectable(connected: bool) -> Any:
    """Whether a device is connected, now and at the next power on."""
    return Device.VirtualDevice.ConnectInfo(
        startConnected=connected, allowGuestControl=True, connected=connected, status="untried"
    )
