"""From disks to an export: nvram, the VM's configuration, the descriptor, the checksums, the OVA, the manifest."""

import hashlib
import logging
from collections.abc import Sequence
from typing import Final

from hyperexport import __version__
from hyperexport.base.units import MIB, format_bytes
from hyperexport.errors import DescriptorFailed, StreamCorrupt, VmChanged
from hyperexport.formats.ovf_chain import BaseFile, with_bases
from hyperexport.model.manifest import ExportKind, ExportManifest, FileEntry, FileRole, SnapshotRecord, StageName, slug
from hyperexport.options.declaring import Format
from hyperexport.policy.export_plan import ExportPlan
from hyperexport.steps.block_tags import drop_file
from hyperexport.steps.disks import receive, sinks_for
from hyperexport.steps.job import Job
from hyperexport.steps.ova import pack_ova
from hyperexport.steps.stages import stage
from hyperexport.steps.staging import Copies, Entries, StagedCopy, as_stored
from hyperexport.steps.step import step
from hyperexport.store.base import StoredExport
from hyperexport.transfer.pipeline import Received
from hyperexport.verify.descriptor import refused_parts
from hyperexport.vsphere.backing_files import backing_files
from hyperexport.vsphere.configuration import vm_config_json
from hyperexport.vsphere.lease import Lease
from hyperexport.vsphere.lease_files import LeaseFile
from hyperexport.vsphere.ovf import OvfFileSpec, create_descriptor
from hyperexport.vsphere.vm_place import read_place

logger = logging.getLogger(__name__)

LARGEST_NVRAM: Final = 64 * MIB
"""Bytes. A BIOS has some 8 KiB, an EFI some hundreds; nothing in the stream itself would tell its end."""


@step("export-nvram", retried=True)
def export_nvram(
    job: Job, copies: Copies, snapshot: str | None, *, later: bool = False, instead_of: Sequence[Entries] = ()
) -> list[Entries]:
    """Download what the lease offers besides disks: the nvram. Images of CD-ROMs and floppies are left where they are.

    An nvram that cannot be read fails the export: it is read before any disk, so that is known in seconds. One that is
    not offered is a warning where the VM needs it to boot.

    Args:
        job: The export.
        copies: The staged export in each store.
        snapshot: The snapshot's moref; None for a VM that is off.
        later: Whether :func:`hyperexport.steps.disks.is_as_sent` is asked while the lease is still held.
        instead_of: What was exported before, and is taken away.

    Raises:
        TransientError: As for a disk; safe to repeat.
    """
    entries: list[Entries] = []
    job.uncompared.clear()
    for earlier in instead_of:
        drop_file(copies, earlier[0].name)
    with job.lease.reading(snapshot) as lease:
        for file in lease.files:
            if file.disk:
                continue
            if not is_nvram(file):
                job.warn(f"not exported: {file.name}, which is not a part of the VM")
                continue
            # A second one is kept, too: which of them the VM boots with is the descriptor's to say.
            name = f"{slug(job.vm.name)}{f'-{len(entries) + 1}' if entries else ''}.nvram"
            with sinks_for(copies.parts, name) as sinks:
                total = file.size or 0
                received = receive(job, lease, file, sinks, item=name, total=total, largest=LARGEST_NVRAM, later=later)
                if file.size and received.size != file.size:
                    confirm_nvram(job, lease, file, received, name)
                stored = [sink.finish() for sink in sinks]
            entry = FileEntry(
                name=name,
                role=FileRole.NVRAM,
                size=received.size,
                sha256=received.digests["sha256"],
                device_id=file.key,
            )
            entries.append(tuple(as_stored(entry, done, by=job.export_id) for done in stored))
    if not entries:
        warn_of_missing_nvram(job)
    return entries


def is_nvram(file: LeaseFile) -> bool:
    """Tell the nvram from images of CD-ROMs and floppies: by its name, or where the server gives none by its key."""
    return file.name.lower().endswith(".nvram") or "nvram" in (file.name.lower(), file.key.rpartition("/")[2].lower())


