"""The VM as its vSphere properties show it. Reads a machine's state; changes nothing."""

# ruff: noqa: D102 - what has a name of the vSphere API is documented there

from collections.abc import Callable
from typing import Any

from pyVmomi import vim

from hyperexport.base.units import GIB
from hyperexport.simulator.devices import adapters
from hyperexport.simulator.hardware import describe
from hyperexport.simulator.inventory import GREEN, Entity
from hyperexport.simulator.neighbours import networks_of
from hyperexport.simulator.world import now, refs

_DELTA = GIB // 64
"""Bytes that a snapshot's delta takes at first: it grows in steps of this size."""


class MachineView(Entity):
    """The properties of vim.VirtualMachine; ``Machine`` has the state that they show."""

    power: Any
    settings: Any
    disks: Any
    store: Any
    pool: Any
    host_system: Any
    snapshot_roots: Any
    current_snapshot: Any
    tools: str
    connection: str
    guest_runs: bool
    networks: Callable[[], Any]
    booted: Any
    consolidation_needed: bool
    nvram_size: int
    states: Callable[[], Any]
    """The disks as they are now."""
    all_snapshots: Callable[[], Any]
    """The snapshots, parents before children."""

    @property
    def tools_status(self) -> str:
        """guest.toolsRunningStatus: tools run only while the guest does."""
        return self.tools if self.power == "poweredOn" and self.guest_runs else "guestToolsNotRunning"

    @property
    def committed(self) -> int:
        """Bytes that it takes on its datastore: its disks' bases and deltas, and the nvram."""
        deltas = sum(len(state.deltas) for state in self.states()) * _DELTA
        return sum(disk.taken for disk in self.disks) + deltas + self.nvram_size

    @property
    def uncommitted(self) -> int:
        """Bytes that its thin disks may come to take besides."""
        return sum(disk.image.capacity - disk.taken for disk in self.disks)

    @property
    def config(self) -> Any:
        return describe(self.settings, self.states(), self.store)

    @property
    def capability(self) -> Any:
        template = self.settings.template
        return vim.vm.Capability(
            snapshotOperationsSupported=not template,
            multipleSnapshotsSupported=True,
            snapshotConfigSupported=True,
            poweredOffSnapshotsSupported=True,
            memorySnapshotsSupported=True,
            revertToSnapshotSupported=True,
            quiescedSnapshotsSupported=True,
            changeTrackingSupported=int(self.settings.hardware_version.removeprefix("vmx-")) >= 7,
            seSparseDiskSupported=True,
        )

    @property
    def runtime(self) -> Any:
        return vim.vm.RuntimeInfo(
            host=self.host_system.ref,
            connectionState=self.connection,
            powerState=self.power,
            faultToleranceState=vim.VirtualMachine.FaultToleranceState.notConfigured,
            toolsInstallerMounted=False,
            bootTime=self.booted,
            numMksConnections=0,
            recordReplayState=vim.VirtualMachine.RecordReplayState.inactive,
            onlineStandby=False,
            consolidationNeeded=self.consolidation_needed,
            question=self.question,
            cryptoState="safe" if self.settings.encrypted else None,
        )

    @property
    def guest(self) -> Any:
        running = self.tools_status == "guestToolsRunning"
        states = vim.vm.GuestInfo.ToolsStatus
        return vim.vm.GuestInfo(
            toolsStatus=states.toolsOk if running else states.toolsNotRunning,
            toolsVersionStatus2="guestToolsCurrent" if running else "guestToolsNotInstalled",
            toolsRunningStatus=self.tools_status,
            toolsVersion="12352" if running else "0",
            guestId=self.settings.guest_id if running else None,
            guestFullName=self.settings.guest_os if running else None,
            hostName=self.settings.name if running else None,
            guestState="running" if running else "notRunning",
        )

    @property
    def summary(self) -> Any:
        settings = self.settings
        return vim.vm.Summary(
            vm=self.ref,
            runtime=self.runtime,
            guest=vim.vm.Summary.GuestSummary(
                guestId=self.guest.guestId,
                guestFullName=self.guest.guestFullName,
                toolsStatus=self.guest.toolsStatus,
                toolsRunningStatus=self.guest.toolsRunningStatus,
                hostName=self.guest.hostName,
            ),
            config=vim.vm.Summary.ConfigSummary(
                name=self.name,
                template=settings.template,
                vmPathName=f"[{self.store.name}] {settings.home}/{settings.home}.vmx",
                memorySizeMB=settings.memory_mb,
                numCpu=settings.cpus,
                numEthernetCards=len(adapters(settings.devices)),
                numVirtualDisks=len(self.disks),
                uuid=settings.uuid,
                instanceUuid=settings.instance_uuid,
                guestId=settings.guest_id,
                guestFullName=settings.guest_os,
                annotation=settings.annotation,
                hwVersion=settings.hardware_version,
            ),
            storage=vim.vm.Summary.StorageSummary(
                committed=self.committed, uncommitted=self.uncommitted, unshared=self.committed, timestamp=now()
            ),
            quickStats=vim.vm.Summary.QuickStats(guestHeartbeatStatus=self.guestHeartbeatStatus, uptimeSeconds=3600),
            overallStatus=GREEN,
        )

    @property
    def storage(self) -> Any:
        usage = vim.vm.StorageInfo.UsageOnDatastore(
            datastore=self.store.ref, committed=self.committed, uncommitted=self.uncommitted, unshared=self.committed
        )
        return vim.vm.StorageInfo(perDatastoreUsage=[usage], timestamp=now())

    @property
    def snapshot(self) -> Any | None:
        if not self.snapshot_roots:
            return None
        return vim.vm.SnapshotInfo(
            currentSnapshot=self.current_snapshot.ref if self.current_snapshot else None,
            rootSnapshotList=[root.tree() for root in self.snapshot_roots],
        )

    @property
    def rootSnapshot(self) -> list[Any]:
        return refs(self.snapshot_roots)

    @property
    def layoutEx(self) -> Any:
        layout = _Layout(self.store.name)
        name = self.settings.home
        layout.file(f"{name}/{name}.vmx", "config", 4096)
        if self.nvram_size:
            layout.file(f"{name}/{name}.nvram", "nvram", self.nvram_size)
        layout.file(f"{name}/{name}.vmsd", "snapshotList", 512)
        chains = [layout.chain(state, state.disk.taken) for state in self.states()]
        frozen = [
            vim.vm.FileLayoutEx.SnapshotLayout(
                key=each.ref,
                dataKey=layout.file(f"{name}/{name}-Snapshot{each.number}.vmsn", "snapshotData", 29_000),
                memoryKey=-1,
                disk=[layout.chain(state, state.disk.taken) for state in each.states()],
            )
            for each in self.all_snapshots()
        ]
        return vim.vm.FileLayoutEx(file=layout.files, disk=chains, snapshot=frozen, timestamp=now())

    @property
    def datastore(self) -> list[Any]:
        return refs(dict.fromkeys((self.store, *(disk.store for disk in self.disks))))

    @property
    def network(self) -> list[Any]:
        return refs(networks_of(self))

    @property
    def resourcePool(self) -> Any:
        return None if self.settings.template else self.pool.ref

    @property
    def guestHeartbeatStatus(self) -> Any:
        # vSphere API: gray is "VMware Tools are not installed or not running".
        return GREEN if self.tools_status == "guestToolsRunning" else vim.ManagedEntity.Status.gray


