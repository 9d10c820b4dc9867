"""What a restore will do: decided, checked and said before anything is made."""

import logging
from collections.abc import Sequence
from typing import Final

from hyperexport.base.units import MIB, format_bytes
from hyperexport.convert.conversion import choose_disks
from hyperexport.convert.whole import check_stored
from hyperexport.errors import DatastoreFull, PermissionMissing, RestoreFailed, TargetExists, VerificationFailed
from hyperexport.formats.ovf_chain import without_bases
from hyperexport.images.opening import read_whole
from hyperexport.model.manifest import ExportManifest, FileEntry, FileRole
from hyperexport.model.restore import (
    Identity,
    LostSetting,
    Provisioning,
    RestoredFile,
    RestorePlan,
    VmPlace,
)
from hyperexport.model.vm import VmRef
from hyperexport.steps.restore_job import Prepared, RestoreJob
from hyperexport.steps.step import step
from hyperexport.verify.descriptor import refused_parts
from hyperexport.vsphere.disk_moves import free_units, missing_controller
from hyperexport.vsphere.import_spec import (
    Edits,
    ImportSpec,
    create_import_spec,
    edit_import_spec,
    networks_of_descriptor,
    provisioning_of_disks,
)
from hyperexport.vsphere.inventory import describe, find_vm
from hyperexport.vsphere.kept_config import KeptConfig
from hyperexport.vsphere.names import escape
from hyperexport.vsphere.partial_vms import tagged, untagged
from hyperexport.vsphere.places import Placement, Places, names_in, vms_with_uuid
from hyperexport.vsphere.restore_privileges import RestoreNeeds, missing_for_restore
from hyperexport.vsphere.tags import missing_tags
from hyperexport.vsphere.vm_place import known_attributes, read_place

logger = logging.getLogger(__name__)

_LARGEST_TEXT: Final = 16 * MIB
_LONGEST_NAME: Final = 80


@step("plan-restore", retried=True)
def make_restore_plan(job: RestoreJob) -> RestorePlan:
    """Decide where the export goes and what it becomes there. Nothing is made.

    Raises:
        VerificationFailed, ExportNotFound: The export is damaged, or not all of it is there.
        PlaceNotFound, VmNotFound, VmAmbiguous: There is no such place or VM.
        TargetExists, DatastoreFull, PermissionMissing, ImportRefused, UsageError: It cannot be done, as they say.
    """
    job.stop.check()
    entries = check_export(job)
    kept, descriptor = kept_config(job), descriptor_of(job)
    target = describe(job.session, find_vm(job.session, job.request.attach_to)).ref if job.request.attach_to else None
    was = read_place(job.session, target) if target else place_of(job, kept)
    sources = () if target else networks_of_descriptor(descriptor)
    placement = Places(job.session).resolve(job.request, was, networks=sources)
    name = name_of(job, target)
    check_free(job, placement, name)
    identity, why = identity_of(job)
    path = f"{placement.folder.path}/{escape(name)}"
    wanted = job.request.disk_provisioning
    made = create_import_spec(
        job.session,
        descriptor,
        name=name,
        pool=placement.pool.obj,
        datastore=placement.datastore.obj,
        host=placement.host.obj if placement.host else None,
        networks={source: place.obj for source, place in placement.networks.items()},
        provisioning=wanted or Provisioning.THIN,
    )
    annotation = untagged(kept.text("annotation") or "")
    drill = job.drill
    edits = Edits(
        disks=entries,
        identity=identity,
        provisioning=wanted,
        disconnected=job.request.disconnected,
        annotation=tagged("" if target else annotation, job.owner(path), drill=drill is not None),
        bare=target is not None,
        isolated=drill is not None,
        memory_mib=drill.memory_mib if drill else None,
    )
    kinds = provisioning_of_disks(kept, entries, wanted)
    lost = edit_import_spec(made, kept, edits)
    addresses = free_units(job.session, target, [missing_controller(entry) for entry in entries]) if target else ()
    plan = RestorePlan(
        export_id=job.export.export_id,
        source=job.source,
        vcenter=job.session.address,
        name=name,
        path=path,
        folder=placement.folder.path,
        resource_pool=placement.pool.path,
        host=placement.host.name if placement.host else None,
        datastore=placement.datastore.name,
        networks=tuple((source, place.name) for source, place in placement.networks.items()),
        disconnected=job.request.disconnected,
        identity=identity,
        identity_reason=why,
        attach_to=target,
        attach_at=tuple(spot.name for spot in addresses),
        files=files_of(job, made, kinds),
        space_needed=sum(
            (entry.capacity or 0) if kinds[entry.name] is not Provisioning.THIN else entry.populated or entry.size
            for entry in entries
        ),
        space_free=placement.free,
        # By its tags or attributes other tools, and fleets of ours, would take a drill's VM for the original.
        tags=() if target or drill else was.tags,
        custom_attributes=() if target or drill else tuple(was.custom_attributes.items()),
        power_on=job.request.power_on,
        lost=(*lost_of_export(job, entries, identity), *lost) if target is None else (),
        warnings=made.warnings,
    )
    plan = without_what_is_missing(job, plan)
    check_space(plan)
    check_privileges(job, plan, placement)
    job.prepared = Prepared(placement, made, annotation, addresses)
    return plan


