"""The plan of an export: what was saved before, what changed since, what has to move."""

import logging
from datetime import UTC, datetime
from functools import partial

from hyperexport.base.units import format_bytes
from hyperexport.errors import (
    ChangeTrackingUnavailable,
    ExportNotFound,
    NothingToExport,
    PermissionMissing,
    QuiesceFailed,
    StoreUnusable,
    VmPoweredOn,
    VmUnavailable,
)
from hyperexport.model.manifest import ExportManifest, FileEntry, StageName
from hyperexport.model.vm import DiskInfo, PowerState, VmInfo
from hyperexport.options.declaring import Format
from hyperexport.options.precedence import ExportOptions
from hyperexport.policy.export_plan import ExportPlan
from hyperexport.policy.incremental import ChangeEvidence, full_reason, plan_export, questions
from hyperexport.steps.folders import listing_for
from hyperexport.steps.job import Job, source_of
from hyperexport.steps.locks import describe_holder, other_stagings
from hyperexport.steps.proof import find_damage
from hyperexport.steps.stages import stage
from hyperexport.steps.step import step
from hyperexport.steps.stores import check_stores
from hyperexport.steps.transports import check_transport, choose_transports
from hyperexport.store.at_once import at_once
from hyperexport.store.base import Store, StoredExport
from hyperexport.store.listing import StoreListing
from hyperexport.vsphere import privileges
from hyperexport.vsphere.backing_files import backing_files
from hyperexport.vsphere.change_tracking import changed_areas
from hyperexport.vsphere.inventory import disks_of_snapshot, read_disks
from hyperexport.vsphere.privileges import Place, Requirement, missing_on_datastores, missing_privileges
from hyperexport.vsphere.session import Session

logger = logging.getLogger(__name__)


@step("check-export")
def check_export(job: Job) -> None:
    """Refuse at once what can't work: a running VM without a snapshot, no disk to export, a store that takes nothing.

    The stores are proved by writing to them; of what a dry run writes, nothing is ever seen.
    """
    check_exportable(job)
    check_stores(job.stores, unseen=job.options.execution.dry_run)
    if job.options.execution.dry_run:
        warn_of_others(job)


def warn_of_others(job: Job) -> None:
    """Say in a dry run who holds the VM's folder in a store: the real run would wait for that, or fail."""
    for store in job.stores:
        folder = job.folder_in(store)
        for other in other_stagings(store, folder, job.owner):
            if other.owner and not job.is_over(other.owner):
                words, fix = describe_holder(other.owner, job.at_work)
                job.warn(f"{store.url}/{folder} is held by {words}; the real export would wait for that or fail. {fix}")


def check_exportable(job: Job) -> None:
    """Refuse at once what can't work, before anything is changed.

    Raises:
        VmUnavailable: vSphere cannot reach the VM, or does not give its configuration.
        VmPoweredOn: The VM runs and no snapshot was asked for.
        QuiesceFailed: Quiescing is required, and the guest cannot be asked.
        NothingToExport: The VM is encrypted, or no disk can be exported.
    """
    vm = job.vm
    check_available(vm)
    if job.source.needs_snapshot:
        raise VmPoweredOn(
            f"{job.source.needs_snapshot} and no snapshot was asked for",
            fix="Add --snapshot to export it while it runs, or power it off first",
        )
    if job.source.not_quiesced:
        if job.options.snapshot.quiesce_required:
            raise QuiesceFailed(
                job.source.not_quiesced,
                fix=f"{job.source.how_to_quiesce}, or export without --quiesce-required",
            )
        job.warn(f"the snapshot of {vm.name} is only crash-consistent: {job.source.not_quiesced}")
    if words := encryption_words(vm):
        raise NothingToExport(words[0], fix=words[1])
    refused = [f"{disk.label}: {disk.unexportable}" for disk in job.disks if disk.unexportable]
    if not any(disk.unexportable is None for disk in job.disks):
        reasons = "; ".join(refused) or "it has no disks"
        raise NothingToExport(f"{vm.ref.path} has no disk that can be exported ({reasons})")
    for refusal in refused:
        job.warn(f"not exported: {refusal}")
    for disk in job.disks:
        if disk.shared and disk.unexportable is None:
            job.warn(
                f"{disk.label} is shared with other VMs: if one of them writes to it during the export, its content "
                "is inconsistent"
            )
    check_transport(job)
    check_privileges(job)


def check_available(vm: VmInfo) -> None:
    """Refuse a VM that vSphere itself cannot read.

    Raises:
        VmUnavailable: It is disconnected, orphaned, inaccessible or invalid, or its devices are unknown.
    """
    if vm.connection not in (None, "connected"):
        raise VmUnavailable(
            f"vSphere reports {vm.ref.path} as {vm.connection}, so it cannot be exported",
            fix="Reconnect its host or its datastore in vSphere",
        )
    if vm.unread:
        raise VmUnavailable(
            f"vSphere could not read of {vm.ref.path}: {', '.join(vm.unread)}",
            fix="Check in vSphere that the VM is accessible and that the user has the role Read-only on it",
        )
    if not vm.readable:
        raise VmUnavailable(
            f"vSphere did not return the devices of {vm.ref.path}",
            fix="Check in vSphere that the VM is accessible and that the user has the role Read-only on it",
        )