class _Layout:
    """Numbers the files of a VM as they are met."""

    def __init__(self, datastore: str) -> None:
        self._datastore = datastore
        self._keys: dict[str, int] = {}
        self.files: list[Any] = []

    def file(self, path: str, kind: str, size: int) -> int:
        """The key of a file, noted on first sight."""
        if path not in self._keys:
            self._keys[path] = len(self.files)
            self.files.append(
                vim.vm.FileLayoutEx.FileInfo(
                    key=self._keys[path],
                    name=f"[{self._datastore}] {path}",
                    type=kind,
                    size=size,
                    uniqueSize=size,
                    accessible=True,
                )
            )
        return self._keys[path]

    def chain(self, state: Any, taken: int) -> Any:
        """The layout of a disk's chain: for each link its descriptor and its extent."""
        links: list[Any] = []
        for delta in (None, *state.deltas):
            descriptor = state.disk.file(delta)
            stem = descriptor.removesuffix(".vmdk")
            extent = f"{stem}-flat.vmdk" if delta is None else f"{stem}-sesparse.vmdk"
            size = taken if delta is None else _DELTA
            keys = [self.file(descriptor, "diskDescriptor", 512), self.file(extent, "diskExtent", size)]
            links.append(vim.vm.FileLayoutEx.DiskUnit(fileKey=keys))
        return vim.vm.FileLayoutEx.DiskLayout(key=state.disk.key, chain=links)
