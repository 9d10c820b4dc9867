"""An export lease: the URLs of a VM's disks, kept alive as long as they are read, and given back for certain.

While a lease is held the server blocks power, snapshot and migration of the VM, so it is completed on success and
aborted on every other way out. Signs of life come from a thread of their own, whatever the readers do. This module
hands out URLs and how their hosts' certificates are checked; it never opens one.
"""

import logging
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from pydantic import Field
from pyVmomi import vim, vmodl

from hyperexport.base.stop import StopSignal
from hyperexport.errors import (
    HyperExportError,
    LeaseExpired,
    LeaseFailed,
    LeaseRefused,
    ServerFault,
    VmPoweredOn,
)
from hyperexport.model.vm import DiskInfo, Value, VmRef
from hyperexport.vsphere.collector import properties, watch
from hyperexport.vsphere.faults import GONE, UNKNOWN_METHOD, cannot_succeed, is_caused_by
from hyperexport.vsphere.inventory import disks_of_snapshot, read_disks, vm_object
from hyperexport.vsphere.lease_files import lease_files
from hyperexport.vsphere.session import Session
from hyperexport.vsphere.tasks import when_free

logger = logging.getLogger(__name__)

READY_TIMEOUT: Final = 600.0
"""Seconds that a loaded vCenter may take to make a lease ready."""

_LONGEST_SILENCE: Final = 30.0
_OVER: Final[tuple[type[Exception], ...]] = (*GONE, vim.fault.InvalidState, vim.fault.Timedout)


class ServerChecksum(Value):
    """What the server says that it has sent, or for an import received."""

    algorithm: str = Field(description="sha1 or sha256.")
    digest: str = Field(description="Lower-case hex.")
    size: int = Field(description="Bytes.")


@contextmanager
def open_lease(
    session: Session,
    ref: VmRef,
    *,
    snapshot: str | None,
    stop: StopSignal,
    ready_timeout: float = READY_TIMEOUT,
    frozen: tuple[DiskInfo, ...] | None = None,
) -> Generator["Lease"]:
    """Hold an export lease on a VM (powered off), or on one of its snapshots, while the block runs.

    It is completed when the block ends well, and aborted on every exception, a cancellation included. Another task
    that holds the VM is waited for, however long it takes.

    Args:
        session: The login.
        ref: The VM.
        snapshot: The snapshot's managed object id; None exports the VM itself.
        stop: Ends the waiting for the lease.
        ready_timeout: Seconds that the server may take to make it ready.
        frozen: The snapshot's disks, where they are known.

    Raises:
        VmPoweredOn: The VM runs, and no snapshot is given.
        LeaseRefused: The server refuses it for good.
        LeaseFailed: It ends in an error that may pass, or does not become ready.
        LeaseExpired: The login ended while it was waited for.
        ServerBusy, PermissionMissing, Interrupted: As they say.
    """
    stop.check()
    source = session.reference(vim.vm.Snapshot, snapshot) if snapshot else vm_object(session, ref)
    export = source.ExportSnapshot if snapshot else source.ExportVm
    doing = f"asking for an export lease on {ref.name}"
    asked: list[Future[Any]] = []
    lease = None

    def ask() -> Any:
        asked[:] = [session.begin(export, doing=doing)]
        return _granted(ref, asked[0])

    try:
        obj = when_free(session, ref, ask, stop=stop)
        doing = f"waiting for the export lease of {ref.name}"
        try:
            info = wait_until_ready(session, obj, doing=doing, stop=stop, timeout=ready_timeout)
        except ServerFault as error:
            if not is_caused_by(error, GONE):
                raise
            # It ends with the login that it was asked for with; another thread has logged in again meanwhile.
            raise LeaseExpired(f"the export lease of {ref.name} ended before it was ready: {error.what}") from error
        # Only now that it is held the VM cannot change any more.
        disks = frozen or (disks_of_snapshot(session, snapshot) if snapshot else read_disks(session, ref))
        lease = Lease(session, ref, obj, info, disks)
        logger.info("the NFC lease of %s offers %d files", ref.name, len(lease.files))
        yield lease
        _end(lease)
        _close(session, obj.HttpNfcLeaseComplete, doing=f"completing the export lease of {ref.name}")
    except BaseException as error:
        logger.info("aborting the NFC lease of %s: %s", ref.name, type(error).__name__)
        _end(lease)
        for each in asked:
            _abort(session, ref, each)
        raise


