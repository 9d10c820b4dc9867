"""What a simulated vCenter is to hold, as plain frozen values: VMs, their disks, the users.

This module knows nothing of SOAP or of serving; ``inventory.py`` turns these values into managed objects.
"""

from dataclasses import dataclass, field
from typing import Literal

from hyperexport.base.units import GIB, MIB

Backing = Literal["FlatVer2", "SeSparse", "RawDiskMappingVer1"]
Controller = Literal["pvscsi", "lsilogic", "lsisas", "buslogic", "sata", "nvme", "ide"]
Adapter = Literal["vmxnet3", "e1000", "e1000e"]


@dataclass(frozen=True)
class DiskSpec:
    """One virtual disk.

    Args:
        capacity: Bytes that the guest sees; a multiple of 512.
        used: The part of the capacity that holds data at the start, 0 to 1.
        seed: Chooses the content, which is the same for the same seed; None derives one from the VM and position.
        thin: Whether the disk is thin provisioned.
        mode: vSphere's disk mode, such as ``persistent`` or ``independent_persistent``.
        backing: The kind of backing. ``RawDiskMappingVer1`` is a raw device in physical compatibility mode.
        label: As vSphere's client shows it; None is "Hard disk N".
        controller: What it hangs on.
        eager: Whether a thick disk was filled with zeros when it was made.
        sharing: vSphere's ``sharing`` of the backing, such as ``sharingMultiWriter``; None leaves it out.
    """

    capacity: int
    used: float = 0.25
    seed: int | None = None
    thin: bool = True
    mode: str = "persistent"
    backing: Backing = "FlatVer2"
    label: str | None = None
    controller: Controller = "pvscsi"
    eager: bool = False
    sharing: str | None = None

    def __post_init__(self) -> None:
        if self.capacity <= 0 or self.capacity % 512:
            raise ValueError(f"a disk's capacity is a positive multiple of 512 bytes, not {self.capacity}")
        if not 0 <= self.used <= 1:
            raise ValueError(f"the used part of a disk is between 0 and 1, not {self.used}")


@dataclass(frozen=True)
class VmSpec:
    """One virtual machine.

    Args:
        name: Its name in the inventory.
        folder: Where it is below the datacenter's VM folder, such as ``production/linux``; "" is the VM folder itself.
        powered_on: Whether it runs.
        disks: Its disks, in the order of their labels.
        cpus: Number of virtual CPUs.
        memory_mb: Memory in MB.
        guest_os: The guest's full name.
        change_tracking: Whether changes on its disks are tracked from the start.
        tools: vSphere's guest.toolsRunningStatus while the VM runs.
        nvram: Whether it has an NVRAM file.
        firmware: ``efi`` or ``bios``.
        template: Whether it is a template (always powered off).
        hardware_version: Such as ``vmx-19``.
        encrypted: Whether its home and disks are encrypted.
        vtpm: Whether it has a virtual TPM: then its home is encrypted, and its disks are not.
        connection: vSphere's runtime.connectionState.
        snapshots: Names of snapshots that a user took before, oldest first.
        tags: The tags that it has, each as ``category:name``.
        target_prefix: What stands before the names that its export leases give to files (``targetId``), such as
            ``../../``. No vCenter says so; one in another owner's hands may.
        datastore: The datastore that it lies in; "" is the first.
        pool: The resource pool below the cluster's own; "" is that one.
        networks: The network of each adapter; "" is the first.
        adapter: What its network adapters are.
        macs: The adapters' addresses, set by hand; one that is not given is assigned.
        secure_boot: Whether the firmware starts signed code only (with ``efi``).
        boot_order: From what it starts, in order: positions of disks (``0``), ``cdrom``, ``nic0``.
        boot_delay: Milliseconds that the firmware waits.
        annotation: Its notes.
        custom_attributes: Name and value of each custom attribute.
        extra_config: Key and value of each further line of its configuration file.
        cpu_reservation: MHz that it is promised.
        memory_reservation: MB that it is promised.
        cores_per_socket: Cores in one socket.
    """

    name: str
    folder: str = ""
    powered_on: bool = True
    disks: tuple[DiskSpec, ...] = (DiskSpec(64 * MIB),)
    cpus: int = 2
    memory_mb: int = 4096
    guest_os: str = "Ubuntu Linux (64-bit)"
    change_tracking: bool = True
    tools: str = "guestToolsRunning"
    nvram: bool = True
    firmware: str = "efi"
    template: bool = False
    hardware_version: str = "vmx-19"
    encrypted: bool = False
    vtpm: bool = False
    connection: str = "connected"
    snapshots: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    target_prefix: str = ""
    datastore: str = ""
    pool: str = ""
    networks: tuple[str, ...] = ("",)
    adapter: Adapter = "vmxnet3"
    macs: tuple[str, ...] = ()
    secure_boot: bool = False
    boot_order: tuple[int | str, ...] = ()
    boot_delay: int = 0
    annotation: str = ""
    custom_attributes: tuple[tuple[str, str], ...] = ()
    extra_config: tuple[tuple[str, str], ...] = ()
    cpu_reservation: int = 0
    memory_reservation: int = 0
    cores_per_socket: int = 1

    def __post_init__(self) -> None:
        if self.template and self.powered_on:
            raise ValueError(f"{self.name} is a template, so it cannot be powered on")
        if not all(all(tag.partition(":")[::2]) for tag in self.tags):
            raise ValueError(f"a tag is written as category:name, which {self.tags} are not")


@dataclass(frozen=True)
class DatastoreSpec:
    """One datastore: its name, and how many bytes fit into it."""

    name: str
    capacity: int = 4096 * GIB


@dataclass(frozen=True)
class Permission:
    """A role that a user holds on one object of the inventory.

    Args:
        path: The object's inventory path, such as ``/DC0/vm/production``; "" is the root folder.
        privileges: What the role holds; None holds all of them. Like every role of a vCenter it also holds
            System.Anonymous, System.View and System.Read.
        propagate: Whether it counts for what lies below the object, too.
    """

    path: str
    privileges: frozenset[str] | None = None
    propagate: bool = True


@dataclass(frozen=True)
class UserSpec:
    """One user besides the administrator.

    Args:
        name: The login name.
        password: The password; never shown.
        privileges: The privileges of a role that the user holds on the root folder and all below; None holds all.
        permissions: Roles on single objects, in place of that one. The one nearest to an object decides.
    """

    name: str
    password: str = field(repr=False)
    privileges: frozenset[str] | None = None
    permissions: tuple[Permission, ...] = ()


DEFAULT_VMS: tuple[VmSpec, ...] = (
    VmSpec("web01", folder="production", disks=(DiskSpec(64 * MIB), DiskSpec(32 * MIB))),
    VmSpec("db01", folder="production", disks=(DiskSpec(64 * MIB),), memory_mb=8192, cpus=4),
    VmSpec("build01", powered_on=False, disks=(DiskSpec(32 * MIB),)),
)
"""The inventory of a simulator that is asked for nothing special: two running VMs and one that is off."""


def numbered_vms(count: int, *, disks: int = 2, disk_size: int = 64 * MIB, used: float = 0.25) -> tuple[VmSpec, ...]:
    """Describe running VMs named ``vm-01``, ``vm-02``, ..., each with ``disks`` equal disks, in part used."""
    disk = DiskSpec(disk_size, used=used)
    return tuple(VmSpec(f"vm-{number:02d}", disks=(disk,) * disks) for number in range(1, count + 1))
