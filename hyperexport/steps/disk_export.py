"""One disk of an export: transferred whole, stored as a delta, written whole from the store's grains, or not moved."""

import logging

from hyperexport.errors import ChecksumMismatch, ExportNotFound, VerificationFailed
from hyperexport.images.base_grains import BaseUnusable
from hyperexport.images.delta import TrackingWrong
from hyperexport.model.manifest import FileRole
from hyperexport.model.transport import RANGED
from hyperexport.model.vm import DiskInfo
from hyperexport.policy.export_plan import Decision, DiskPlan
from hyperexport.policy.incremental import series_of
from hyperexport.steps import deltas, disks, range_deltas
from hyperexport.steps.job import Distrusted, Job
from hyperexport.steps.staging import Copies, Entries
from hyperexport.steps.step import step

logger = logging.getLogger(__name__)


@step("export-disk", run_name="{plan.decision} {plan.label}", retried=True)
def export_disk(job: Job, copies: Copies, plan: DiskPlan, disk: DiskInfo, snapshot: str | None) -> list[Entries]:
    """Transfer one disk into every store, or let the base export's bytes stand for it, as the plan says.

    Returns:
        The files that the disk is made of, the base first, each with its tags.
    """
    if disk.key not in job.found_wrong:
        try:
            return _noting(plan.distrusted, _export(job, copies, plan, disk, snapshot))
        except TrackingWrong as error:
            job.warn(
                f"change tracking of {disk.label} is wrong: {error}. The disk is exported whole, and its change "
                "tracking is not used again until it begins anew: switch it off and on again in vSphere"
            )
        except range_deltas.NotAsStored as error:
            _distrust_ranges(job, plan, disk, str(error))
        job.found_wrong.add(disk.key)
    deltas.drop_bases(copies, deltas.base_names(plan))
    return _noting(series_of(disk.change_id), disks.transfer_disk(job, copies, plan, disk, snapshot))


def _noting(distrusted: str | None, files: list[Entries]) -> list[Entries]:
    """The files, with the series of change ids that is distrusted in the disk's own entries."""
    told = {"distrusted": distrusted}
    return [
        tuple(entry.model_copy(update=told) for entry in file) if file[0].role is FileRole.DISK else file
        for file in files
    ]


def _distrust_ranges(job: Job, plan: DiskPlan, disk: DiskInfo, reason: str) -> None:
    """Warn, and have the run emit an event."""
    assert plan.transport, "only a range transport is distrusted"
    logger.error("%s: %s: %s", job.vm.name, disk.label, reason)
    job.distrusted.append(Distrusted(disk.label, plan.transport, reason))
    job.warn(
        f"{disk.label} is exported whole, because {reason}. Either change tracking lost a change, which earlier deltas "
        f"of this disk may lack too, or {plan.transport} returned wrong bytes. Change tracking of the disk is not used "
        "again until it begins anew: switch it off and on again in vSphere"
    )


def _export(job: Job, copies: Copies, plan: DiskPlan, disk: DiskInfo, snapshot: str | None) -> list[Entries]:
    if plan.synthetic and plan.decision is Decision.REUSE:
        try:
            return deltas.write_synthetic(job, copies, plan, disk)
        except BaseUnusable as error:
            otherwise = f"{disk.label} is unchanged, and was transferred anyway: {_with_advice(error)}"
    elif plan.synthetic:
        try:
            return range_deltas.transfer_ranges(job, copies, plan, disk, snapshot)
        except range_deltas.RangesUnusable as error:
            otherwise = _read_whole(plan, error)
        except BaseUnusable as error:
            otherwise = (
                f"{disk.label} was transferred whole, not written from the store's own grains: {_with_advice(error)}"
            )
    elif plan.decision is Decision.REUSE:
        try:
            return disks.reuse_disk(job, copies, plan, disk)
        except (ExportNotFound, ChecksumMismatch) as error:  # deleted since the plan was made, or damaged
            otherwise = f"{disk.label} is unchanged, and was transferred anyway: {error.what}"
            deltas.drop_bases(copies, [part.name for part in plan.bases])
    elif plan.bases and _shares_files(job, copies, plan):
        try:
            return _store_changes(job, copies, plan, disk, snapshot)
        except BaseUnusable as error:
            otherwise = f"{disk.label} is stored whole, not as a delta: {_with_advice(error)}"
            deltas.drop_bases(copies, deltas.base_names(plan))
    else:
        otherwise = ""
    files = disks.transfer_disk(job, copies, plan, disk, snapshot)
    _warn(job, otherwise)
    return files


def _store_changes(job: Job, copies: Copies, plan: DiskPlan, disk: DiskInfo, snapshot: str | None) -> list[Entries]:
    """Read what changed the way that was planned, or out of the whole stream where that fails."""
    otherwise = ""
    if plan.transport in RANGED:
        try:
            return range_deltas.transfer_ranges(job, copies, plan, disk, snapshot)
        except range_deltas.RangesUnusable as error:
            otherwise = _read_whole(plan, error)
    files = deltas.transfer_delta(job, copies, plan, disk, snapshot)
    _warn(job, otherwise)
    return files


def _warn(job: Job, otherwise: str) -> None:
    """Warn that a disk came in another way than planned, once it came: a retry may yet go as planned."""
    if otherwise:
        job.warn(otherwise)


def _with_advice(error: BaseUnusable) -> str:
    """Why a base is not used, and what to do about it where it is damaged: only a verification records damage."""
    damaged = isinstance(error.__cause__, VerificationFailed | ChecksumMismatch)
    return f"{error}. Record the damage with: hyperexport verify" if damaged else str(error)


def _read_whole(plan: DiskPlan, why: Exception) -> str:
    return f"{plan.label} was read whole by its lease, not in ranges by {plan.transport}: {why}"


def _shares_files(job: Job, copies: Copies, plan: DiskPlan) -> bool:
    """Tell whether exports of the primary store can share the base's files: else each delta would copy its chain."""
    copy, name = copies.parts[0], deltas.base_names(plan)[0]
    found = copy.holding(plan.bases[0])
    if copy.store.refers or found is None:
        return True
    if copy.staging.reuse(*found, name) is None:
        logger.info("%s: %s: stored whole: %s makes no hard links", job.vm.name, plan.label, copy.store.url)
        return False
    copy.staging.remove(name)
    return True
