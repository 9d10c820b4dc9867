"""Making a snapshot that is surely ours, and surely removing it again.

A snapshot has its owner tag in its description; that tag, and nothing else, makes it ours. A caller that asks for one
either gets it or finds that none was left behind, whatever interrupted the asking. How a task ended is decided by
looking at the VM's tree of snapshots, never by the task alone. Nothing of a VM but its snapshots is changed here.
"""

import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from itertools import count
from threading import Timer
from typing import Any, Final

from pyVmomi import vim
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from hyperexport.base.stop import StopSignal
from hyperexport.errors import (
    HyperExportError,
    Interrupted,
    QuiesceFailed,
    ServerBusy,
    ServerFault,
    SnapshotChainTooLong,
    SnapshotFailed,
    SnapshotLeaked,
    UsageError,
)
from hyperexport.model.manifest import Quiescing, SnapshotRecord
from hyperexport.model.ownership import Owner
from hyperexport.model.vm import SnapshotInfo, Value, VmRef
from hyperexport.vsphere.collector import properties
from hyperexport.vsphere.faults import GONE, cannot_succeed, is_about_quiescing, is_caused_by
from hyperexport.vsphere.inventory import vm_object
from hyperexport.vsphere.names import escape
from hyperexport.vsphere.questions import QuestionUnanswered
from hyperexport.vsphere.session import Session
from hyperexport.vsphere.snapshot_tree import flatten
from hyperexport.vsphere.tasks import TaskVanished, unfinished_tasks, wait_for_conflicting, wait_task, when_free

logger = logging.getLogger(__name__)

LONGEST_CHAIN: Final = 30
"""vSphere allows 32 snapshots in a chain (Broadcom KB 318825); nearer than this we do not go."""

REMOVAL_TIMEOUT: Final = 600.0
"""Seconds to wait, in all, between attempts at a removal that the server refuses for now (busy, locked)."""

_UNDO_TIMEOUT: Final = 120.0
_SECONDS_AFTER_A_STOP: Final = 15.0
_REPEATED_FAULTS: Final = 3

OnProgress = Callable[[int], None]
"""Takes the per cent that the server says are done."""


class CreatedSnapshot(Value):
    """A snapshot that was made, and what the user should know about it."""

    record: SnapshotRecord
    warnings: tuple[str, ...] = ()


def snapshot_tree(session: Session, ref: VmRef) -> tuple[SnapshotInfo, ...]:
    """All snapshots of a VM, parents before their children."""
    doing = f"reading the snapshots of {ref.name}"
    return flatten(properties(session, vm_object(session, ref), ("snapshot",), doing=doing).get("snapshot"))