def confirm_nvram(job: Job, lease: Lease, file: LeaseFile, received: Received, name: str) -> None:
    """Accept a file whose size differs from the one announced, which is advisory, where something else proves it.

    The proof is the server's own checksum, or a second download that is equal.

    Raises:
        StreamCorrupt: Nothing proves it.
    """
    if file.key not in lease.checksums():  # receive() has compared them
        again = receive(job, lease, file, (), item=name, total=received.size, largest=LARGEST_NVRAM)
        if again.digests["sha256"] != received.digests["sha256"]:
            raise StreamCorrupt(
                f"{name}: the lease announced {file.size} bytes, and two downloads gave {received.size} and "
                f"{again.size} bytes that differ"
            )
    job.warn(f"{name} has {received.size} bytes, and the lease announced {file.size}; what came was confirmed")


def warn_of_missing_nvram(job: Job) -> None:
    """Say that a VM with EFI firmware is exported without its nvram. A BIOS VM boots without."""
    if job.vm.firmware == "efi":
        job.warn(
            f"{job.vm.name} has EFI firmware, and vSphere offers no nvram for it, so this export has none: boot "
            "entries and Secure Boot keys are lost. Hosts before 6.7 offer none, and a VM that never ran has none"
        )


@step("describe-vm", retried=True)
@stage(StageName.DESCRIBE)
def describe_vm(
    job: Job, copies: Copies, disks: Sequence[Entries], nvram: Sequence[Entries], snapshot: str | None
) -> list[Entries]:
    """Write the descriptor, the checksums and the VM's configuration around the files that were moved.

    Returns:
        The entries of all files: those of the package in its order (descriptor, checksums, disks, nvram), then what
        lies beside it (configuration, block tags).

    Raises:
        DescriptorFailed: The server gave errors in place of a descriptor, or one that leads out of the export.
        VmChanged: The disks that were read are of different moments.
    """
    check_vm_unchanged(job)
    name = slug(job.vm.name)
    tags = [entries for entries in disks if entries[0].role is FileRole.TAGS]
    moved = [*(entries for entries in disks if entries[0].role is not FileRole.TAGS), *nvram]
    contents = [entries[0] for entries in moved]
    text = ovf_text(job, contents, snapshot)
    descriptor = put(copies.parts, f"{name}.ovf", FileRole.DESCRIPTOR, text.encode())
    sums = "".join(f"SHA256({entry.name})= {entry.sha256}\n" for entry in (descriptor[0], *contents))
    checksums = put(copies.parts, f"{name}.mf", FileRole.CHECKSUMS, sums.encode())
    # An OVF lacks MAC addresses, UUIDs and extra configuration (vSphere Virtual Machine Administration, "Export an
    # OVF Template"), so the whole configuration is kept beside the package.
    config = put(copies.all, f"{name}.vm.json", FileRole.CONFIG, vm_config_json(job.session, job.ref, snapshot))
    return [descriptor, checksums, *moved, config, *tags]


def check_vm_unchanged(job: Job) -> None:
    """Refuse disks of different moments: while a lease was replaced, nothing kept the VM from being powered on.

    The files of a VM that is off are compared with what they were before the first byte was read. Where their times
    could not be read (without Datastore.Browse), nothing is known, and nothing is said.

    Raises:
        VmChanged: They differ.
    """
    before = job.backing_files
    if job.lease.replaced and before and backing_files(job.session, job.ref, stop=job.stop) != before:
        raise VmChanged(
            f"{job.ref.path} was powered on or changed while it was read, so its disks are of different moments",
            fix="Run the export again",
        )


def ovf_text(job: Job, files: Sequence[FileEntry], snapshot: str | None) -> str:
    """Have the server describe the VM as OVF, with the sizes of the bytes that were received."""
    described = [
        OvfFileSpec(
            device_key=entry.device_id or "",
            name=entry.name,
            size=entry.size,
            capacity=entry.capacity,
            populated=entry.populated,
            disk_key=entry.disk_key,
        )
        for entry in files
        if entry.role is not FileRole.BASE
    ]
    descriptor = create_descriptor(job.session, job.ref, snapshot=snapshot, files=described)
    refused = next(refused_parts(descriptor.text.encode("utf-8", "replace")), None)
    if refused:
        raise DescriptorFailed(
            f"what {job.session.address} gave as the descriptor of {job.ref.path} is not kept: {refused}",
            fix="Ask the administrator of that server; importing it could be an attack",
        )
    for warning in descriptor.warnings:
        job.warn(f"descriptor: {warning}")
    return _with_chains(descriptor.text, files)


