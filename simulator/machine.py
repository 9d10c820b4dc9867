"""The VM: its state, and what can be done to it.

vSphere API: VirtualMachine. How it is described is in ``hardware.py`` and ``machine_view.py``, its snapshots in
``snapshots.py``, the holds of exports in ``leases.py``.
"""

# ruff: noqa: D102 - what has a name of the vSphere API is documented there

import itertools
import logging
import random
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

from pyVmomi import vim, vmodl

from hyperexport.base.units import MIB
from hyperexport.simulator import boot, neighbours, snapshots
from hyperexport.simulator.changes import changed_areas
from hyperexport.simulator.disks import Frozen
from hyperexport.simulator.faults import FaultKind
from hyperexport.simulator.hardware import AttachedDisk, DiskState, Settings
from hyperexport.simulator.inventory import Datacenter, Datastore, Folder, Host, Network, ResourcePool
from hyperexport.simulator.leases import Lease
from hyperexport.simulator.machine_view import MachineView
from hyperexport.simulator.reconfigure import networks_of, reconfigure
from hyperexport.simulator.sessions import require
from hyperexport.simulator.snapshots import Snapshot
from hyperexport.simulator.tasks import Task, TaskRunner
from hyperexport.simulator.world import Managed, World, now

logger = logging.getLogger(__name__)

PowerState = vim.VirtualMachine.PowerState
_FOREVER: Final = 1e6
"""Seconds."""


@lru_cache(maxsize=16)
def _nvram(seed: str, size: int) -> bytes:
    """Made when it is asked for: thousands of VMs would hold a gigabyte of it."""
    return random.Random(seed).randbytes(size)


@dataclass(frozen=True)
class Site:
    """Where a VM is: in the inventory, and what it runs and lies on."""

    folder: Folder
    host: Host
    pool: ResourcePool
    datastore: Datastore


@dataclass(frozen=True)
class Services:
    """What VMs need of their vCenter.

    Args:
        tasks: Runs their tasks.
        datacenter: Has the datastores and networks that there are.
        lease_timeout: Seconds without progress after which a lease ends.
        manifests: Whether hosts hash what they send.
        boot_seconds: From a power on until VMware Tools run.
    """

    tasks: TaskRunner
    datacenter: Datacenter
    lease_timeout: float
    manifests: bool
    boot_seconds: float


def make_home(name: str, datastore: Datastore) -> str:
    """Make the VM's folder in the datastore and return its name: a second VM of the same name gets another."""
    name = name.replace("/", "_").replace("\\", "_")
    candidates = itertools.chain((name,), (f"{name}_{number}" for number in itertools.count(1)))
    home = next(each for each in candidates if each not in datastore.homes)
    datastore.homes.add(home)
    return home


