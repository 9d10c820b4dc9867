"""The engine as a library: what ``import hyperexport`` offers, in plain Python, without Prefect.

The same jobs as the flows and the command line, with the same guarantees: whatever ends an export, an exception,
Ctrl-C or SIGTERM, its snapshot is removed and what it wrote is discarded. Options merge as everywhere: what the caller
gives, then the environment, then the defaults. What only a Prefect server can do (saved blocks, budgets that runs
share) is refused, never ignored.
"""

import logging
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Unpack

from hyperexport.base.display import Listing
from hyperexport.base.signals import sigterm_raises
from hyperexport.base.stop import StopSignal
from hyperexport.convert.values import Conversion, Target
from hyperexport.errors import UsageError
from hyperexport.files.extraction import Extracted
from hyperexport.files.guest import GuestEntry, VolumeInfo
from hyperexport.jobs import cleanup, convert, drill, read, verify
from hyperexport.jobs import incremental_info as incremental
from hyperexport.jobs import restore as restoring
from hyperexport.jobs import vm_info as info
from hyperexport.jobs.direct import DirectRunner
from hyperexport.jobs.export import export_vm
from hyperexport.jobs.list import read_store
from hyperexport.jobs.read import OpenedExport, ServedExport
from hyperexport.model.drill import TIMEOUT, DrillPlace, DrillPlan, DrillTarget
from hyperexport.model.restore import RestoreRequest, RestoreResult
from hyperexport.model.restore_point import RestorePoint
from hyperexport.model.vm import VmInfo
from hyperexport.options.environment import warn_of_unknown_variables
from hyperexport.options.keywords import OptionKeywords, RestoreKeywords, lists_keywords
from hyperexport.options.precedence import ExportOptions, resolve
from hyperexport.options.selection import make_selection, selection_in_force
from hyperexport.policy.export_plan import ExportPlan
from hyperexport.results import CleanupResult, DrillResult, ExportResult, VerifiedExport
from hyperexport.store.base import Store
from hyperexport.store.contents import StoreContents
from hyperexport.store.local import LocalStore
from hyperexport.store.s3_settings import S3Location, S3Settings
from hyperexport.views.options import options_line
from hyperexport.vsphere.endpoint import VSphereEndpoint

logger = logging.getLogger("hyperexport.options")


@lists_keywords
def export(
    vm: str,
    options: ExportOptions | None = None,
    *,
    vsphere: VSphereEndpoint | None = None,
    s3: S3Settings | None = None,
    **given: Unpack[OptionKeywords],
) -> ExportResult:
    """Export one virtual machine, consistently and at a controlled rate, with proof that the bytes are right.

    Args:
        vm: The VM's name or its whole inventory path, exactly.
        options: What to do, and how.
        vsphere: The server and the login; this process's environment (``GOVC_URL``, ...) if None.
        s3: How to log in to S3; boto3's own way if None.
        given: Options by the names of their flags (``snapshot=True``, ``bandwidth_limit=50``); they beat ``options``.

    Returns:
        What was exported and where it is stored; with ``dry_run=True`` the plan.

    Raises:
        UsageError: An option is invalid, or needs a Prefect server; nothing was touched.
        HyperExportError: The export failed; what was begun has been cleaned up.
    """
    wanted = _in_force(options, given)
    with _runner(vsphere, s3) as run:
        return export_vm(run, vm, wanted)


@lists_keywords
def incremental_info(
    vm: str,
    options: ExportOptions | None = None,
    *,
    vsphere: VSphereEndpoint | None = None,
    s3: S3Settings | None = None,
    **given: Unpack[OptionKeywords],
) -> ExportPlan:
    """Say, disk by disk, what an incremental export would transfer, why, and what it would save.

    The changed areas of a running VM are known only from a snapshot: with ``snapshot=True`` one is made and removed
    again; without it nothing is changed, and such disks count as undecided. Arguments and errors are those of
    :func:`export`.

    Returns:
        The decision for each disk, with its reason and its bytes.
    """
    wanted = _in_force(incremental.only_looking(_together(options, given)))
    with _runner(vsphere, s3) as run:
        return incremental.incremental_info(run, vm, wanted)


