"""What a virtual machine is to us: plain values, read once, the same for every room.

``vsphere/inventory.py`` makes them; the plans, the manifest, the tables and the mails read them.
"""

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from hyperexport.base.display import Displayed


class Value(Displayed, BaseModel):
    """An immutable record that refuses fields it does not know."""

    # A command uses few of the models that it imports, and to build them all takes longer than most commands.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True)


class PowerState(StrEnum):
    """As vSphere spells them (vim.VirtualMachine.PowerState), and one for a server that does not tell."""

    ON = "poweredOn"
    OFF = "poweredOff"
    SUSPENDED = "suspended"
    UNKNOWN = "unknown"


class VmRef(Value):
    """Enough to find a VM again and to speak of it."""

    moref: str = Field(description="The managed object id on its server, such as vm-42.")
    name: str
    path: str = Field(description="The whole inventory path, such as /DC0/vm/production/db01.")
    instance_uuid: str = Field(description="vCenter's own identity of the VM; survives renames and moves.")


class BackingFile(Value):
    """One of the files behind a disk, as the datastore lists it."""

    path: str = Field(description="Such as '[datastore1] db01/db01-flat.vmdk'.")
    size: int = Field(description="Bytes on the datastore.")
    modified: datetime = Field(description="When it was last written.")


class DiskInfo(Value):
    """One virtual disk, of the VM as it is or as a snapshot froze it."""

    key: int = Field(description="The device key (2000 and up); stable within the VM.")
    label: str = Field(description="As vSphere's client shows it, such as 'Hard disk 1'.")
    capacity: int = Field(description="Bytes that the guest sees.")
    used: int | None = Field(default=None, description="Bytes taken on the datastore, where the server tells.")
    thin: bool | None = None
    controller: str = Field(description="The controller's type and bus, such as 'ParaVirtualSCSIController0'.")
    unit: int = Field(description="The unit number on the controller.")
    backing: str = Field(description="The backing's kind, such as FlatVer2, SeSparse, RawDiskMapping.")
    file: str = Field(description="The backing file, such as '[datastore1] db01/db01.vmdk'.")
    mode: str = Field(default="persistent", description="vSphere's disk mode, such as independent_persistent.")
    backing_uuid: str | None = None
    content_id: str | None = None
    change_id: str | None = Field(default=None, description="<uuid>/<sequence>; there only when changes are tracked.")
    backing_files: tuple[BackingFile, ...] = Field(
        default=(),
        description="Size and time of its files and of the VM's configuration; known only of a VM that is off.",
    )
    unexportable: str | None = Field(default=None, description="Why the disk cannot be exported; None when it can.")
    unsnapshottable: str | None = Field(default=None, description="Why a snapshot leaves the disk out; None if not.")
    shared: bool = Field(default=False, description="Whether other VMs may write to it.")


class NicInfo(Value):
    """One network adapter."""

    label: str
    type: str = Field(description="Such as Vmxnet3.")
    network: str | None = None
    mac: str | None = None
    connected: bool = False


class SnapshotInfo(Value):
    """One snapshot in the VM's tree."""

    moref: str
    name: str
    description: str = ""
    created: datetime
    depth: int = Field(default=1, description="1 for a root snapshot, counting down the tree.")
    current: bool = False
    quiesced: bool = False


class VmBrief(Value):
    """What is said of a VM in a line of a long list."""

    ref: VmRef
    power_state: PowerState
    guest_os: str
    cpus: int
    memory_mb: int
    storage_bytes: int | None = Field(
        description="The sum of the disks' capacities, in bytes; None where the server does not give its devices."
    )

    @property
    def name(self) -> str:
        """The VM's name."""
        return self.ref.name


class VmInfo(Value):
    """A VM, as a person wants to know it before an export."""

    ref: VmRef
    power_state: PowerState
    guest_os: str
    cpus: int
    memory_mb: int
    hardware_version: str = Field(description="Such as vmx-19.")
    firmware: str = Field(description="bios or efi.")
    tools_status: str = Field(description="vSphere's guest.toolsRunningStatus, such as guestToolsRunning.")
    provisioned: int = Field(description="Bytes that the VM may come to take on its datastores.")
    used: int = Field(description="Bytes that it takes now.")
    change_tracking: bool
    change_tracking_supported: bool | None = Field(description="None where the server does not tell.")
    consolidation_needed: bool
    template: bool
    encrypted: bool = Field(description="Whether its configuration is encrypted, and perhaps its disks.")
    vtpm: bool = Field(default=False, description="Whether it has a virtual TPM, for which vSphere encrypts it.")
    connection: str | None = Field(
        default=None, description="vSphere's runtime.connectionState, such as connected; None where it does not tell."
    )
    readable: bool = Field(default=True, description="Whether the server gives its devices.")
    host: str | None
    datastores: tuple[str, ...]
    disks: tuple[DiskInfo, ...]
    nics: tuple[NicInfo, ...]
    snapshots: tuple[SnapshotInfo, ...]
    unread: tuple[str, ...] = Field(
        default=(), description="What an export depends on and the server could not read, each with its fault."
    )

    @property
    def name(self) -> str:
        """The VM's name."""
        return self.ref.name

    @property
    def storage_bytes(self) -> int | None:
        """The sum of the disks' capacities, in bytes; None where the server does not give its devices."""
        return None if not self.readable else sum(disk.capacity for disk in self.disks)

    @property
    def tools_running(self) -> bool:
        """Whether the guest can be asked to quiesce its filesystems.

        vSphere API, VirtualMachineToolsRunningStatus: guestToolsExecutingScripts means that they are starting, so they
        cannot be relied on yet. Those of which the server tells nothing are asked: what came of it is in the snapshot.
        """
        return self.tools_status not in {"guestToolsNotRunning", "guestToolsExecutingScripts"}

    @property
    def snapshot_depth(self) -> int:
        """The length of the longest chain of snapshots; 0 where there are none."""
        return max((snapshot.depth for snapshot in self.snapshots), default=0)