def create_snapshot(
    session: Session,
    ref: VmRef,
    *,
    name: str,
    owner: Owner,
    quiesce: bool,
    memory: bool,
    quiesce_required: bool,
    tools_running: bool,
    powered_on: bool,
    suspended: bool = False,
    on_progress: OnProgress | None = None,
    stop: StopSignal | None = None,
) -> CreatedSnapshot:
    """Make a snapshot; quiesced where it can be, crash-consistent (with a warning) where it can't and may be.

    Args:
        session: The login.
        ref: The VM.
        name: The snapshot's name; need not be unique.
        owner: The mark that it has.
        quiesce: Ask the guest to bring its filesystems to rest.
        memory: Keep the memory, too.
        quiesce_required: Rather fail than make a crash-consistent one.
        tools_running: Whether the guest can be asked.
        powered_on: Whether there is anything running that could be quiesced.
        suspended: Whether the guest's memory, with data that no disk has, lies in a suspend file.
        on_progress: Called with the per cent.
        stop: Ends the waiting, and undoes the snapshot.

    Raises:
        UsageError: Memory and quiescing exclude each other.
        SnapshotChainTooLong, QuiesceFailed, SnapshotFailed, ServerBusy, PermissionMissing: None was made.
        Interrupted: The run was stopped; what had been begun is undone.
        SnapshotLeaked: It failed or was stopped, and what had been begun could not be removed.
    """
    if memory and quiesce and powered_on:
        raise UsageError("a snapshot cannot both keep the memory and quiesce the guest", fix="Choose one of them")
    tree = snapshot_tree(session, ref)
    _refuse_long_chain(ref, tree)
    making = _Making(session, ref, name=name, owner=owner, before=tree, on_progress=on_progress, stop=stop)
    if suspended:
        why = f"{ref.name} is suspended, so its guest cannot be quiesced, and what it had in memory is not exported"
        if quiesce_required:
            raise QuiesceFailed(why, fix="Resume the VM or shut it down, or export without --quiesce-required")
        warning = f"the snapshot of {ref.name} is only crash-consistent: {why}"
        found = making.attempt(quiesce=False, memory=False)
        return making.result(found, Quiescing.CRASH_CONSISTENT, warnings=(warning,))
    if not powered_on:
        return making.result(making.attempt(quiesce=False, memory=False), Quiescing.POWERED_OFF)
    if memory:
        return making.result(making.attempt(quiesce=False, memory=True), Quiescing.MEMORY)
    if not quiesce:
        return making.result(making.attempt(quiesce=False, memory=False), Quiescing.CRASH_CONSISTENT)
    try:
        if not tools_running:
            # vSphere ignores or fails the request then, by version; asking first gives a reason that can be read.
            raise QuiesceFailed(
                f"VMware Tools are not running in {ref.name}, so its filesystems cannot be quiesced",
                fix="Start VMware Tools in the guest, or export without --quiesce-required",
            )
        return making.quiesced(required=quiesce_required)
    except QuiesceFailed as error:
        if quiesce_required:
            raise
        warning = f"the snapshot of {ref.name} is only crash-consistent: {error.what}"
        logger.warning("%s", warning)
        found = making.attempt(quiesce=False, memory=False)
        return making.result(found, Quiescing.CRASH_CONSISTENT, warnings=(warning,))


def remove_snapshot(
    session: Session,
    ref: VmRef,
    moref: str,
    *,
    on_progress: OnProgress | None = None,
    stop: StopSignal | None = None,
    timeout: float = REMOVAL_TIMEOUT,
) -> None:
    """Remove one snapshot, leaving its children; done when it is no longer in the tree, however long that takes.

    Args:
        session: The login.
        ref: The VM.
        moref: The snapshot's managed object id. One that is gone already is fine.
        on_progress: Called with the per cent.
        stop: Ends the waiting, not the removal. None in clean-up.
        timeout: Seconds to wait, in all, between attempts that the server refuses for now.

    Raises:
        SnapshotLeaked: It could not be removed; the message names it.
        Interrupted: ``stop`` was raised.
    """

    def remove() -> None:
        if all(info.moref != moref for info in snapshot_tree(session, ref)):
            return
        doing = f"removing snapshot {moref} of {ref.name}"
        snapshot = session.reference(vim.vm.Snapshot, moref)
        try:
            task = session.call(snapshot.RemoveSnapshot_Task, False, True, doing=doing)
            wait_task(session, task, doing=doing, on_progress=on_progress, stop=stop, vm=ref)
        except ServerBusy as error:
            # It may be this very removal, begun by a run that did not wait for its end; it may take hours.
            wait_for_conflicting(session, ref, error, on_progress=on_progress, stop=stop)
            raise

    try:
        _until_removed(remove, stop=stop, timeout=timeout)
    except Interrupted:
        raise
    except HyperExportError as error:
        if is_caused_by(error, GONE):
            return
        fix = "Remove it in vSphere (Snapshots, Delete), or run reap_snapshots later; until then it keeps growing"
        raise SnapshotLeaked(
            f"snapshot {moref} of {ref.path} could not be removed: {error.what}",
            fix=error.fix if isinstance(error, QuestionUnanswered) else fix,
        ) from error
    logger.info("removed snapshot %s of %s", moref, ref.name)


def remove_all_snapshots(
    session: Session, ref: VmRef, *, on_progress: OnProgress | None = None, stop: StopSignal | None = None
) -> None:
    """Remove every snapshot of a VM, its user's own ones too, merging them into the base disks."""
    doing = f"removing all snapshots of {ref.name}"

    def remove() -> None:
        task = session.call(vm_object(session, ref).RemoveAllSnapshots_Task, True, doing=doing)
        wait_task(session, task, doing=doing, on_progress=on_progress, stop=stop, vm=ref)

    try:
        when_free(session, ref, remove, stop=stop)
    except TaskVanished:
        if snapshot_tree(session, ref):
            raise