# -- the export ---------------------------------------------------------------------------------------------------


def check_export(job: RestoreJob) -> list[FileEntry]:
    """See that everything that is restored is there; that its bytes are right is proved while they are sent.

    Returns:
        The disks.

    Raises:
        VerificationFailed: A verification found damage in what is restored, or a file has another size.
        ExportNotFound: A file is not there.
    """
    manifest = job.export.manifest
    entries = choose_disks(job.export, job.request.disks)
    damage = damage_of(manifest, entries)
    if damage:
        raise VerificationFailed(
            f"{job.export} is damaged: {damage[0]}",
            fix="Choose another export (hyperexport list shows them), or with --disk disks that are sound",
        )
    if manifest.damage:
        logger.warning("%s is damaged in disks that are not restored: %s", job.export, manifest.damage[0])
    for entry in manifest.files:
        if entry.role is FileRole.NVRAM or (entry.role is FileRole.DISK and entry in entries):
            check_stored(job.store, job.export, entry)
    return entries


def damage_of(manifest: ExportManifest, entries: Sequence[FileEntry]) -> list[str]:
    """What is known of an export's damage, but for that of files which are of other disks alone."""
    needed = {part.name for entry in entries for part in manifest.parts(entry)}
    others = {entry.name for entry in manifest.stored_disks} - needed
    return [words for words in manifest.damage if words.partition(": ")[0] not in others]


def kept_config(job: RestoreJob) -> KeptConfig:
    """The VM's configuration as the export keeps it; an empty one where it keeps none."""
    entry = next((entry for entry in job.export.manifest.files if entry.role is FileRole.CONFIG), None)
    if entry is None:
        return KeptConfig({})
    data = read_whole(job.store, job.export, entry, most=_LARGEST_TEXT)
    return KeptConfig.parse(data, where=f"{entry.name} of {job.export}")


def descriptor_of(job: RestoreJob) -> str:
    """The export's OVF descriptor."""
    entry = next((entry for entry in job.export.manifest.files if entry.role is FileRole.DESCRIPTOR), None)
    if entry is None:
        raise RestoreFailed(f"{job.export} has no OVF descriptor", fix="Use hyperexport convert for its disks")
    data = read_whole(job.store, job.export, entry, most=_LARGEST_TEXT)
    if refused := next(refused_parts(data), None):
        raise RestoreFailed(f"the descriptor of {job.export} is not given to vSphere: {refused}")
    for disk in job.export.manifest.disks:
        data = without_bases(data, disk.name, disk.chain)
    return data.decode("utf-8", "replace")


def place_of(job: RestoreJob, kept: KeptConfig) -> VmPlace:
    """Where the exported VM was, as far as the export tells. Older ones tell the folder and the datastore alone."""
    if job.export.manifest.place is not None:
        return job.export.manifest.place
    files = kept.raw("files")
    home = files.get("vmPathName") if isinstance(files, dict) else None  # pyright: ignore[reportUnknownMemberType,reportUnknownVariableType]
    store = home.partition("]")[0].removeprefix("[") if isinstance(home, str) else ""
    folder = job.source.path.rpartition("/")[0]
    return VmPlace(folder=folder or None, datastores=(store,) if store else ())


_KEPT_BY_VCENTER: Final = (
    "storage policy, DRS groups and rules, permissions",
    "vCenter keeps them outside the VM, and an export does not keep them; set them again in vSphere",
)


def lost_of_export(job: RestoreJob, entries: Sequence[FileEntry], identity: Identity) -> list[LostSetting]:
    """What does not come back because of the export, or of what is asked for."""
    manifest = job.export.manifest
    lost = [LostSetting(disk.label, f"the disk is not in the export: {disk.reason}") for disk in manifest.skipped_disks]
    lost += [
        LostSetting(entry.disk_label or entry.name, "the disk is left out, as --disk asks")
        for entry in manifest.disks
        if entry not in entries
    ]
    if identity is Identity.NEW:
        lost.append(LostSetting("MAC addresses, BIOS UUID, instance UUID", "they are new, because of --identity new"))
    place = manifest.place
    if place is None:
        reason = "the export was made by a version that did not keep them"
        lost.append(LostSetting("resource pool, host, tags, custom attributes", reason))
    else:
        lost += [LostSetting("place", f"it could not be read at the export: {words}") for words in place.unread]
    if manifest.vcenter_uuid:
        lost.append(LostSetting(*_KEPT_BY_VCENTER))
    return lost


# -- the target ---------------------------------------------------------------------------------------------------


def name_of(job: RestoreJob, target: VmRef | None) -> str:
    """The name of the VM that is made."""
    if target is None:
        return job.request.name or job.source.name
    suffix = f"-restore-{job.export.export_id}"
    return target.name[: _LONGEST_NAME - len(suffix)] + suffix