def _with_chains(text: str, files: Sequence[FileEntry]) -> str:
    """Add to the server's descriptor what the disks of several files build on, each as the next one's parent."""
    data = text.encode()
    sizes = {entry.name: entry.size for entry in files if entry.role is FileRole.BASE}
    for entry in files:
        if entry.chain:
            bases = [BaseFile(name, sizes[name]) for name in entry.chain]
            data = with_bases(data, entry.name, bases)
    return data.decode()


def put(copies: Sequence[StagedCopy], name: str, role: FileRole, data: bytes) -> Entries:
    """Write a small file to several stores."""
    entry = FileEntry(name=name, role=role, size=len(data), sha256=hashlib.sha256(data).hexdigest())
    stored = [(copy.staging.put(name, data), copy.staging.export_id) for copy in copies]
    return tuple(as_stored(entry, done, by=export_id) for done, export_id in stored)


@step("publish-export")
def publish(
    job: Job, copies: Copies, files: Sequence[Entries], plan: ExportPlan, snapshot: SnapshotRecord | None
) -> tuple[StoredExport, ...]:
    """Write the manifest in every store: the commit point, after which the export is there.

    Args:
        job: The export.
        copies: The staged export in each store.
        files: The entries of every file, in the order of the package.
        plan: What was decided for each disk.
        snapshot: What the export was read from.
    """
    if job.options.destination.format is Format.OVA:
        files = pack_ova(job, copies, files)
    contents = [entries[0] for entries in files]
    if job.missed_tracking:
        job.warn(f"{job.missed_tracking}; {_new_words(copies.all[0], contents)}")
    manifest = ExportManifest(
        tool_version=__version__,
        export_id=job.export_id,
        kind=plan.kind,
        reason=plan.reason,
        base=plan.base,
        last_full=job.export_id if plan.kind is ExportKind.FULL else plan.last_full or job.export_id,
        vm=job.ref,
        vcenter=job.session.address,
        vcenter_uuid=job.session.instance_uuid,
        run=job.run,
        started=job.started,
        finished=job.started + job.elapsed,
        server_time=job.server_time.time if job.server_time else None,
        options=job.options.changed(),
        snapshot=fate_of(job, snapshot),
        format=job.options.destination.format.value,
        files=tuple(contents),
        skipped_disks=plan.skipped,
        transfer=job.statistics(contents),
        stages=job.stopwatch.stages,
        warnings=tuple(dict.fromkeys(job.warnings)),
        place=read_place(job.session, job.ref),
    )
    published: list[StoredExport] = []
    for index, copy in enumerate(copies.all):
        own = tuple(entries[index] for entries in files)
        known = {"files": own, "predecessors": copy.predecessors}
        published.append(copy.staging.publish(manifest.model_copy(update=known)))
        logger.info("%s: export %s is complete in %s", job.vm.name, job.export_id, copy.store.url)
    return tuple(published)


def _new_words(copy: StagedCopy, files: Sequence[FileEntry]) -> str:
    """How much of what was transferred the store did not have, in words: disks whose content no earlier export has."""
    moved = [entry for entry in files if entry.role is FileRole.DISK and entry.transferred]
    new = sum(entry.size for entry in moved if copy.holding(entry) is None)
    read = sum(entry.size if entry.received is None else entry.received for entry in moved)
    return f"{format_bytes(new)} of {format_bytes(read)} transferred were new in the store"


def fate_of(job: Job, snapshot: SnapshotRecord | None) -> SnapshotRecord | None:
    """The snapshot with what has become of it by now."""
    if snapshot is None:
        return None
    return snapshot.model_copy(
        update={"held": job.stopwatch.snapshot_held, "leaked": snapshot.name in job.leaked_snapshots}
    )