def consolidation_needed(session: Session, ref: VmRef) -> bool:
    """Tell whether vSphere says that the VM has delta disks which no snapshot refers to."""
    doing = f"asking whether the disks of {ref.name} need consolidation"
    read = properties(session, vm_object(session, ref), ("runtime.consolidationNeeded",), doing=doing)
    return bool(read.get("runtime.consolidationNeeded"))


def consolidate_disks(
    session: Session, ref: VmRef, *, on_progress: OnProgress | None = None, stop: StopSignal | None = None
) -> bool:
    """Merge delta disks that no snapshot refers to, where vSphere says that there are any.

    Returns:
        Whether there was anything to do.
    """
    doing = f"consolidating the disks of {ref.name}"
    vm = vm_object(session, ref)
    if not consolidation_needed(session, ref):
        return False

    def consolidate() -> None:
        task = session.call(vm.ConsolidateVMDisks_Task, doing=doing)
        wait_task(session, task, doing=doing, on_progress=on_progress, stop=stop, vm=ref)

    try:
        when_free(session, ref, consolidate, stop=stop)
    except TaskVanished:
        if consolidation_needed(session, ref):
            raise
    return True


class _Making:
    """One snapshot on its way: tried at most twice, and undone if it does not arrive."""

    def __init__(
        self,
        session: Session,
        ref: VmRef,
        *,
        name: str,
        owner: Owner,
        before: tuple[SnapshotInfo, ...],
        on_progress: OnProgress | None,
        stop: StopSignal | None,
    ) -> None:
        self._session = session
        self._ref = ref
        self._name = name
        self._description = owner.to_description()
        self._before = {info.moref for info in before}
        self._on_progress = on_progress
        self._stop = stop
        self._doing = f"making a snapshot of {ref.name}"

    def quiesced(self, *, required: bool) -> CreatedSnapshot:
        """Make a quiesced one, or raise QuiesceFailed with none made."""
        try:
            found = self.attempt(quiesce=True, memory=False)
        except SnapshotFailed as error:
            if not is_about_quiescing(error):
                raise
            fix = "Check the guest's event log and its freeze scripts"
            raise QuiesceFailed(error.what, fix=fix) from error
        if found.quiesced:
            return self.result(found, Quiescing.FILESYSTEM)
        warning = f"vSphere says that the snapshot of {self._ref.name} was not quiesced though it was asked to be"
        if required:
            remove_snapshot(self._session, self._ref, found.moref)
            raise QuiesceFailed(warning)
        return self.result(found, Quiescing.CRASH_CONSISTENT, warnings=(warning,))

    def attempt(self, *, quiesce: bool, memory: bool) -> SnapshotInfo:
        """Ask for the snapshot and wait for it, as soon as no other task is in the way.

        On any way out but success there is none afterwards.
        """
        return when_free(
            self._session, self._ref, lambda: self._attempt(quiesce=quiesce, memory=memory), stop=self._stop
        )

    def _attempt(self, *, quiesce: bool, memory: bool) -> SnapshotInfo:
        if self._stop:
            self._stop.check()
        create = vm_object(self._session, self._ref).CreateSnapshot_Task
        name = escape(self._name)
        begun = self._session.begin(create, name, self._description, memory, quiesce, doing=self._doing)
        try:
            self._wait(begun.result())
            found = self._find()
            if found is None:
                raise ServerFault(
                    f"{self._doing}: {self._session.address} reported success, but the snapshot does not exist"
                )
        except ServerFault as error:
            self._undo(begun)
            raise SnapshotFailed(error.what, fix=error.fix) from error.__cause__ or error
        except HyperExportError:
            self._undo(begun)
            raise
        except BaseException:  # Ctrl-C, or a cancellation: it must go on its way, whatever becomes of the snapshot
            with contextlib.suppress(SnapshotLeaked):
                self._undo(begun)
            raise
        logger.info("made snapshot %s (%s) of %s", found.name, found.moref, self._ref.name)
        return found

    def result(self, found: SnapshotInfo, quiescing: Quiescing, *, warnings: tuple[str, ...] = ()) -> CreatedSnapshot:
        """What is returned of the snapshot found in the tree."""
        record = SnapshotRecord(name=found.name, moref=found.moref, created=found.created, quiescing=quiescing)
        return CreatedSnapshot(record=record, warnings=warnings)

    def _wait(self, task: Any) -> None:
        with contextlib.suppress(TaskVanished):  # the tree says how it ended
            wait_task(
                self._session,
                task,
                doing=self._doing,
                on_progress=self._on_progress,
                stop=self._stop,
                vm=self._ref,
            )

    def _find(self) -> SnapshotInfo | None:
        tree = snapshot_tree(self._session, self._ref)
        new = (info for info in tree if info.moref not in self._before)
        return next((info for info in new if info.description == self._description), None)

    def _undo(self, begun: Future[Any]) -> None:
        """Let the server finish what it has begun (it cannot be called back), then remove what has our mark."""
        try:
            for task in self._tasks(begun):
                _wait_for_end(self._session, self._ref, task, doing=self._doing)
            found = self._find()
        except HyperExportError as error:
            logger.error("cannot tell whether a snapshot of %s was left behind: %s", self._ref.path, error)
            return
        if found is not None:
            self._remove(found.moref)

    def _remove(self, moref: str) -> None:
        """Begin the removal; a run that was stopped does not wait for its end, which vSphere comes to by itself."""
        enough = StopSignal()
        timer = Timer(_SECONDS_AFTER_A_STOP, enough.set)
        timer.daemon = True
        with (self._stop or StopSignal()).waking(timer.start):
            try:
                remove_snapshot(self._session, self._ref, moref, stop=enough)
            except Interrupted:
                logger.warning("snapshot %s of %s is being removed; vSphere completes it", moref, self._ref.path)
            finally:
                timer.cancel()

    def _tasks(self, begun: Future[Any]) -> list[Any]:
        try:
            return [begun.result(timeout=_UNDO_TIMEOUT)]
        except (HyperExportError, TimeoutError):
            # Ours may be among the unfinished ones when its answer never reached us.
            return unfinished_tasks(self._session, self._ref, kind="VirtualMachine.createSnapshot", doing=self._doing)