def vm_info(
    *vm: str,
    folder: str | tuple[str, ...] = (),
    tag: str | tuple[str, ...] = (),
    match: str | tuple[str, ...] = (),
    vsphere: VSphereEndpoint | None = None,
) -> Listing[VmInfo]:
    """Read what vSphere knows of VMs. Nothing on the server is changed.

    Args:
        vm: Names or whole inventory paths, exactly. With nothing given at all the environment chooses.
        folder: Those in this folder, or these folders.
        tag: Those that have this tag, as ``CATEGORY:NAME``.
        match: Those whose name or path matches this pattern, such as ``web-*``.
        vsphere: The server and the login; this process's environment (``GOVC_URL``, ...) if None.

    Returns:
        The description of each VM, in the order of their paths.

    Raises:
        VmNotFound, VmAmbiguous: A name fits no VM, or several; or no VM is chosen.
    """
    selection = selection_in_force(make_selection({"vm": vm, "folder": folder, "tag": tag, "match": match}))
    with _runner(vsphere) as run:
        return info.vm_info(run, selection)


def open_store(place: str | Path, *, s3: S3Settings | None = None) -> Store:
    """Open a store to look at; nothing is touched yet.

    Args:
        place: A folder, or ``s3://bucket/prefix``.
        s3: How to log in to S3; boto3's own way if None.

    Returns:
        The store.
    """
    if not str(place).startswith("s3://"):
        return LocalStore(Path(place))
    from hyperexport.store.s3 import S3Store  # noqa: PLC0415 - boto3 is loaded only where it is used

    location = S3Location.parse(str(place))
    return S3Store(location, s3 or S3Settings(), stop=StopSignal())


def list_exports(place: str | Path | None = None, *, s3: S3Settings | None = None) -> StoreContents:
    """Read what a store holds, from its manifests.

    Args:
        place: A folder, or ``s3://bucket/prefix``; the folder that the environment names (``HYPEREXPORT_OUTPUT``),
            or ``exports``, if None.
        s3: How to log in to S3; boto3's own way if None.

    Returns:
        The exports, newest first, and what is damaged.

    Raises:
        StoreUnusable, StoreUnreachable: The store could not be listed.
    """
    return read_store(open_store(place or resolve().options.destination.output, s3=s3))


@lists_keywords
def verify_exports(
    *exports: str,
    options: ExportOptions | None = None,
    sample: timedelta | None = None,
    s3: S3Settings | None = None,
    **given: Unpack[OptionKeywords],
) -> Listing[VerifiedExport]:
    """Read stored exports back and prove them; what came out is noted in their manifests.

    Args:
        exports: Export ids, or paths that end in them. Every export of the stores if empty.
        options: Where the exports are. With ``verify="deep"`` what is in S3 is downloaded.
        sample: Verify a random part, so that all exports are verified within this time if it is repeated each day.
        s3: How to log in to S3; boto3's own way if None.
        given: Options by the names of their flags (``output="/backup"``); they beat ``options``.

    Returns:
        The findings for each export.

    Raises:
        UsageError: A sample was asked for, and exports were named.
        ExportNotFound: One of them is not there.
        VerificationFailed: At least one is damaged; all were looked at first.
    """
    wanted = _in_force(options, given)
    with _runner(s3=s3) as run:
        return verify.verify_exports(run, exports, wanted, sample=sample)


@lists_keywords
def cleanup_exports(
    options: ExportOptions | None = None, *, s3: S3Settings | None = None, **given: Unpack[OptionKeywords]
) -> Listing[CleanupResult]:
    """Delete the exports that the limits give up, or with ``dry_run=True`` only say which they are.

    Never deleted: the newest export of each VM, what is preserved, and what a kept export refers to.

    Args:
        options: Where the exports are, and the limits.
        s3: How to log in to S3; boto3's own way if None.
        given: Options by the names of their flags (``cleanup_max_count=3``); they beat ``options``.

    Returns:
        What was deleted in each store, or in a dry run would be.

    Raises:
        StoreUnusable, StoreUnreachable: A store could not be listed; nothing was deleted in it.
    """
    wanted = _in_force(options, given)
    with _runner(s3=s3) as run:
        return cleanup.cleanup_exports(run, wanted)


