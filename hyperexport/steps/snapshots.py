"""The snapshots of an export: planned, taken, removed as planned. The policy itself is ``policy/snapshots.py``."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from threading import Timer
from typing import Final

from hyperexport.base.stop import StopSignal
from hyperexport.errors import HyperExportError, Interrupted, SnapshotChainTooLong, SnapshotLeaked, VmHeld
from hyperexport.model.manifest import StageName
from hyperexport.model.progress import Progress, Stage, report
from hyperexport.model.vm import PowerState, SnapshotInfo
from hyperexport.policy import snapshots as policy
from hyperexport.policy.snapshots import SnapshotPlan
from hyperexport.steps.folders import exports_of
from hyperexport.steps.job import Job
from hyperexport.steps.locks import describe_holder, describe_owner, removal_hint
from hyperexport.steps.stages import stage
from hyperexport.steps.step import step
from hyperexport.vsphere import snapshots as vsphere
from hyperexport.vsphere.inventory import datastore_free
from hyperexport.vsphere.snapshots import CreatedSnapshot

logger = logging.getLogger(__name__)

SECONDS_AFTER_A_STOP: Final = 15.0

FREE_THE_CHAIN: Final = "Remove old snapshots in vSphere, or those that exports kept with --keep-snapshots N"


@step("plan-snapshots", retried=True)
def make_snapshot_plan(job: Job) -> SnapshotPlan:
    """Decide what becomes of the VM's snapshots, and warn of what may go wrong with them.

    Raises:
        VmHeld: Another run holds the VM: it made a snapshot, and is not proved to be over.
        SnapshotChainTooLong: One more snapshot would come too near to vSphere's limit.
    """
    wanted = job.options.snapshot
    makes = job.source.from_snapshot
    plan = policy.plan_snapshots(
        job.vm.snapshots,
        vm=job.identity,
        make=(wanted.name or f"hyperexport-{job.started:%Y%m%dT%H%M%SZ}") if makes else None,
        keeps_made=not wanted.deletes,
        keep=wanted.keep,
        merge_all=wanted.consolidate,
        is_over=job.is_over,
        at_work=job.at_work,
        was_read=_ReadAlready(job),
    ).model_copy(update={"why_none": job.source.why})
    if plan.why_none:
        logger.info("%s: no snapshot is made: %s", job.vm.name, plan.why_none)
    if plan.holder is not None:
        words, fix = describe_holder(plan.holder, job.at_work)
        held = f"{job.ref.path} is held by {words}"
        if not job.options.execution.dry_run:
            raise VmHeld(held, fix=fix)
        job.warn(f"{held}; the real export would fail. {fix}")
    for snapshot, owner in plan.in_doubt:
        job.warn(
            f"snapshot {snapshot.name} of {job.ref.path} stays: it is unknown whether "
            f"{describe_owner(owner)}, is over. {removal_hint(owner)}"
        )
    refusal = policy.chain_refusal(plan.chain_before) if plan.make else None
    if refusal:
        raise SnapshotChainTooLong(f"{job.ref.path}: {refusal}", fix=FREE_THE_CHAIN)
    if plan.make:
        for warning in policy.space_warnings(job.disks, datastore_free(job.session, job.ref)):
            job.warn(warning)
    if job.vm.consolidation_needed and not plan.merges_all:
        warn_of_consolidation(job)
    return plan


class _ReadAlready:
    """Tells whether one of the run's stores holds the export that was read from a snapshot.

    The manifest is written when the last byte has been read, so that snapshot is read no more, wherever its
    run was. The stores are read at the first question.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._found: set[tuple[str, datetime]] | None = None

    def __call__(self, snapshot: SnapshotInfo) -> bool:
        if self._found is None:
            self._found = set(self._records())
        return (snapshot.moref, snapshot.created) in self._found

    def _records(self) -> Iterator[tuple[str, datetime]]:
        for store in self._job.stores:
            try:
                exports = exports_of(store, self._job.folder_in(store), self._job.identity)
            except HyperExportError as error:
                logger.info("%s does not say which snapshots are no longer needed: %s", store.url, error)
                continue
            for export in exports:
                if export.manifest.snapshot:
                    yield export.manifest.snapshot.moref, export.manifest.snapshot.created


def warn_of_consolidation(job: Job) -> None:
    """Say that the VM has delta disks which belong to no snapshot, and what to do."""
    job.warn(f"vSphere says that the disks of {job.vm.name} need consolidation; --consolidate-snapshots does it")


@step("take-snapshot", retried=True)
@stage(StageName.TAKE_SNAPSHOT)
def take_snapshot(job: Job, name: str) -> CreatedSnapshot:
    """Freeze the VM for the export.

    Raises:
        SnapshotFailed: The server did not make it, the chain is too long, or quiescing was required and failed.
    """
    wanted = job.options.snapshot
    created = vsphere.create_snapshot(
        job.session,
        job.ref,
        name=name,
        owner=job.owner.made_for(name),
        quiesce=wanted.quiesces,
        memory=wanted.memory,
        quiesce_required=wanted.quiesce_required,
        tools_running=job.vm.tools_running,
        powered_on=job.vm.power_state is not PowerState.OFF,
        suspended=job.vm.power_state is PowerState.SUSPENDED,
        stop=job.stop,
    )
    job.stopwatch.snapshot_made(created.record.moref)
    for warning in created.warnings:
        job.warn(warning)
    return created


