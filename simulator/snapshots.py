"""Snapshots: a VM's disks and settings frozen at one moment, in a tree.

vSphere API: VirtualMachineSnapshot. The guest keeps writing, into deltas; what a snapshot froze never changes.
"""

# ruff: noqa: D102 - what has a name of the vSphere API is documented there

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pyVmomi import vim

from hyperexport.simulator.disks import Frozen
from hyperexport.simulator.faults import FaultKind
from hyperexport.simulator.hardware import AttachedDisk, DiskState, describe
from hyperexport.simulator.tasks import Task
from hyperexport.simulator.world import Managed, now, refs

if TYPE_CHECKING:
    from hyperexport.simulator.machine import Machine

CHAIN_LIMIT = 32
"""Snapshots in one chain at most (Broadcom KB 318825)."""


class Snapshot(Managed):
    """vim.vm.Snapshot: one moment of one VM."""

    kind = vim.vm.Snapshot

    def __init__(self, vm: "Machine", name: str, description: str, *, quiesced: bool) -> None:
        super().__init__(vm.world, vm.world.new_id("snapshot"))
        self.machine = vm
        self.number = vm.next_snapshot_number()
        self.name = name
        self.description = description
        self.created = now()
        self.power = vm.power
        self.quiesced = quiesced
        self.above: Snapshot | None = vm.current_snapshot
        self.below: list[Snapshot] = []
        self.settings = replace(vm.settings)
        self.disks: tuple[AttachedDisk, ...] = tuple(vm.disks)
        self.frozen: dict[int, Frozen] = {disk.key: disk.image.freeze() for disk in vm.disks if disk.snapshotted}
        self.world.add(self)

    @property
    def vm_name(self) -> str:
        return self.machine.settings.name

    @property
    def place(self) -> Managed:
        return self.machine

    @property
    def chain(self) -> list["Snapshot"]:
        """The snapshots that lie below it, oldest first, and itself."""
        return [*(self.above.chain if self.above else []), self]

    def states(self) -> list[DiskState]:
        """Its disks, as they were."""
        deltas = tuple(each.number for each in self.chain[:-1])
        result: list[DiskState] = []
        for disk in self.disks:
            frozen = self.frozen.get(disk.key)
            if frozen is None:
                result.append(DiskState(disk, disk.image.capacity, None))
            else:
                known = tuple(number for number in deltas if self.machine.knew(number, disk))
                result.append(DiskState(disk, frozen.capacity, frozen.change_id, known))
        return result

    def tree(self) -> Any:
        """The node of the VM's snapshot tree that it is, with those below."""
        return vim.vm.SnapshotTree(
            snapshot=self.ref,
            vm=self.machine.ref,
            name=self.name,
            description=self.description,
            id=self.number,
            createTime=self.created,
            state=self.power,
            quiesced=self.quiesced,
            backupManifest="",
            childSnapshotList=[child.tree() for child in self.below],
            replaySupported=False,
        )

    def descendants(self) -> Iterator["Snapshot"]:
        """Those below it, nearest first."""
        for child in self.below:
            yield child
            yield from child.descendants()

    # -- vSphere properties and methods --------------------------------------------------------------------------------

    @property
    def vm(self) -> Any:
        return self.machine.ref

    @property
    def config(self) -> Any:
        return describe(self.settings, self.states(), self.machine.store)

    @property
    def childSnapshot(self) -> list[Any]:
        return refs(self.below)

    def RemoveSnapshot_Task(self, removeChildren: bool, consolidate: bool | None) -> Any:
        def work(task: Task) -> None:
            with self.machine.exclusively(task, "RemoveSnapshot_Task"):
                going = [self, *self.descendants()] if removeChildren else [self]
                remove(self.machine, going, task, merge=consolidate is not False)

        return self.machine.tasks.start(self.machine, "RemoveSnapshot_Task", work)

    def RenameSnapshot(self, name: str | None, description: str | None) -> None:
        self.machine.refuse_when_busy("RenameSnapshot")
        self.name = self.name if name is None else name
        self.description = self.description if description is None else description
        self.world.touch()

    def RevertToSnapshot_Task(self, host: Any, suppressPowerOn: bool | None) -> Any:
        del host, suppressPowerOn  # snapshots here hold no memory, so the VM is off afterwards, where it is

        def work(task: Task) -> None:
            with self.machine.exclusively(task, "RevertToSnapshot_Task"):
                self.machine.revert(self)

        return self.machine.tasks.start(self.machine, "RevertToSnapshot_Task", work)

    def ExportSnapshot(self) -> Any:
        return self.machine.export(self)


def create(vm: "Machine", task: Task, name: str, description: str, *, memory: bool, quiesce: bool) -> Any:
    """Take a snapshot, as CreateSnapshot_Task does.

    Raises:
        vmodl.MethodFault: The VM or its state does not allow it.
    """
    if vm.world.faults.take(FaultKind.CREATE_SNAPSHOT_FAILED, vm=vm.vm_name):
        raise vim.fault.SnapshotFault(msg="An error occurred while saving the snapshot: the operation failed.")
    if vm.settings.template:
        raise vim.fault.InvalidState(msg="The operation is not supported on a template.")
    chain = vm.current_snapshot.chain if vm.current_snapshot else []
    if len(chain) >= CHAIN_LIMIT:
        raise vim.fault.SnapshotFault(msg=f"The snapshot chain has {len(chain)} levels, which is the limit.")
    quiesced = quiesce and _quiesce(vm, memory=memory)
    task.progress(50)
    return vm.freeze(name, description, quiesced=quiesced).ref


def _quiesce(vm: "Machine", *, memory: bool) -> bool:
    """Whether the guest was quiesced; vSphere API: ignored if the VM is off or Tools are absent, or with memory."""
    if vm.power != "poweredOn" or memory:
        return False
    failed = vm.world.faults.take(FaultKind.QUIESCE_FAILED, vm=vm.vm_name)
    if failed or vm.tools_status != "guestToolsRunning":
        # The documentation says that it is ignored; in practice servers raise this (vsphere.md, fact 66).
        raise vim.fault.ApplicationQuiesceFault(msg="An error occurred while quiescing the virtual machine.")
    return True


def remove(vm: "Machine", going: list[Snapshot], task: Task, *, merge: bool) -> None:
    """Remove snapshots and merge their deltas, as RemoveSnapshot_Task does."""
    faults = vm.world.faults
    if faults.take(FaultKind.REMOVE_SNAPSHOT_FAILED, vm=vm.vm_name):
        raise vim.fault.GenericVmConfigFault(msg="Unable to remove the snapshot: the disk is locked.", reason="locked")
    slow = faults.take(FaultKind.SLOW_CONSOLIDATION, vm=vm.vm_name)
    for percent in range(0, 100, 10) if slow else ():
        task.progress(percent)
        vm.world.sleep((slow.delay or 1.0) / 10 if slow else 0)
    for snapshot in going:
        unlink(vm, snapshot)
    if merge:
        vm.stunned()
    else:
        vm.consolidation_needed = True


def unlink(vm: "Machine", snapshot: Snapshot) -> None:
    """Take a snapshot out of the tree; those below it move up."""
    siblings = snapshot.above.below if snapshot.above else vm.snapshot_roots
    place = siblings.index(snapshot)
    siblings[place : place + 1] = snapshot.below
    for child in snapshot.below:
        child.above = snapshot.above
    if vm.current_snapshot is snapshot:
        vm.current_snapshot = snapshot.above
    vm.world.remove(snapshot)
