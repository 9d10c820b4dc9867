"""What the steps of one export share: the open session, the VM, the options, the budget, the stop signal."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from hyperexport.base.stop import StopSignal
from hyperexport.model.damaged import DamagedExport
from hyperexport.model.manifest import FileEntry, FileRole, TransferStatistics, new_export_id, vm_folder
from hyperexport.model.ownership import Owner
from hyperexport.model.vm import BackingFile, VmInfo, VmRef
from hyperexport.options.precedence import ExportOptions
from hyperexport.steps.clock import Clock
from hyperexport.steps.liveness import AtWork, process_at_work
from hyperexport.store.base import Store
from hyperexport.transfer.bandwidth.throttle import Throttle
from hyperexport.vsphere.lease import VmLease
from hyperexport.vsphere.session import Session

_MOVED: Final = frozenset({FileRole.DISK, FileRole.NVRAM})


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
        at_work: AtWork = process_at_work,
    ) -> None:
        self.run: Final = run
        self.session: Final = session
        self.vm: Final = vm
        self.options: Final = options
        self.stores: Final = stores
        self.throttle: Final = throttle
        self.stop: Final = stop
        self.at_work: Final = at_work
        self.started: Final = datetime.now(UTC)
        self.clock: Final = Clock()
        self.lease: Final = VmLease(session, vm.ref, stop)
        self.export_id: Final = new_export_id(self.started)
        self.folder: Final = vm_folder(vm.ref)
        self.owner: Final = Owner.of_this_process(
            run=run, vcenter=session.address, vm=vm.ref.instance_uuid, keep=not options.snapshot.deletes
        )
        self._warnings: list[str] = []
        self.leaked_snapshots: list[str] = []
        self.backing_files: dict[int, tuple[BackingFile, ...]] | None = None
        """The files of each disk of a VM that is off, as they were before the first byte was read; None: not asked."""
        self.failed_attempts: list[str] = []
        self.aftermath: list[str] = []
        """What became of the snapshot and of the half-written export, in words for whoever hears of a failure."""

    @property
    def ref(self) -> VmRef:
        """The VM, as the server knows it."""
        return self.vm.ref

    @property
    def primary(self) -> Store:
        """The store that history is read from: the local one where there is one."""
        return self.stores[0]

    @property
    def warnings(self) -> list[str]:
        """What there is to say so far, also of the bandwidth; each once."""
        return list(dict.fromkeys([*self._warnings, *self.throttle.warnings]))

    def warn(self, warning: str) -> None:
        """Keep a warning for the manifest and the result."""
        self._warnings.append(warning)

    def warn_of_damaged(self, store: Store, damaged: Sequence[DamagedExport]) -> None:
        """Warn of what a store holds of the VM and cannot be relied on."""
        for one in damaged:
            self.warn(f"{store.url}/{one.words}; nothing builds on it, and no cleanup deletes it")

    def statistics(self, files: Sequence[FileEntry]) -> TransferStatistics:
        """What moved so far, and how fast."""
        account = self.throttle.account
        return TransferStatistics(
            seconds=max(0.0, (datetime.now(UTC) - self.started).total_seconds()),  # the clock may have been put back
            bytes_transferred=sum(entry.size for entry in files if entry.role in _MOVED and entry.transferred),
            bytes_reused=sum(entry.size for entry in files if entry.role in _MOVED and not entry.transferred),
            retries=len(self.failed_attempts),
            limit=self.options.bandwidth.bytes_per_second,
            throttle_wait=account.waited,
            limit_lowest=account.lowest,
            limit_mean=account.mean,
            achieved=account.achieved,
            shared=self.options.bandwidth.shared,
        )
