"""A VM's hardware as an export keeps it (``vim.vm.ConfigInfo`` in ``<vm>.vm.json``), for machines that are not VMware.

Everything in it came from outside: what is missing or of another type counts as not there.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple, cast

from hyperexport.model.manifest import FileEntry

SCSI_MODELS: Final = {
    "ParaVirtualSCSIController": "vmpvscsi",
    "VirtualLsiLogicController": "lsilogic",
    "VirtualLsiLogicSASController": "lsisas1068",
}
"""libvirt's names of the SCSI controllers that QEMU has of VMware's."""
_BUS_LOGIC: Final = "VirtualBusLogicController"


class Slot(NamedTuple):
    """Where a disk is attached."""

    bus: str
    """``scsi``, ``sata``, ``ide`` or ``nvme``."""
    model: str | None
    """The SCSI controller's model, as libvirt names it."""
    controller: int
    """Tells controllers apart. Of SATA, those from 10 on stand for controllers that cannot be had."""
    unit: int


class Hardware:
    """What a saved configuration says.

    Args:
        configuration: The document; an empty one where the export has none.
    """

    def __init__(self, configuration: Mapping[str, Any]) -> None:
        self._configuration = configuration
        self._hardware = mapping(configuration.get("hardware"))
        self._known = {number(device.get("key"), -1): device for device in devices_of(self._hardware)}

    @classmethod
    def from_json(cls, data: bytes) -> "Hardware":
        """Read the export's file; one that is no JSON object says nothing."""
        try:
            return cls(mapping(json.loads(data)))
        except (ValueError, RecursionError):
            return cls({})

    @property
    def efi(self) -> bool:
        """Whether the firmware is EFI rather than a BIOS."""
        return self._configuration.get("firmware") == "efi"

    @property
    def secure_boot(self) -> bool:
        """Whether EFI starts only what is signed."""
        return self.efi and bool(mapping(self._configuration.get("bootOptions")).get("efiSecureBootEnabled"))

    @property
    def windows(self) -> bool:
        """Whether the guest is a Windows."""
        return "win" in str(self._configuration.get("guestId", "")).lower()

    @property
    def memory_mib(self) -> int:
        """Memory in MiB."""
        return number(self._hardware.get("memoryMB"), 1024)

    @property
    def cpus(self) -> int:
        """How many virtual CPUs it has."""
        return max(1, number(self._hardware.get("numCPU"), 1))

    @property
    def cores_per_socket(self) -> int:
        """Cores of each socket; 1 where the saved number does not divide the CPUs."""
        cores = max(1, number(self._hardware.get("numCoresPerSocket"), 1))
        return cores if self.cpus % cores == 0 else 1

    @property
    def devices(self) -> Iterator[Mapping[str, Any]]:
        """Each device, as saved."""
        return iter(self._known.values())

    def controller_of(self, entry: FileEntry) -> tuple[str, int, int]:
        """The type of the controller that a disk was on, the controller's bus number, and the disk's unit on it."""
        disk = self._known.get(-1 if entry.disk_key is None else entry.disk_key, {})
        controller = self._known.get(number(disk.get("controllerKey"), -1), {})
        return kind_of(controller), number(controller.get("busNumber"), 0), number(disk.get("unitNumber"), 0)

    def slot_of(self, entry: FileEntry, *, nvme: bool) -> tuple[Slot, str | None]:
        """Where a disk goes on QEMU's hardware, and in words what is not as it was.

        Args:
            entry: The disk in the manifest.
            nvme: Whether an NVMe controller can be had.
        """
        kind, bus, unit = self.controller_of(entry)
        if kind in SCSI_MODELS or kind == _BUS_LOGIC:
            return self._scsi_slot(entry, kind, bus, unit)
        if kind == "VirtualAHCIController":
            return Slot("sata", None, bus, unit), None
        if kind == "VirtualIDEController" and not self.efi:
            return Slot("ide", None, 0, bus * 2 + unit), None
        if kind == "VirtualNVMEController" and nvme:
            return Slot("nvme", None, bus, unit), None
        was = "an NVMe" if kind == "VirtualNVMEController" else kind or "an unknown"
        words = f"{entry.name} was on {was} controller: SATA is used instead"
        return Slot("sata", None, 10 + bus, unit % 6), words

    def _scsi_slot(self, entry: FileEntry, kind: str, bus: int, unit: int) -> tuple[Slot, str | None]:
        if self.efi:
            # Debian's OVMF is built without drivers for PVSCSI, LSI Logic and LSI SAS: it would see no disk.
            words = (
                f"{entry.name} is on a SATA controller, since QEMU's EFI firmware has no driver for "
                f"{SCSI_MODELS.get(kind, 'BusLogic')}: a guest without a driver for SATA does not find it"
            )
            return Slot("sata", None, 20 + bus, unit), words
        if kind == _BUS_LOGIC:
            words = f"{entry.name} was on a BusLogic controller, which QEMU does not have: LSI Logic is used instead"
            return Slot("scsi", "lsilogic", bus, unit), words
        return Slot("scsi", SCSI_MODELS[kind], bus, unit), None


def devices_of(hardware: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The devices of a ``VirtualHardware``."""
    found: object = hardware.get("device")
    return [mapping(device) for device in cast("list[object]", found)] if isinstance(found, list) else []


def kind_of(device: Mapping[str, Any]) -> str:
    """The type of a device, without its namespace."""
    return str(device.get("_vimtype", "")).rpartition(".")[2]


def mapping(value: object) -> Mapping[str, Any]:
    """The value if it is an object, else an empty one."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def number(value: object, default: int) -> int:
    """The value if it is a whole number of at least 0, else the default."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else default
