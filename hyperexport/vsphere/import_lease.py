"""An import lease: the VM that vSphere is making, the addresses that wait for its files, and the way back.

From ImportVApp on the VM is in the inventory, half made. It becomes whole with HttpNfcLeaseComplete, which
:meth:`ImportLease.complete` asks for; on every other way out of the block the lease is aborted, and vSphere removes the
VM. Signs of life come from a thread of their own.
"""

import logging
import threading
from collections.abc import Generator, Iterable
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Final

from pyVmomi import vim

from hyperexport.base.stop import StopSignal
from hyperexport.errors import (
    DatastoreFull,
    HyperExportError,
    ImportRefused,
    LeaseExpired,
    PermissionMissing,
    RestoreFailed,
    ServerFault,
    TargetExists,
)
from hyperexport.model.vm import VmRef
from hyperexport.vsphere.collector import properties
from hyperexport.vsphere.faults import is_caused_by
from hyperexport.vsphere.lease import READY_TIMEOUT, Lease, wait_until_ready
from hyperexport.vsphere.lease_files import LeaseFile
from hyperexport.vsphere.session import Session

logger = logging.getLogger(__name__)

_NO_SPACE: Final[tuple[type[Exception], ...]] = (vim.fault.NoDiskSpace, vim.fault.InsufficientStorageSpace)


class ImportLease(Lease):
    """An import lease that is ready. Safe to share between threads.

    Attributes:
        vm_moref: The half-made VM's managed object id.
    """

    def __init__(self, session: Session, ref: VmRef, obj: Any, info: Any) -> None:
        self.vm_moref: Final[str] = info.entity._GetMoId()
        self._completed = False
        self._sizes: dict[str, int] = {}
        self._sent: dict[str, int] = {}
        self._counting = threading.Lock()
        super().__init__(session, ref, obj, info, (), kind="import")

    @property
    def completed(self) -> bool:
        """Whether the VM is whole and the lease is over."""
        return self._completed

    def expect(self, sizes: Iterable[tuple[str, int]]) -> None:
        """Say how large the files are that will be sent, so that progress can be reported."""
        self._sizes = dict(sizes)

    def sent(self, name: str, count: int) -> None:
        """Note how much of a file was sent; the next progress report tells the server."""
        with self._counting:
            self._sent[name] = count
            done = sum(self._sent.values())
        self.progress(100 * done // max(1, sum(self._sizes.values())))

    def file_for(self, import_key: str) -> LeaseFile:
        """The address that waits for a file of the import spec.

        Raises:
            RestoreFailed: There is none.
        """
        for file in self.files:
            if file.import_key == import_key:
                return file
        raise RestoreFailed(
            f"vSphere waits for no file {import_key} of {self._ref.path}, though its import spec asks for it"
        )

    def ended(self, error: HyperExportError) -> HyperExportError:
        """The reason why an upload failed: that of the lease, where it has ended in an error.

        Args:
            error: What the upload says.
        """
        doing = f"importing {self._ref.path}"
        try:
            values = properties(self._session, self._obj, ("state", "error"), doing=doing)
            state, fault = values.shown("state"), values.shown("error")
        except HyperExportError as gone:
            if isinstance(gone, ServerFault):
                return RestoreFailed(f"{doing} failed: the lease has ended, and with it the upload ({error.what})")
            return error
        if state not in {"error", "done"}:
            return error
        reason = failure_of(self._session, fault, doing=doing) if fault else error
        # Another attempt at the upload would find no lease: what is transient otherwise lasts here.
        return RestoreFailed(reason.what, fix=reason.fix) if reason.transient or reason is error else reason

    def complete(self) -> None:
        """Have vSphere make the VM whole.

        Raises:
            RestoreFailed: It did not.
        """
        doing = f"completing the import of {self._ref.path}"
        self.close()
        try:
            self._session.call(self._obj.HttpNfcLeaseComplete, doing=doing)
        except ServerFault as error:
            raise RestoreFailed(error.what, fix=error.fix) from error.__cause__
        self._completed = True


@contextmanager
def open_import(
    session: Session,
    ref: VmRef,
    spec: Any,
    *,
    pool: Any,
    folder: Any,
    host: Any,
    stop: StopSignal,
    ready_timeout: float = READY_TIMEOUT,
) -> Generator[ImportLease]:
    """Have vSphere begin to make a VM, and hold the lease of its import while the block runs.

    Leaving the block before :meth:`ImportLease.complete` was called aborts the lease, which removes the VM.

    Args:
        session: The login.
        ref: The VM's name and path to be; it has no managed object id yet.
        spec: The import spec (vim.vm.VmImportSpec), as the VM is to be.
        pool: Where it runs (vim.ResourcePool).
        folder: Where it lies in the inventory (vim.Folder).
        host: The host (vim.HostSystem); None where DRS chooses.
        stop: Ends the waiting for the lease.
        ready_timeout: Seconds that the server may take to make it ready.

    Raises:
        TargetExists, DatastoreFull, PermissionMissing, ImportRefused: vSphere refuses it; nothing was made.
        LeaseFailed, ServerBusy, ServerUnreachable, Interrupted: As they say; what was begun is gone.
    """
    stop.check()
    doing = f"importing {ref.path}"
    asked: Future[Any] = session.begin(pool.ImportVApp, spec, folder, host, doing=doing)
    lease = None
    try:
        try:
            obj = asked.result()
            info = wait_until_ready(session, obj, doing=doing, stop=stop, timeout=ready_timeout)
        except HyperExportError as error:
            raise _explained(session, error, doing=doing) from error.__cause__
        lease = ImportLease(session, ref, obj, info)
        logger.info("%s: the import lease waits for %d files", ref.path, len(lease.files))
        yield lease
    finally:
        if lease:
            lease.close()
        if lease is None or not lease.completed:
            _abort(session, ref, asked)


def failure_of(session: Session, fault: Any, *, doing: str) -> HyperExportError:
    """Say what a fault of an import means."""
    translated = session.error(fault, doing=doing)
    translated.__cause__ = fault
    return _explained(session, translated, doing=doing)


def _explained(session: Session, error: HyperExportError, *, doing: str) -> HyperExportError:
    if is_caused_by(error, (vim.fault.DuplicateName, vim.fault.AlreadyExists)):
        return TargetExists(
            f"{doing} failed: something in the folder on {session.address} has this name", fix="Choose another --name"
        )
    if is_caused_by(error, _NO_SPACE):
        return DatastoreFull(error.what, fix="Free some space on the datastore, or choose another --datastore")
    if isinstance(error, PermissionMissing) or (error.transient and not isinstance(error, LeaseExpired)):
        return error
    if isinstance(error, ServerFault | LeaseExpired) or error.code == "lease-refused":
        return ImportRefused(error.what, fix=error.fix)
    return error


def _abort(session: Session, ref: VmRef, asked: Future[Any]) -> None:
    doing = f"aborting the import of {ref.path}"
    try:
        obj = asked.result(timeout=session.endpoint.timeout)
    except (HyperExportError, TimeoutError):
        return  # none was granted
    try:
        session.call(obj.HttpNfcLeaseAbort, doing=doing)
    except HyperExportError as error:
        # A lease that is over already is what was wanted; whether its VM is gone is looked at afterwards.
        logger.info("%s", error)