@lists_keywords
def convert_export(
    export: str | None = None,
    options: ExportOptions | None = None,
    *,
    to: Target | str,
    into: str | Path,
    vm: str | None = None,
    at: datetime | None = None,
    disks: Sequence[int] = (),
    libvirt: bool = False,
    s3: S3Settings | None = None,
    **given: Unpack[OptionKeywords],
) -> Conversion:
    """Convert an export to disk images, or to a self-contained OVF package or OVA. The export is not changed.

    Args:
        export: The export's id, as ``list_exports`` shows it, or None where ``vm`` names it.
        options: Where the exports are.
        to: ``raw``, ``qcow2``, ``vhdx``, ``vmdk``, ``ovf`` or ``ova``.
        into: The folder for the files; created if it does not exist.
        vm: In place of the id: the newest good export of this VM.
        at: With ``vm``: the newest good export begun at this time or before.
        disks: Only the disks with these numbers, from 0 in the VM's order; all if empty.
        libvirt: Also write a libvirt domain definition.
        s3: How to log in to S3; boto3's own way if None.
        given: Options by the names of their flags (``output="/backup"``, ``dry_run=True``); they beat ``options``.

    Returns:
        The files that were written, or in a dry run would be.

    Raises:
        ExportNotFound: There is no such export.
        UsageError, TargetExists, DiskFull, ToolMissing: It cannot be done; nothing was written.
        VerificationFailed, ConversionFailed: The export is damaged, or could not be written; nothing stays.
    """
    try:
        target = Target(to)
    except ValueError:
        raise UsageError(f"to: {to!r} is not a format", fix=f"Choose one of {', '.join(Target)}") from None
    wanted, force = RestorePoint(export=export, vm=vm, at=at), _in_force(options, given)
    with _runner(s3=s3) as run:
        return convert.convert_export(run, wanted, force, to=target, into=Path(into), disks=disks, libvirt=libvirt)


@lists_keywords
def restore(
    export: str | None = None,
    options: ExportOptions | None = None,
    *,
    vm: str | None = None,
    at: datetime | None = None,
    request: RestoreRequest | None = None,
    vsphere: VSphereEndpoint | None = None,
    s3: S3Settings | None = None,
    **given: Unpack[RestoreKeywords],
) -> RestoreResult:
    """Restore an export into vSphere: a whole VM, some of its disks, or disks for a VM that is there.

    The original VM, and every other, stays as it is. What fails, is interrupted or killed leaves no VM.

    Args:
        export: The export's id, as ``list_exports`` shows it, or None where ``vm`` names it.
        options: Where the exports are.
        vm: In place of the id: the newest good export of this VM.
        at: With ``vm``: the newest good export begun at this time or before.
        request: What becomes of it; its fields can be given one by one, too.
        vsphere: The server and the login; this process's environment (``GOVC_URL``, ...) if None.
        s3: How to log in to S3; boto3's own way if None.
        given: Fields of :class:`RestoreRequest` (``name="db01-copy"``, ``datastore="ssd"``, ``power_on=True``), and
            options by the names of their flags (``output="/backup"``, ``dry_run=True``).

    Returns:
        The restored VM, and what does not come back; in a dry run, the plan.

    Raises:
        ExportNotFound: There is no such export.
        UsageError, PlaceNotFound, TargetExists, DatastoreFull, PermissionMissing, ImportRefused: It cannot be done;
            nothing was made.
        HyperExportError: The restore failed; nothing of it is left.
    """
    keywords: dict[str, Any] = dict(given)
    fields = {name: keywords.pop(name) for name in RestoreRequest.model_fields if name in keywords}
    wished = RestoreRequest.of({**(request.model_dump(exclude_unset=True) if request else {}), **fields})
    wanted, force = RestorePoint(export=export, vm=vm, at=at), _in_force(options, keywords)
    with _runner(vsphere, s3) as run:
        return restoring.restore_vm(run, wanted, wished, force)