def check_free(job: RestoreJob, placement: Placement, name: str) -> None:
    """Refuse a name that something in the folder has: vSphere compares them without regard to case.

    Raises:
        TargetExists: It is taken.
    """
    if name.lower() in {each.lower() for each in names_in(job.session, placement.folder.obj)}:
        raise TargetExists(
            f"{placement.folder.path} on {job.session.address} already has something named {name!r}",
            fix="Choose another --name or --folder; a restore never replaces a VM",
        )


def identity_of(job: RestoreJob) -> tuple[Identity, str]:
    """Whether the VM keeps its addresses and UUIDs, and why."""
    uuid = job.source.instance_uuid
    originals = vms_with_uuid(job.session, uuid) if uuid else []
    there = ", ".join(originals)
    if job.request.identity is Identity.KEEP and originals:
        job.warn(
            f"the original VM is still there ({there}): it and the restored one have the same MAC addresses and BIOS "
            "UUID, and vSphere gives the restored one another instance UUID; do not connect both to one network"
        )
    if job.request.identity:
        return job.request.identity, "as asked for"
    if not uuid:
        return Identity.NEW, "it is unknown whether the original VM still exists"
    if originals:
        return Identity.NEW, f"the original VM is still there ({there})"
    return Identity.KEEP, f"the original VM is not on {job.session.address}"


def files_of(job: RestoreJob, made: ImportSpec, kinds: dict[str, Provisioning]) -> tuple[RestoredFile, ...]:
    """The files that are sent, in the order in which vSphere asks for them.

    Raises:
        RestoreFailed: It asks for one that the export does not have.
    """
    manifest = job.export.manifest
    files: list[RestoredFile] = []
    for asked in made.files:
        entry = manifest.file(asked.path)
        if entry is None or entry.role not in {FileRole.DISK, FileRole.NVRAM}:
            raise RestoreFailed(f"vSphere asks for {asked.path}, which {job.export} does not have")
        disk = entry.role is FileRole.DISK
        files.append(
            RestoredFile(
                name=entry.name,
                size=sum(part.size for part in manifest.parts(entry)),
                capacity=entry.capacity if disk else None,
                number=manifest.disks.index(entry) if disk else None,
                label=entry.disk_label,
                provisioning=kinds.get(entry.name),
            )
        )
    return tuple(files)


def without_what_is_missing(job: RestoreJob, plan: RestorePlan) -> RestorePlan:
    """Leave out the tags and custom attributes that the server does not have, and list them as lost."""
    lost = list(plan.lost)
    missing = missing_tags(job.session, plan.tags)
    lost += [LostSetting(f"tag {tag}", error.what) for tag, error in missing.items()]
    known = known_attributes(job.session) if plan.custom_attributes else frozenset[str]()
    unknown = [name for name, _ in plan.custom_attributes if name not in known]
    lost += [LostSetting(f"custom attribute {name}", f"{job.session.address} does not have it") for name in unknown]
    nvram = [entry.name for entry in job.export.manifest.files if entry.role is FileRole.NVRAM]
    sent = {file.name for file in plan.files}
    if plan.attach_to is None:
        lost += [LostSetting(name, f"{job.session.address} does not ask for it") for name in nvram if name not in sent]
    return plan.model_copy(
        update={
            "tags": tuple(tag for tag in plan.tags if tag not in missing),
            "custom_attributes": tuple(each for each in plan.custom_attributes if each[0] not in unknown),
            "lost": tuple(dict.fromkeys(lost)),
        }
    )


def check_space(plan: RestorePlan) -> None:
    """Refuse what does not fit.

    Raises:
        DatastoreFull: It does not.
    """
    if plan.space_free is not None and plan.space_needed > plan.space_free:
        raise DatastoreFull(
            f"{plan.datastore} has {format_bytes(plan.space_free)} free, and the disks need "
            f"{format_bytes(plan.space_needed)}",
            fix="Free some space, or choose another --datastore, or --disk-provisioning thin",
        )


def check_privileges(job: RestoreJob, plan: RestorePlan, placement: Placement) -> None:
    """Refuse what the user may not do, and warn of what will be left out.

    Raises:
        PermissionMissing: A privilege is missing that the restore cannot do without.
    """
    needs = RestoreNeeds(
        power_on=plan.power_on,
        tags=bool(plan.tags),
        attributes=bool(plan.custom_attributes),
        attach_to=plan.attach_to,
        drill=job.drill is not None,
    )
    missing = missing_for_restore(job.session, placement, needs)
    vital = [f"{each.requirement.privilege} on {each.place}" for each in missing if each.requirement.vital]
    if vital:
        raise PermissionMissing(
            f"{job.session.user} lacks {', '.join(vital)}",
            fix="Give the user a role with these privileges there; docs/privileges.md lists all",
        )
    for each in missing:
        job.warn(f"{job.session.user} lacks {each.requirement.privilege} on {each.place}: {each.requirement.without}")