def _wait_for_end(session: Session, ref: VmRef, task: Any, *, doing: str) -> None:
    try:
        wait_task(session, task, doing=doing, timeout=_UNDO_TIMEOUT, vm=ref)
    except HyperExportError as error:
        logger.info("%s", error)


def _refuse_long_chain(ref: VmRef, tree: tuple[SnapshotInfo, ...]) -> None:
    depth = next((info.depth for info in tree if info.current), 0)
    if depth >= LONGEST_CHAIN:
        raise SnapshotChainTooLong(
            f"{ref.path} has a chain of {depth} snapshots, and vSphere allows 32",
            fix="Remove snapshots that are no longer needed",
        )


def _until_removed(remove: Callable[[], None], *, stop: StopSignal | None, timeout: float) -> None:
    """Retry a removal that the server refuses; that is safe, because each attempt first looks whether it still exists.

    What will pass (a conflicting task, a network that is down) is waited for as long as ``patience`` lasts. A fault of
    which that is uncertain is repeated a few times only, one that lasts not at all (``faults.py``).
    """
    faults = count(1)

    def should_retry(error: BaseException) -> bool:
        if isinstance(error, TaskVanished) or (isinstance(error, HyperExportError) and error.transient):
            return True
        if isinstance(error, QuestionUnanswered):
            return False
        return isinstance(error, ServerFault) and not cannot_succeed(error) and next(faults) <= _REPEATED_FAULTS

    def pause(seconds: float) -> None:
        if stop is None:
            time.sleep(seconds)
        elif stop.wait(seconds):
            stop.check()

    def say(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        logger.warning("%s; trying again", error.what if isinstance(error, HyperExportError) else "not removed")

    for attempt in Retrying(
        retry=retry_if_exception(should_retry),
        stop=lambda state: state.idle_for >= timeout,  # the hours that a removal itself takes don't count
        wait=wait_random_exponential(multiplier=0.5, max=30),
        sleep=pause,
        before_sleep=say,
        reraise=True,
    ):
        with attempt:
            remove()