def encryption_words(vm: VmInfo) -> tuple[str, str] | None:
    """Why an encrypted VM cannot be exported, and what to do; None for another one.

    vSphere Security, "Virtual Machine Encryption Caveats": OVF export is not supported for an encrypted VM.
    """
    if not vm.encrypted:
        return None
    if vm.vtpm and not any(disk.unexportable for disk in vm.disks):
        return (
            f"{vm.ref.path} has a virtual TPM, so its configuration (not its disks) is encrypted, and is not exported",
            "Remove the virtual TPM (save BitLocker recovery keys first), or back the VM up from inside the guest",
        )
    return (
        f"{vm.ref.path} is encrypted, and vSphere exports no encrypted VM",
        "Decrypt it, or back it up from inside the guest",
    )


def requirements(options: ExportOptions, *, from_snapshot: bool | None = None) -> tuple[Requirement, ...]:
    """What an export with these options asks of the user's roles, beyond being able to see the VM.

    Args:
        options: The options.
        from_snapshot: Whether a snapshot is made; by the options alone if None.
    """
    snapshot, incremental = options.snapshot, options.incremental
    takes = snapshot.take if from_snapshot is None else from_snapshot
    removes = snapshot.consolidate or snapshot.keep or (takes and snapshot.deletes)
    wanted = (
        (privileges.EXPORT, True),
        (privileges.CREATE_SNAPSHOT, takes),
        (privileges.REMOVE_SNAPSHOT, removes),
        (privileges.CHANGED_AREAS, incremental.enabled),
        (privileges.CHANGE_TRACKING, incremental.enable_tracking),
        (privileges.BROWSE, incremental.enabled),
        (privileges.FREE_SPACE, takes),
    )
    return tuple(requirement for requirement, needed in wanted if needed)


def missing_requirements(session: Session, vm: VmInfo, options: ExportOptions) -> list[tuple[Requirement, str]]:
    """Compare what the user may do with what the options need.

    Returns:
        What is missing, each with the path or name of what it is missing on; what is vital comes first.
    """
    needs = {
        need.privilege: need
        for need in requirements(options, from_snapshot=source_of(vm, options).from_snapshot)
        if need is not privileges.BROWSE or vm.power_state is PowerState.OFF
    }
    by_place = {place: [need.privilege for need in needs.values() if need.place is place] for place in Place}
    found = [(needs[one], vm.ref.path) for one in missing_privileges(session, vm.ref, by_place[Place.VM])]
    for store, missing in missing_on_datastores(session, vm.ref, by_place[Place.DATASTORE]).items():
        found += [(needs[one], f"datastore {store}") for one in missing]
    return sorted(found, key=lambda item: not item[0].vital)


def check_privileges(job: Job) -> None:
    """Compare what the user may do with what the options need, before anything is begun.

    Raises:
        PermissionMissing: Something is missing; the message names every privilege.
    """
    found = missing_requirements(job.session, job.vm, job.options)
    vital = [need.privilege for need, _ in found if need.vital]
    if vital:
        raise PermissionMissing(
            f"{job.session.user} lacks {', '.join(vital)} on {job.ref.path}",
            fix="Add the privileges to the user's role there",
        )
    for need, where in found:
        job.warn(f"without {need.privilege} on {where} {need.without}")


@step("plan-export", retried=True)
@stage(StageName.PLAN)
def make_plan(job: Job, snapshot: str | None) -> ExportPlan:
    """Decide for each disk whether it is transferred, and say why.

    Args:
        job: The export.
        snapshot: The moref of the snapshot that the export reads, or None: then a VM that is off is asked as it is,
            and for a running one the plan leaves open what only a snapshot can tell.
    """
    if snapshot is None:
        job.lease.hold()  # else a disk that is planned as unchanged may belong to an earlier moment than the others
    disks = disks_of(job, snapshot)
    listing = listing_for(job.primary, job.folder_in(job.primary), job.identity)
    job.warn_of_damaged(job.primary, listing.damaged)
    base, problem = newest_with_problem(job.primary, listing)
    full = full_reason(
        disks,
        base=base.manifest if base else None,
        wanted=job.options.incremental.enabled,
        force_full=job.options.incremental.force_full,
        full_after=job.options.incremental.full_after,
        now=datetime.now(UTC),
        base_problem=problem,
    )
    manifest = base.manifest if base else None
    can_ask = snapshot is not None or job.vm.power_state is PowerState.OFF
    evidence = ask_change_tracking(job, disks, manifest, snapshot) if full is None and can_ask else {}
    plan = plan_export(
        job.ref,
        disks,
        base=manifest,
        full=full,
        evidence=evidence,
        undecided=not can_ask,
        max_chain=job.options.incremental.max_chain,
        packed=job.options.destination.format is Format.OVA,
        synthetic_full=job.options.incremental.synthetic_full,
        distant=job.primary.refers,
    )
    rotten = damaged_base(job, base, plan) if base else None
    if rotten:
        full = f"the base export is damaged: {rotten}"
        plan = plan_export(job.ref, disks, base=manifest, full=full, evidence={})
    plan = choose_transports(job, plan, disks, snapshot)
    logger.info("%s: %s export: %s", job.vm.name, plan.kind, plan.reason)
    for disk in plan.disks:
        logger.info("%s: %s: %s (%s)", job.vm.name, disk.label, disk.decision, disk.why)
    return plan


