"""What the steps of one export share: the open session, the VM, the options, the budget, the stop signal."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from hyperexport.base.stop import StopSignal
from hyperexport.model.damaged import DamagedExport
from hyperexport.model.identity import VmIdentity, vm_token
from hyperexport.model.manifest import FileEntry, FileRole, TransferStatistics, new_export_id, spared
from hyperexport.model.ownership import Owner
from hyperexport.model.transport import Transport
from hyperexport.model.vm import BackingFile, DiskInfo, VmInfo, VmRef
from hyperexport.options.precedence import ExportOptions
from hyperexport.policy.source import SourcePlan, as_read, plan_source
from hyperexport.steps.folders import distinct_folder, folder_for
from hyperexport.steps.liveness import AtWork, IsOver, process_at_work, process_is_over
from hyperexport.steps.stopwatch import Stopwatch
from hyperexport.steps.wall_clock import ServerTime
from hyperexport.store.base import Store
from hyperexport.transfer.bandwidth.throttle import Throttle
from hyperexport.transfer.pipeline import Received
from hyperexport.vsphere.lease import Lease, VmLease
from hyperexport.vsphere.lease_files import LeaseFile
from hyperexport.vsphere.session import Session

_MOVED: Final = frozenset({FileRole.DISK, FileRole.NVRAM})


def source_of(vm: VmInfo, options: ExportOptions) -> SourcePlan:
    """Decide what an export with these options reads."""
    snapshot = options.snapshot
    return plan_source(
        vm, wanted=snapshot.take, kept=not snapshot.deletes, quiesces=snapshot.quiesces or snapshot.quiesce_required
    )


class Distrusted(NamedTuple):
    """A disk whose ranges, or whose change tracking, were found to be wrong."""

    disk: str
    transport: Transport
    reason: str


class Uncompared(NamedTuple):
    """A file that came, and was not compared yet with what the server says it sent."""

    lease: Lease
    file: LeaseFile
    received: Received
    item: str
    until: float
    """When the server's checksum is no longer waited for, on the monotonic clock."""