class Lease:
    """A lease that is ready. Safe to share between threads.

    Attributes:
        files: What it offers, in the server's order.
        disks: The disks of what is exported, read while it was held; none for an import.
    """

    def __init__(
        self,
        session: Session,
        ref: VmRef,
        obj: Any,
        info: Any,
        disks: tuple[DiskInfo, ...],
        *,
        kind: str = "export",
    ) -> None:
        self.files = lease_files(info.deviceUrl or (), session.endpoint, disks)
        self.disks = disks
        self._session = session
        self._name = f"{kind} lease of {ref.name}"
        self._ref = ref
        self._obj = obj
        self._percent = 0
        self._lock = threading.Lock()
        self._lost: LeaseExpired | None = None
        self._wakers: list[Callable[[], None]] = []
        self._closed = threading.Event()
        # vSphere API: leaseTimeout is how many seconds the server waits for HttpNfcLeaseProgress before it gives up.
        lease_timeout = info.leaseTimeout if (info.leaseTimeout or 0) > 0 else 300
        interval = min(lease_timeout / 4, _LONGEST_SILENCE)
        self._thread = threading.Thread(target=self._stay_alive, args=(interval,), name="lease-keep-alive", daemon=True)
        self._thread.start()

    def progress(self, percent: float) -> None:
        """Note how far the transfer is; the next progress report tells the server."""
        self._percent = max(0, min(100, int(percent)))

    def check(self) -> None:
        """Raise if the lease has ended under us.

        Raises:
            LeaseExpired: It has; what is read from its URLs now is worth nothing.
        """
        if self._lost:
            raise self._lost

    def confirm(self) -> None:
        """Ask the server whether the lease still is: its URLs end with it, before the next sign of life finds out.

        Raises:
            LeaseExpired: It has ended.
        """
        doing = f"asking whether the {self._name} still is"
        try:
            self._session.read(self._obj.HttpNfcLeaseProgress, self._percent, doing=doing)
        except HyperExportError as error:
            if isinstance(error, ServerFault) and is_caused_by(error, _OVER):
                raise self._ended(error) from error
            logger.debug("%s: %s", doing, error.what)

    @property
    def lost(self) -> LeaseExpired | None:
        """Why the lease has ended under us, as far as that is known by now."""
        return self._lost

    def on_lost(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have a reader woken (its socket closed) when the lease ends under it.

        Args:
            callback: Called once, from the keep-alive thread, or at once if the lease is lost already.

        Returns:
            What takes the callback back again.
        """
        with self._lock:
            lost = self._lost is not None
            if not lost:
                self._wakers.append(callback)
        if lost:
            callback()
        return lambda: self._forget(callback)

    def request_checksums(self, algorithm: str = "sha256") -> bool:
        """Ask, before the transfer, for checksums of this kind of the disks in place of SHA-1.

        Returns:
            Whether the server takes the request (vSphere 6.7 and later do).

        Raises:
            LeaseExpired: The lease has ended.
        """
        wanted = [vim.KeyValue(key=file.key, value=algorithm) for file in self.files if file.disk]
        doing = f"asking for {algorithm} checksums of {self._ref.name}"
        try:
            self._session.call(self._obj.HttpNfcLeaseSetManifestChecksumType, wanted, doing=doing)
        except ServerFault as error:
            if not is_caused_by(error, (*UNKNOWN_METHOD, vmodl.fault.InvalidArgument)):
                raise self._ended(error) from error
            return False
        return True

    def checksums(self) -> dict[str, ServerChecksum]:
        """What the server says that has passed, by :attr:`LeaseFile.key`, after the transfer; empty if it can't.

        Raises:
            LeaseExpired: The lease has ended.
        """
        doing = f"reading the server's checksums of {self._ref.name}"
        try:
            entries = self._session.read(self._obj.HttpNfcLeaseGetManifest, doing=doing)
        except ServerFault as error:
            if not is_caused_by(error, UNKNOWN_METHOD):
                raise self._ended(error) from error
            return {}
        return {entry.key: checksum for entry in entries or () if (checksum := _checksum(entry))}

    def wait_for_checksum(self, key: str, *, seconds: float, stop: StopSignal) -> ServerChecksum | None:
        """Ask for the server's checksum of one file: a host may record it a while after the last byte.

        Args:
            key: The file's :attr:`LeaseFile.key`.
            seconds: How long to ask for it; it is asked for once at least.
            stop: Ends the waiting.

        Raises:
            LeaseExpired, Interrupted: As they say.
        """
        end = time.monotonic() + seconds
        while (found := self.checksums().get(key)) is None and time.monotonic() < end:
            stop.wait(0.1)
            stop.check()
        return found

    def _ended(self, error: ServerFault) -> HyperExportError:
        """A question to a lease that is over finds it so before the next sign of life would: another can be had."""
        over = is_caused_by(error, _OVER)
        return LeaseExpired(f"the {self._name} has ended: {error.what}") if over else error

    def close(self) -> None:
        """End the signs of life; :func:`open_lease` calls it."""
        self._closed.set()
        self._thread.join(timeout=5)

    def _stay_alive(self, interval: float) -> None:
        doing = f"keeping the {self._name} alive"
        while not self._closed.wait(interval):
            try:
                self._session.read(self._obj.HttpNfcLeaseProgress, self._percent, doing=doing)
            except HyperExportError as error:
                if not self._closed.is_set():
                    self._lose(error)
                return

    def _lose(self, error: HyperExportError) -> None:
        lost = LeaseExpired(
            f"the {self._name} ended before the transfer did: {error.what}",
            fix="Check in vSphere whether its task was cancelled",
        )
        logger.error("%s", lost.what)
        with self._lock:
            self._lost = lost
            wakers, self._wakers = self._wakers, []
        for wake in wakers:
            try:
                wake()
            except Exception as failure:  # noqa: BLE001 - one reader's failure must not keep the others asleep
                logger.debug("waking a reader failed: %s", failure)

    def _forget(self, callback: Callable[[], None]) -> None:
        with self._lock:
            if callback in self._wakers:
                self._wakers.remove(callback)


class VmLease:
    """The leases that one export reads through.

    Of a snapshot each reader gets a lease of its own, and several may read side by side. Of a VM that is off there is
    only one at a time (vSphere API: a second ExportVm is refused with TaskInProgress): it is held from the first file
    to the last, so that the VM cannot be powered on in between, and is replaced only after a failure. Its readers come
    one after the other.

    Attributes:
        replaced: How often the VM's own lease was given up before its time, so that for a moment nothing held the VM.
    """

    def __init__(self, session: Session, ref: VmRef, stop: StopSignal) -> None:
        self.replaced = 0
        self._session = session
        self._ref = ref
        self._stop = stop
        self._turn = threading.Lock()
        self._state = threading.Lock()
        self._holding = False
        self._lease: tuple[Lease, ExitStack] | None = None
        self._frozen: dict[str, tuple[DiskInfo, ...]] = {}

    @contextmanager
    def held(self) -> Generator[None]:
        """Keep the VM's own lease, once a reader has asked for it, until the block ends."""
        self._holding = True
        try:
            yield
        except BaseException as error:
            self._holding = False
            self._give_back(error)
            raise
        self._holding = False
        self._give_back()

    def hold(self) -> None:
        """Take the VM's own lease now, where it is kept: from here on the VM, which must be off, stays as it is.

        Raises:
            HyperExportError: As :func:`open_lease` does.
        """
        if self._holding:
            with self.reading(None):
                pass

    @contextmanager
    def reading(self, snapshot: str | None) -> Generator[Lease]:
        """Hand a lease to one reader; a reader that fails gives it up, and the next gets a fresh one.

        Args:
            snapshot: The snapshot's managed object id; None reads the VM itself, which must be off.

        Raises:
            HyperExportError: As :func:`open_lease` does.
        """
        if snapshot:
            self._stop.check()
            if snapshot not in self._frozen:
                self._frozen[snapshot] = disks_of_snapshot(self._session, snapshot)
            frozen = self._frozen[snapshot]
            with open_lease(self._session, self._ref, snapshot=snapshot, stop=self._stop, frozen=frozen) as lease:
                yield lease
            return
        with self._turn:
            lease = self._own()
            try:
                yield lease
            except BaseException as error:
                self.replaced += 1
                self._give_back(error)
                raise
            if not self._holding:
                self._give_back()

    @property
    def current(self) -> Lease | None:
        """The VM's own lease, if it is held and not lost."""
        with self._state:
            held = self._lease
        return held[0] if held and not held[0].lost else None

    def _own(self) -> Lease:
        if self._lease and (lost := self._lease[0].lost):
            self.replaced += 1
            self._give_back(lost)
        if self._lease is None:
            stack = ExitStack()
            lease = stack.enter_context(open_lease(self._session, self._ref, snapshot=None, stop=self._stop))
            with self._state:
                self._lease = lease, stack
            return lease
        return self._lease[0]

    def _give_back(self, error: BaseException | None = None) -> None:
        """Complete the lease, or abort it for an error, which is the caller's to raise."""
        with self._state:
            held, self._lease = self._lease, None
        if held is None:
            return
        if error is None:
            held[1].close()
        else:
            held[1].__exit__(type(error), error, error.__traceback__)


def _granted(ref: VmRef, asked: Future[Any]) -> Any:
    try:
        return asked.result()
    except ServerFault as error:
        if is_caused_by(error, (vim.fault.InvalidPowerState,)):
            raise VmPoweredOn(
                f"{ref.path} was off when this export was planned and is powered on now",
                fix="Run the export again with --snapshot, which reads a running VM from a snapshot",
            ) from error.__cause__
        raise _failure(error, error.what) from error.__cause__


def _failure(error: HyperExportError | None, reason: str) -> LeaseFailed | LeaseRefused:
    """Whether another lease may be had depends on the fault."""
    kind = LeaseRefused if error and cannot_succeed(error) else LeaseFailed
    return kind(reason, fix=error.fix if error else None)


def wait_until_ready(session: Session, obj: Any, *, doing: str, stop: StopSignal, timeout: float) -> Any:
    """Wait for a lease to become ready, and return its info.

    Raises:
        LeaseRefused, LeaseFailed: It does not; the first where another attempt would not either.
        Interrupted: The run was stopped.
    """
    deadline = time.monotonic() + timeout
    for values in watch(session, obj, ("state", "error", "info"), doing=doing, stop=stop):
        state = values.get("state")
        if state == "ready":
            # vSphere API: `info` is there only in this state; a server may tell it after the state.
            return values.shown("info") or properties(session, obj, ("info",), doing=doing)["info"]
        if state in ("error", "done"):
            fault = values.get("error")
            failed = session.error(fault, doing=doing) if fault else None
            if failed is None or isinstance(failed, ServerFault):
                if failed:
                    failed.__cause__ = fault
                reason = failed.what if failed else f"{doing}: it ended before it was ready"
                raise _failure(failed, reason) from fault
            raise failed from fault
        if time.monotonic() > deadline:
            raise LeaseFailed(
                f"{doing}: it is still {state} after {timeout:.0f} s", fix="Look at the recent tasks in vCenter"
            )
    raise AssertionError("watch() ends only with an exception")


def _end(lease: Lease | None) -> None:
    if lease:
        lease.close()


def _abort(session: Session, ref: VmRef, asked: Future[Any]) -> None:
    try:
        obj = asked.result(timeout=session.endpoint.timeout)
    except (HyperExportError, TimeoutError):
        return  # none was granted
    _close(session, obj.HttpNfcLeaseAbort, doing=f"aborting the export lease of {ref.name}")


def _close(session: Session, method: Callable[..., Any], *, doing: str) -> None:
    """Complete or abort; a lease that is over already is what was wanted."""
    try:
        session.call(method, doing=doing)
    except HyperExportError as error:
        level = logging.DEBUG if is_caused_by(error, _OVER) else logging.WARNING
        logger.log(level, "%s", error)


def _checksum(entry: Any) -> ServerChecksum | None:
    algorithm, digest = (entry.checksumType, entry.checksum) if entry.checksum else ("sha1", entry.sha1)
    if not digest or entry.size is None:
        return None
    return ServerChecksum(
        algorithm=(algorithm or "sha1").lower().replace("-", ""), digest=digest.lower(), size=entry.size
    )