@step("remove-snapshot", run_name="remove snapshot {name}")
@stage(StageName.REMOVE_SNAPSHOT)
def remove_snapshot(job: Job, moref: str, name: str) -> None:
    """Remove one snapshot and wait for its consolidation, however long it takes, with visible progress.

    When the run was asked to stop, the removal still starts, with a short wait: vSphere completes it
    with it by itself, and Prefect kills a cancelled run after 30 s.

    Raises:
        SnapshotLeaked: It is still there, and vSphere is not removing it.
    """
    on_progress = _showing(job, name)
    enough = StopSignal()
    timer = Timer(SECONDS_AFTER_A_STOP, enough.set)
    timer.daemon = True
    with job.stop.waking(timer.start):
        try:
            vsphere.remove_snapshot(job.session, job.ref, moref, on_progress=on_progress, stop=enough)
        except Interrupted:
            logger.warning("%s: snapshot %s is being removed; vSphere completes the removal", job.vm.name, name)
            return
        finally:
            timer.cancel()
    job.stopwatch.snapshot_removed(moref)
    report(Progress(job.ref, name, Stage.REMOVE_SNAPSHOT, 100, 100, 0, done=True))


@step("tidy-snapshots")
def tidy_snapshots(job: Job, plan: SnapshotPlan, made: str | None, failed: bool = False) -> None:
    """Remove what the plan gives up, now that the export is safe or has failed.

    Args:
        job: The export.
        plan: What becomes of the VM's snapshots.
        made: The moref of the snapshot that this run made; None without one.
        failed: Whether the export failed; then no more goes than retention asks for.

    Raises:
        HyperExportError: Something could not be removed.
    """
    if failed:
        there = vsphere.snapshot_tree(job.session, job.ref)
        doomed = policy.given_up_after_a_failure(plan, there, vm=job.identity, made=made)
        reasons = {one.moref: "its export failed" if one.moref == made else plan.why_removed for one in doomed}
        _remove_all(job, doomed, reasons, told=True)
        return
    if plan.merges_all:
        _merge_all(job, plan, made)
        return
    _remove_all(job, plan.removed, {one.moref: plan.why_removed for one in plan.removed})
    if vsphere.consolidation_needed(job.session, job.ref):
        warn_of_consolidation(job)


def _remove_all(job: Job, doomed: Sequence[SnapshotInfo], reasons: Mapping[str, str], *, told: bool = False) -> None:
    """Remove several snapshots; one that cannot be removed keeps no other.

    Args:
        job: The export.
        doomed: The snapshots, in the order in which they go.
        reasons: Why, by moref.
        told: Whether each removed snapshot is listed as cleaned up in the job's failure.

    Raises:
        SnapshotLeaked: Some could not be removed; the message names each.
    """
    failures: list[str] = []
    for snapshot in doomed:
        why = reasons[snapshot.moref]
        logger.info("%s: removing snapshot %s: %s", job.vm.name, snapshot.name, why)
        try:
            remove_snapshot(job, snapshot.moref, snapshot.name)
        except Interrupted:
            raise
        except HyperExportError as error:
            failures.append(f"{snapshot.name}: {error.what}")
        else:
            if told:
                job.cleaned_up.append(f"snapshot {snapshot.name} was removed: {why}")
    if failures:
        raise SnapshotLeaked(
            f"{len(failures)} of {len(doomed)} snapshots of {job.ref.path} could not be removed: {'; '.join(failures)}",
            fix="Remove them in vSphere, or run the export again",
        )


def _merge_all(job: Job, plan: SnapshotPlan, made: str | None) -> None:
    """Merge every snapshot that the plan lists, users' snapshots too, and delta disks that belong to none.

    One that was created since then is not listed: it stays, and the listed ones go one by one.
    """
    listed = {snapshot.moref for snapshot in plan.removed} | {made}
    there = vsphere.snapshot_tree(job.session, job.ref)
    new = [snapshot for snapshot in there if snapshot.moref not in listed]
    for snapshot in new:
        job.warn(f"snapshot {snapshot.name} was made during the export, and stays: it was not listed for removal")
    if new:
        doomed = [snapshot for snapshot in there if snapshot.moref in listed]
        _remove_all(job, doomed, {one.moref: "all snapshots go" for one in doomed})
    elif there:
        for snapshot in there:
            logger.warning("%s: removing snapshot %s of %s", job.vm.name, snapshot.name, snapshot.created)
        vsphere.remove_all_snapshots(job.session, job.ref, on_progress=_showing(job, "all snapshots"))
    vsphere.consolidate_disks(job.session, job.ref, on_progress=_showing(job, "delta disks"))


def _showing(job: Job, item: str) -> Callable[[int], None]:
    """Report how far the server is with a removal."""
    return lambda percent: report(Progress(job.ref, item, Stage.REMOVE_SNAPSHOT, percent, 100, 0))