def warn_of_room(job: Job, plan: ExportPlan) -> None:
    """Say where a store may not have room for what the plan transfers."""
    for store in job.stores:
        free = store.free_bytes()
        if free is not None and free < plan.written_bytes:
            job.warn(
                f"{store.url} has {format_bytes(free)} free, and up to {format_bytes(plan.written_bytes)} will be "
                "written: the export may run out of space"
            )


def disks_of(job: Job, snapshot: str | None) -> tuple[DiskInfo, ...]:
    """The disks that the export reads: as the snapshot froze them, or as a VM that is off has them."""
    if snapshot:
        return disks_of_snapshot(job.session, snapshot)
    if job.source.from_snapshot or job.vm.power_state is not PowerState.OFF:
        return job.disks
    if job.backing_files is None:
        # Once, and before anything is read: what is written later shows as later in the next comparison.
        job.backing_files = backing_files(job.session, job.ref, stop=job.stop)
    known = job.backing_files
    return tuple(disk.model_copy(update={"backing_files": known.get(disk.key, ())}) for disk in job.disks)


def newest_with_problem(store: Store, listing: StoreListing) -> tuple[StoredExport | None, str | None]:
    """Find the export that an incremental one would build on.

    Args:
        store: Where it is.
        listing: What the store holds of the VM.

    Returns:
        The newest proved export of the VM, if there is one, and what is wrong with it, in words, where it cannot be
        built on. Its manifest still says which change tracking is not to be trusted.
    """
    if not listing.exports:
        return None, listing.damaged[-1].words if listing.damaged else None
    newest = listing.exports[0]
    if known := newest.manifest.damage:
        return newest, f"{newest}: {known[0]}"

    def problem_of(entry: FileEntry) -> str | None:
        try:
            with store.open(newest, entry.name) as reader:
                size = reader.size
        except ExportNotFound:
            return f"{newest} lacks {entry.name}"
        except StoreUnusable as error:
            return f"{entry.name} of {newest} cannot be read ({error.what})"
        return None if size == entry.size else f"{entry.name} of {newest} has {size} bytes in place of {entry.size}"

    problems = at_once(problem_of, newest.manifest.stored_disks, distant=store.refers)
    return newest, next((problem for problem in problems if problem), None)


def damaged_base(job: Job, base: StoredExport, plan: ExportPlan) -> str | None:
    """With ``--verify``, prove the base's bytes that are to stand for unchanged disks, before anything relies on them.

    Locally they are read and hashed; in S3 the server's own checksum is compared, unless ``--verify=deep`` reads them.

    Returns:
        What is wrong, in words; None where nothing is, or no proof was asked for.
    """
    mode = job.options.execution.verify
    for disk in plan.to_reuse:
        if disk.synthetic or disk.base_entry is None:  # writing it anew reads and proves it
            continue
        entries = (*disk.bases, disk.base_entry)
        find = partial(find_damage, job.primary, base, mode=mode, stop=job.stop)
        for entry, damage in zip(entries, at_once(find, entries, distant=job.primary.refers), strict=True):
            if damage:
                return f"{entry.name} of {base} {damage}"
    return None


def ask_change_tracking(
    job: Job, disks: tuple[DiskInfo, ...], base: ExportManifest | None, snapshot: str | None
) -> dict[int, ChangeEvidence]:
    """Ask the server, disk by disk, what changed since the base export; a disk that it can't tell is not proven."""
    evidence: dict[int, ChangeEvidence] = {}
    asked = questions(disks, base) if base else {}
    if not asked:
        return evidence
    # A snapshot's disks stay as they are; those of a VM that is off were read before what this run has waited for.
    now = {disk.key: disk for disk in (disks if snapshot else read_disks(job.session, job.ref))}
    for key, since in asked.items():
        job.stop.check()
        try:
            if key not in now:
                raise ChangeTrackingUnavailable("the disk was removed from the VM meanwhile")
            areas = changed_areas(job.session, job.ref, now[key], snapshot=snapshot, since=since)
        except ChangeTrackingUnavailable as error:
            evidence[key] = ChangeEvidence(changed_bytes=None, problem=error.what)
        else:
            evidence[key] = ChangeEvidence(changed_bytes=areas.bytes, areas=areas.extents)
    return evidence