@lists_keywords
def restore_drill(
    export: str | None = None,
    options: ExportOptions | None = None,
    *,
    vm: str | None = None,
    at: datetime | None = None,
    within: timedelta | None = None,
    most: int | None = None,
    target: DrillTarget | str = DrillTarget.QEMU,
    place: DrillPlace | None = None,
    expect: str | None = None,
    timeout: timedelta = TIMEOUT,
    memory_mib: int | None = None,
    emulate: bool = False,
    vsphere: VSphereEndpoint | None = None,
    s3: S3Settings | None = None,
    **given: Unpack[OptionKeywords],
) -> Listing[DrillResult]:
    """Boot exports, and record beside each what that proved.

    On QEMU they boot straight from their store. In vSphere each is restored under another name, with no connected
    network adapter, powered on, watched, and destroyed. No export and no other VM is touched.

    Args:
        export: The export's id, as ``list_exports`` shows it, or None where ``vm`` names it.
        options: Where the exports are.
        vm: In place of the id: the newest good export of this VM.
        at: With ``vm``: the newest good export begun at this time or before.
        within: Where no export is named: the VMs without a proof that is younger.
        most: Where no export is named: so many VMs at the most, those whose proof is oldest.
        target: Where they are started: ``qemu`` or ``vsphere``.
        place: In vSphere: where the VM is made; where the exported VM was if None.
        expect: On QEMU: only this text counts, on the serial console or the screen; any sign of life if None.
        timeout: How long to wait for a sign of life.
        memory_mib: MiB of memory, if not as much as the VM had.
        emulate: On QEMU: emulate the processor even where KVM is.
        vsphere: The server; the environment (``GOVC_URL``, ...) if None. Asked only for drills in vSphere.
        s3: How to log in to S3; boto3's own way if None.
        given: Options by the names of their flags (``output="/backup"``, ``dry_run=True``); they beat ``options``.

    Returns:
        What came of each; ``record`` is what lies beside the export.

    Raises:
        ExportNotFound: There is no such export.
        UsageError, ToolMissing: It cannot be done; nothing was.
        DrillFailed: At least one did not come up; all were tried first.
    """
    plan = DrillPlan.of(
        wanted=RestorePoint(export=export, vm=vm, at=at) if export or vm or at else None,
        within=within,
        most=most,
        target=target,
        place=place or DrillPlace(),
        expect=expect,
        timeout=timeout,
        memory_mib=memory_mib,
        emulate=emulate,
    )
    wanted = _in_force(options, given)
    with _runner(vsphere, s3) as run:
        return drill.restore_drill(run, plan, wanted)


@contextmanager
@lists_keywords
def open_export(
    export: str | None = None,
    options: ExportOptions | None = None,
    *,
    vm: str | None = None,
    at: datetime | None = None,
    disks: Sequence[int] = (),
    s3: S3Settings | None = None,
    **given: Unpack[OptionKeywords],
) -> Generator[OpenedExport]:
    """Open the disks of an export to be read at any place, for the block of a ``with``; every byte is proved first.

    ``opened.disks`` are the disks in the VM's order, each with ``capacity`` and ``read(offset, length)``. Arguments are
    those of :func:`convert_export`.

    Yields:
        The opened export, for the block.

    Raises:
        ExportNotFound: There is no such export.
        UsageError: It has no such disk.
        VerificationFailed: A file is damaged.
    """
    wanted, force = RestorePoint(export=export, vm=vm, at=at), _in_force(options, given)
    with _runner(s3=s3) as run, read.opened(run, wanted, force, disks=disks) as opened:
        yield opened


@contextmanager
@lists_keywords
def serve_disks(
    export: str | None = None,
    options: ExportOptions | None = None,
    *,
    vm: str | None = None,
    at: datetime | None = None,
    disks: Sequence[int] = (),
    socket: str | Path | None = None,
    port: int | None = None,
    s3: S3Settings | None = None,
    **given: Unpack[OptionKeywords],
) -> Generator[ServedExport]:
    """Serve disks of an export read-only over NBD, for the block of a ``with``; ``served.disks[0].uri`` names one.

    Args:
        export: As for :func:`convert_export`, and so are the arguments that are not named here.
        options: Where the exports are.
        vm: In place of the id: the newest good export of this VM.
        at: With ``vm``: the newest good export begun at this time or before.
        disks: Only the disks with these numbers; all if empty.
        socket: The Unix socket to make, for this user only. With neither this nor a port, one in a new private folder.
        port: A TCP port of the loopback address, open to every local user; 0 for any that is free.
        s3: How to log in to S3; boto3's own way if None.
        given: Options by the names of their flags; they beat ``options``.

    Yields:
        The served disks with their addresses, for the block.

    Raises:
        UsageError: The socket or port cannot be listened on.
        ExportNotFound, VerificationFailed: As for :func:`open_export`.
    """
    wanted, force = RestorePoint(export=export, vm=vm, at=at), _in_force(options, given)
    place = Path(socket) if socket is not None else None
    with _runner(s3=s3) as run, read.served(run, wanted, force, disks=disks, socket=place, port=port) as served:
        yield served