class Machine(MachineView):
    """vim.VirtualMachine."""

    kind = vim.VirtualMachine
    prefix = "vm"

    def __init__(self, world: World, settings: Settings, site: Site, services: Services) -> None:
        super().__init__(world, settings.name, site.folder)
        self.services = services
        self.tasks = services.tasks
        self.site = site
        self.host_system = site.host
        self.pool = site.pool
        self.store = site.datastore
        self.power: Any = PowerState.poweredOff
        self.tools = "guestToolsRunning"
        self.connection = "connected"
        self.target_prefix = ""
        self.guest_runs = False
        self.question: Any = None
        """What it waits for an answer to."""
        """Whether the guest has started, so that what it has of VMware Tools runs."""
        self.booted: Any = None
        self.created = now()
        self.settled = now()
        """When its configuration, nvram and log were last written: by being powered on or off, or reconfigured."""
        self.nvram_size = 0
        self._nvram_seed = settings.instance_uuid
        self._nvram: bytes | None = None
        self.screenshots: dict[str, bytes] = {}
        """Pictures of its screen, by the names of their files in its folder."""
        self.consolidation_needed = False
        self.settings = settings
        self.disks: list[AttachedDisk] = []
        self.snapshot_roots: list[Snapshot] = []
        self.current_snapshot: Snapshot | None = None
        self.leases: list[Lease] = []
        self._lease_timeout = services.lease_timeout
        self._manifests = services.manifests
        self._busy: Task | None = None
        self._snapshot_numbers = itertools.count(1)
        self._disks_at_snapshot: dict[int, set[str]] = {}
        for group in (site.folder.members, site.host.vms, site.pool.vms, site.datastore.vms):
            group.append(self)
        self.rewire()

    @property
    def vm_name(self) -> str:
        return self.settings.name

    @property
    def authorities(self) -> tuple[Managed, ...]:
        # vSphere Security, "Hierarchical Inheritance of Permissions": from its folder, and from its pool and cluster.
        return (*super().authorities, self.pool)

    @property
    def nvram(self) -> bytes:
        """The content of its NVRAM file; empty where it has none."""
        return _nvram(self._nvram_seed, self.nvram_size) if self._nvram is None else self._nvram

    def set_nvram_size(self, size: int) -> None:
        """Add a generated NVRAM file of this size."""
        self._nvram, self.nvram_size = None, size

    def set_nvram(self, content: bytes) -> None:
        """Have this NVRAM file."""
        self._nvram, self.nvram_size = content, len(content)

    def datastores(self) -> list[Datastore]:
        """The datastores that its host reaches."""
        return self.services.datacenter.datastore_folder.members  # pyright: ignore[reportReturnType]

    def networks(self) -> list[Network]:
        """The networks that its host is on."""
        return self.services.datacenter.network_folder.members  # pyright: ignore[reportReturnType]

    def rewire(self) -> None:
        """Be on the networks of its adapters, and on no other."""
        mine = neighbours.networks_of(self)
        for network in self.networks():
            if self in network.vms and network not in mine:
                network.vms.remove(self)
            elif self not in network.vms and network in mine:
                network.vms.append(self)

    def rename(self, name: str) -> None:
        """Have another name; its folder in the datastore keeps its own."""
        self._name = self.settings.name = name

    # -- its disks and snapshots ---------------------------------------------------------------------------------------

    def states(self) -> list[DiskState]:
        """Its disks as they are now."""
        deltas = tuple(each.number for each in self.current_snapshot.chain) if self.current_snapshot else ()
        return [
            DiskState(
                disk,
                disk.image.capacity,
                disk.image.change_id,
                tuple(number for number in deltas if self.knew(number, disk)),
            )
            for disk in self.disks
        ]

    def next_snapshot_number(self) -> int:
        """The number of the snapshot that is being taken; its deltas lie on the disks that it freezes."""
        number = next(self._snapshot_numbers)
        self._disks_at_snapshot[number] = {disk.uuid for disk in self.disks if disk.snapshotted}
        return number

    def knew(self, snapshot: int, disk: AttachedDisk) -> bool:
        """Whether a disk was frozen by the snapshot of this number, and so got a delta by it."""
        return disk.uuid in self._disks_at_snapshot[snapshot]

    def all_snapshots(self) -> list[Snapshot]:
        """Its snapshots, parents before children."""
        return [each for root in self.snapshot_roots for each in (root, *root.descendants())]

    def exportable(self, snapshot: Snapshot | None) -> list[tuple[AttachedDisk, Frozen]]:
        """The disks that an export offers: frozen ones of a snapshot, or all but raw devices of a VM that is off."""
        if snapshot is not None:
            return [(disk, snapshot.frozen[disk.key]) for disk in snapshot.disks if disk.key in snapshot.frozen]
        return [(disk, disk.image.freeze()) for disk in self.disks if not disk.raw]

    def freeze(self, name: str, description: str, *, quiesced: bool = False) -> Snapshot:
        """Take a snapshot at once."""
        snapshot = Snapshot(self, name, description, quiesced=quiesced)
        (snapshot.above.below if snapshot.above else self.snapshot_roots).append(snapshot)
        self.current_snapshot = snapshot
        self.stunned()
        return snapshot

    def revert(self, snapshot: Snapshot) -> None:
        """Be as at a snapshot, off."""
        if self.power == "poweredOn":
            self.set_power(PowerState.poweredOff)
        for disk in snapshot.disks:
            if frozen := snapshot.frozen.get(disk.key):
                disk.image.revert(frozen)
        self.disks = list(snapshot.disks)
        self.settings = replace(snapshot.settings)
        self.current_snapshot = snapshot
        self.stunned()

    def stunned(self) -> None:
        """The VM was stopped for a moment: change tracking becomes what it is configured to be.

        vSphere API: ConfigSpec.changeTrackingEnabled takes effect at the next power on, resume, migration, or
        creation, deletion or reversion of a snapshot.
        """
        for disk in self.disks:
            disk.image.set_tracking(self.settings.change_tracking and disk.snapshotted)
        self.world.touch()

    # -- who may do what when ------------------------------------------------------------------------------------------

    def refuse_when_busy(self, method: str, *, besides_snapshot_leases: bool = False) -> None:
        """Refuse an operation while a conflicting one is at work or an export holds the VM.

        Raises:
            vim.fault.TaskInProgress: It names the task that is in the way.
        """
        in_the_way = self._busy
        for lease in self.leases:
            if lease.of_snapshot is None or not besides_snapshot_leases:
                in_the_way = in_the_way or lease.task
        fault = self.world.faults.take(FaultKind.TASK_IN_PROGRESS, vm=self.vm_name, method=method)
        if in_the_way or fault:
            task = in_the_way.ref if in_the_way else vim.Task("task-0")
            raise vim.fault.TaskInProgress(msg="Another task is already in progress.", task=task)

    @contextmanager
    def exclusively(self, task: Task, method: str) -> Generator[None]:
        """Keep conflicting operations away while the block runs."""
        self.refuse_when_busy(method)
        self._busy = task
        try:
            self._ask(method)
            yield
        finally:
            self._busy = None

    def export(self, snapshot: Snapshot | None) -> Any:
        """Open an export lease of a snapshot, or of the VM itself."""
        method = "ExportVm" if snapshot is None else "ExportSnapshot"
        self.refuse_when_busy(method, besides_snapshot_leases=snapshot is not None)
        if self.settings.encrypted or self.settings.vtpm:
            # vSphere Security, virtual machine encryption caveats: no export of an encrypted VM as OVF.
            raise vmodl.fault.NotSupported(msg="OVF export is not supported for an encrypted virtual machine.")
        lease = Lease(self, snapshot, self._lease_timeout, manifests=self._manifests)
        task_ref = self.tasks.start(self, method, lease.run)
        lease.task = self.world.get(task_ref)
        return lease.ref

    def set_power(self, state: Any) -> None:
        """Be on or off from now on."""
        self.power = state
        self.settled = now()
        self.booted = now() if state == "poweredOn" else None
        self.guest_runs = state == "poweredOn"
        if state == "poweredOn":
            self.stunned()
        self.world.touch()

    def _require_power(self, state: Any) -> None:
        if self.power != state:
            raise vim.fault.InvalidPowerState(
                msg="The attempted operation cannot be performed in the current state"
                f" ({'Powered on' if self.power == 'poweredOn' else 'Powered off'}).",
                requestedState=state,
                existingState=self.power,
            )

    # -- vSphere methods -----------------------------------------------------------------------------------------------

    def PowerOnVM_Task(self, host: Any) -> Any:
        del host  # it runs where it is

        def work(task: Task) -> None:
            with self.exclusively(task, "PowerOnVM_Task"):
                if self.settings.template:
                    raise vmodl.fault.NotSupported(msg="A template cannot be powered on.")
                self._require_power(PowerState.poweredOff)
                self._require_memory()
                self._ask(None)
                self.set_power(PowerState.poweredOn)
                self.guest_runs = False
                self.tasks.background(self._start_guest)

        return self.tasks.start(self, "PowerOnVM_Task", work)

    def _ask(self, method: str | None) -> None:
        """Wait for the answer to a question, as the VM's task does, if the VM is to ask one."""
        fault = self.world.faults.take(FaultKind.QUESTION, vm=self.vm_name, method=method)
        if fault is None:
            return
        self.question = vim.vm.QuestionInfo(
            id="0",
            text="msg.uuid.altered: This virtual machine might have been moved or copied.",
            choice=vim.option.ChoiceOption(
                choiceInfo=[vim.ElementDescription(key="0", label="I Copied It", summary="I Copied It")], defaultIndex=0
            ),
        )
        self.world.touch()
        self.world.sleep(_FOREVER if fault.delay is None else fault.delay, lambda: self.question is None)
        self.question = None

    def _require_memory(self) -> None:
        """Refuse to be powered on where its host can't keep what it is promised."""
        running = [vm for vm in self.host_system.vms if vm.power == "poweredOn"]
        free = self.host_system.memory - sum(vm.reserved for vm in running)
        if self.reserved > free:
            raise vim.fault.InsufficientMemoryResourcesFault(
                msg="The host does not have sufficient memory resources to satisfy the reservation.",
                unreserved=free,
                requested=self.reserved,
            )

    @property
    def reserved(self) -> int:
        """Bytes of memory that it is promised."""
        allocation = self.settings.more.get("memoryAllocation")
        return (allocation.reservation or 0) * MIB if allocation else 0

    def _start_guest(self) -> None:
        """Have the guest start a moment after the power on, if it can."""
        booted, can = self.booted, boot.starts(self)
        self.world.sleep(self.services.boot_seconds, lambda: self.booted is not booted)
        if can and self.booted is booted:
            self.guest_runs = True
            self.world.touch()

    def PowerOffVM_Task(self) -> Any:
        def work(task: Task) -> None:
            with self.exclusively(task, "PowerOffVM_Task"):
                self._require_power(PowerState.poweredOn)
                self.set_power(PowerState.poweredOff)

        return self.tasks.start(self, "PowerOffVM_Task", work)

    def AnswerVM(self, questionId: str, answerChoice: str) -> None:
        if self.question is None or self.question.id != questionId:
            raise vim.fault.ConcurrentAccess(msg="The question has been answered.")
        if answerChoice not in {each.key for each in self.question.choice.choiceInfo}:
            raise vmodl.fault.InvalidArgument(invalidProperty="answerChoice")
        self.question = None
        self.world.touch()

    def CreateScreenshot_Task(self) -> Any:
        def work(task: Task) -> str:
            del task
            self._require_power(PowerState.poweredOn)
            name = f"{self.settings.home}-{len(self.screenshots) + 1}.png"
            self.screenshots[name] = boot.screenshot(self)
            return f"[{self.store.name}] {self.settings.home}/{name}"

        return self.tasks.start(self, "CreateScreenshot_Task", work)

    def ReconfigVM_Task(self, spec: Any) -> Any:
        for network in networks_of(self, spec.deviceChange):
            require("Network.Assign", network)

        def work(task: Task) -> None:
            with self.exclusively(task, "ReconfigVM_Task"):
                reconfigure(self, spec)

        return self.tasks.start(self, "ReconfigVM_Task", work)

    def CreateSnapshot_Task(self, name: str, description: str | None, memory: bool, quiesce: bool) -> Any:
        def work(task: Task) -> Any:
            with self.exclusively(task, "CreateSnapshot_Task"):
                return snapshots.create(self, task, name, description or "", memory=memory, quiesce=quiesce)

        return self.tasks.start(self, "CreateSnapshot_Task", work)

    def CreateSnapshotEx_Task(self, name: str, description: str | None, memory: bool, quiesceSpec: Any) -> Any:
        def work(task: Task) -> Any:
            with self.exclusively(task, "CreateSnapshotEx_Task"):
                quiesce = quiesceSpec is not None
                return snapshots.create(self, task, name, description or "", memory=memory, quiesce=quiesce)

        return self.tasks.start(self, "CreateSnapshotEx_Task", work)

    def RemoveAllSnapshots_Task(self, consolidate: bool | None, spec: Any) -> Any:
        del spec  # vSphere API: it chooses kinds of snapshots that are not made here

        def work(task: Task) -> None:
            with self.exclusively(task, "RemoveAllSnapshots_Task"):
                snapshots.remove(self, self.all_snapshots(), task, merge=consolidate is not False)

        return self.tasks.start(self, "RemoveAllSnapshots_Task", work)

    def RevertToCurrentSnapshot_Task(self, host: Any, suppressPowerOn: bool | None) -> Any:
        if self.current_snapshot is None:
            raise vim.fault.NotFound(msg="The virtual machine has no snapshot.")
        return self.current_snapshot.RevertToSnapshot_Task(host, suppressPowerOn)

    def ConsolidateVMDisks_Task(self) -> Any:
        def work(task: Task) -> None:
            with self.exclusively(task, "ConsolidateVMDisks_Task"):
                self.consolidation_needed = False
                self.stunned()

        return self.tasks.start(self, "ConsolidateVMDisks_Task", work)

    def ExportVm(self) -> Any:
        self._require_power(PowerState.poweredOff)
        return self.export(None)

    def QueryChangedDiskAreas(self, snapshot: Any, deviceKey: int, startOffset: int, changeId: str) -> Any:
        return changed_areas(self, snapshot, deviceKey, startOffset, changeId)

    def Destroy_Task(self) -> Any:
        def work(task: Task) -> None:
            with self.exclusively(task, "Destroy_Task"):
                self._require_power(PowerState.poweredOff)
                self.destroy()

        return self.tasks.start(self, "Destroy_Task", work)

    def UnregisterVM(self) -> None:
        self.refuse_when_busy("UnregisterVM")
        self._require_power(PowerState.poweredOff)
        self._leave()

    def destroy(self) -> None:
        """Be gone, with all snapshots and files."""
        for disk in self.disks:
            disk.store.disks.pop(disk.base, None)
        self.store.homes.discard(self.settings.home)
        self._leave()

    def _leave(self) -> None:
        """Be gone from the inventory; the files stay."""
        for snapshot in self.all_snapshots():
            self.world.remove(snapshot)
        for disk in self.disks:
            disk.attached = False
        self.settings.devices = ()
        self.rewire()
        for group in (self.site.folder.members, self.host_system.vms, self.pool.vms, self.store.vms):
            group.remove(self)
        self.world.remove(self)