class Job:
    """One export of one VM, from its first step to its last.

    A plain class on purpose: Prefect walks into dataclasses and models that are handed to a task, and a walk through
    a session would ask the server for every property that it passes.
    """

    def __init__(
        self,
        *,
        run: str,
        session: Session,
        vm: VmInfo,
        options: ExportOptions,
        stores: tuple[Store, ...],
        throttle: Throttle,
        stop: StopSignal,
        is_over: IsOver = process_is_over,
        at_work: AtWork = process_at_work,
        refusals: dict[str, str] | None = None,
    ) -> None:
        self.run: Final = run
        self.session: Final = session
        self.vm: Final = vm
        self.options: Final = options
        self.stores: Final = stores
        self.throttle: Final = throttle
        self.stop: Final = stop
        self.is_over: Final = is_over
        self.at_work: Final = at_work
        self.refusals: Final[dict[str, str]] = {} if refusals is None else refusals
        """Ways to read disks that a host refused in this run, by host, with its reason: it is not asked again."""
        self.started: Final = datetime.now(UTC)
        self.stopwatch: Final = Stopwatch()
        self.source: Final = source_of(vm, options)
        self.own_disks: tuple[DiskInfo, ...] = vm.disks
        """The VM's disks as it has them; read again where the run changes them."""
        self.lease: Final = VmLease(session, vm.ref, stop)
        self.export_id: Final = new_export_id(self.started)
        self.identity: Final = VmIdentity.of(vm.ref, vcenter=session.address, vcenter_uuid=session.instance_uuid)
        self.server_time: ServerTime | None = None
        """What the server's clock said when the export began; None where it was not asked or does not tell."""
        self.owner = Owner.of_this_process(
            run=run,
            vcenter=session.address,
            vcenter_uuid=self.identity.server,
            vm=vm_token(vm.ref),
            keep=not options.snapshot.deletes,
        )
        self._began: Final = time.monotonic()
        self._folders: Final[dict[str, str]] = {}
        self._warnings: list[str] = []
        self.leaked_snapshots: list[str] = []
        self.missed_tracking = ""
        """What the export loses without change tracking, in words; empty where it loses nothing."""
        self.backing_files: dict[int, tuple[BackingFile, ...]] | None = None
        """The files of each disk of a VM that is off, as they were before the first byte was read; None: not asked."""
        self.failed_attempts: list[str] = []
        self.distrusted: list[Distrusted] = []
        """Disks that were read whole because what was read of them in ranges was not as the store has it."""
        self.found_wrong: set[int] = set()
        """Keys of disks whose change tracking or ranges were found wrong: a retry, which takes another sample, might
        not find it again."""
        self.gives_checksums = True
        """Whether the server gives checksums of what it sent, as far as is known."""
        self.uncompared: list[Uncompared] = []
        """Files whose checksum the server did not give at once, to be compared when the disks have moved."""
        self.flat_files: dict[tuple[str, str | None, int], str] = {}
        """Addresses of the flat files of disks that could be read, by the disk's file, content id and capacity."""
        self.cleaned_up: list[str] = []
        """What became of the snapshot and of the half-written export, in words for a failure's mail and page."""

    @property
    def disks(self) -> tuple[DiskInfo, ...]:
        """The VM's disks, with the reason on each that this export cannot have."""
        return as_read(self.own_disks, from_snapshot=self.source.from_snapshot)

    @property
    def ref(self) -> VmRef:
        """The VM, as the server knows it."""
        return self.vm.ref

    @property
    def name(self) -> str:
        """The VM's name."""
        return self.vm.name

    @property
    def host(self) -> str | None:
        """The host that the bytes come from."""
        return self.vm.host

    @property
    def leases(self) -> int:
        """How many disks may move at once: of a snapshot each through a lease of its own, of a VM that is off one."""
        return sum(disk.unexportable is None for disk in self.disks) if self.source.from_snapshot else 1

    @property
    def primary(self) -> Store:
        """The store that history is read from: the local one where there is one."""
        return self.stores[0]

    @property
    def warnings(self) -> list[str]:
        """The warnings so far, those about bandwidth too, each once."""
        return list(dict.fromkeys([*self._warnings, *self.throttle.warnings]))

    @property
    def elapsed(self) -> timedelta:
        """The time since the export began, by the monotonic clock."""
        return timedelta(seconds=time.monotonic() - self._began)

    def folder_in(self, store: Store) -> str:
        """The folder of a store that the export goes to; asked of the store once.

        Raises:
            StoreUnusable, StoreUnreachable: The store could not be listed.
        """
        if store.url not in self._folders:
            self._folders[store.url] = folder_for(store, self.ref, self.identity)
        return self._folders[store.url]

    def avoid_folder(self, store: Store) -> None:
        """Go to a folder that no other VM has, because another VM has come to the one that was chosen."""
        self._folders[store.url] = distinct_folder(self.ref, self.identity)

    def warn(self, warning: str) -> None:
        """Keep a warning for the manifest and the result."""
        self._warnings.append(warning)

    def warn_of_damaged(self, store: Store, damaged: Sequence[DamagedExport]) -> None:
        """Warn of what a store holds of the VM and cannot be relied on."""
        for one in damaged:
            self.warn(f"{store.url}/{one.words}; nothing builds on it, and no cleanup deletes it. {one.remedy}")

    def statistics(self, files: Sequence[FileEntry]) -> TransferStatistics:
        """What moved so far, and how fast."""
        account = self.throttle.account
        return TransferStatistics(
            seconds=self.elapsed.total_seconds(),
            bytes_transferred=sum(
                entry.size if entry.received is None else entry.received
                for entry in files
                if entry.role in _MOVED and entry.transferred
            ),
            bytes_reused=sum(spared(entry, files) for entry in files if entry.role in _MOVED),
            retries=len(self.failed_attempts),
            limit=self.options.bandwidth.bytes_per_second,
            throttle_wait=account.waited,
            limit_lowest=account.lowest,
            limit_mean=account.mean,
            achieved=account.achieved,
            shared=self.options.bandwidth.shared,
        )