@lists_keywords
def list_volumes(
    export: str | None = None,
    options: ExportOptions | None = None,
    *,
    vm: str | None = None,
    at: datetime | None = None,
    s3: S3Settings | None = None,
    **given: Unpack[OptionKeywords],
) -> Listing[VolumeInfo]:
    """List the guest's volumes in an export. Needs the extra ``files``; arguments are those of :func:`convert_export`.

    Returns:
        The volumes.

    Raises:
        ToolMissing: The extra is not installed.
        ExportNotFound, VerificationFailed: As for :func:`open_export`.
    """
    wanted, force = RestorePoint(export=export, vm=vm, at=at), _in_force(options, given)
    with _runner(s3=s3) as run:
        return read.list_volumes(run, wanted, force)


@lists_keywords
def list_files(
    path: str,
    export: str | None = None,
    options: ExportOptions | None = None,
    *,
    vm: str | None = None,
    at: datetime | None = None,
    s3: S3Settings | None = None,
    **given: Unpack[OptionKeywords],
) -> Listing[GuestEntry]:
    """List a folder of the guest in an export, such as ``/disk0p1/etc``; of a file, itself.

    The other arguments are those of :func:`convert_export`.

    Returns:
        The entries of the folder.

    Raises:
        GuestFileNotFound: The guest has nothing of that path.
        ToolMissing, ExportNotFound, VerificationFailed: As for :func:`list_volumes`.
    """
    wanted, force = RestorePoint(export=export, vm=vm, at=at), _in_force(options, given)
    with _runner(s3=s3) as run:
        return read.list_files(run, wanted, force, path)


@lists_keywords
def extract_files(
    *paths: str,
    into: str | Path,
    export: str | None = None,
    options: ExportOptions | None = None,
    vm: str | None = None,
    at: datetime | None = None,
    s3: S3Settings | None = None,
    **given: Unpack[OptionKeywords],
) -> Listing[Extracted]:
    """Copy files or whole folders of the guest out of an export into a folder of this machine.

    The other arguments are those of :func:`convert_export`.

    Returns:
        What was copied, and what was left out.

    Raises:
        GuestFileNotFound: The guest has nothing of that path.
        TargetExists, ExtractionFailed, DiskFull: It could not be written; nothing of it stays.
        ToolMissing, ExportNotFound, VerificationFailed: As for :func:`list_volumes`.
    """
    wanted, force = RestorePoint(export=export, vm=vm, at=at), _in_force(options, given)
    with _runner(s3=s3) as run:
        return read.extract_files(run, wanted, force, paths, Path(into))


@contextmanager
def _runner(vsphere: VSphereEndpoint | None = None, s3: S3Settings | None = None) -> Generator[DirectRunner]:
    """A runner for one job, which SIGTERM stops as Ctrl-C does."""
    with sigterm_raises():
        yield DirectRunner(vsphere=vsphere, s3=s3)


def _together(options: ExportOptions | None, given: Mapping[str, object]) -> ExportOptions:
    return ExportOptions.from_keys({**(options.given_keys() if options else {}), **given})


def _in_force(options: ExportOptions | None, given: Mapping[str, object] | None = None) -> ExportOptions:
    """Merge what the caller gave with the environment and the defaults.

    Raises:
        UsageError: A value is invalid, or options contradict each other.
    """
    warn_of_unknown_variables()
    resolved = resolve(_together(options, given or {}))
    logger.info("%s", options_line(resolved))
    return resolved.options
