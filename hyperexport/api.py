"""The engine as a library: what ``import hyperexport`` offers, in plain Python, without Prefect.

The same steps in the same order as the flows, with the same guarantees: whatever ends an export, an exception, Ctrl-C
or SIGTERM, its snapshot is removed and what it wrote is discarded. Options merge as everywhere: what the caller gives,
then the environment, then the defaults. What only Prefect can do (saved blocks, mails, budgets that runs share) is
refused, never ignored.
"""

import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import hyperexport.views.pages  # noqa: F401 # pyright: ignore[reportUnusedImport] - what is returned shows itself
from hyperexport.base.display import Listing
from hyperexport.base.retry import repeating
from hyperexport.base.signals import sigterm_raises
from hyperexport.base.stop import StopSignal
from hyperexport.direct import directly
from hyperexport.errors import UsageError
from hyperexport.model.vm import VmInfo
from hyperexport.options.environment import warn_of_unknown_variables
from hyperexport.options.groups import VerifyMode
from hyperexport.options.precedence import ExportOptions, resolve
from hyperexport.options.selection import make_selection, selection_in_force
from hyperexport.policy.incremental import ExportPlan
from hyperexport.results import CleanupResult, ExportResult, StoreContents, VerifiedExport
from hyperexport.runbook import analyse, fail_on_leak, only_looking, run_export
from hyperexport.steps.bandwidth import throttle_for
from hyperexport.steps.cleanup import BY_ITSELF
from hyperexport.steps.job import Job
from hyperexport.steps.selection import choose_vms
from hyperexport.steps.stores import open_stores
from hyperexport.steps.verification import fail_on_damage, select_exports, verify_selected
from hyperexport.store.base import Store
from hyperexport.store.local import LocalStore
from hyperexport.store.s3 import S3Location, S3Settings, S3Store
from hyperexport.transfer.bandwidth.throttle import Throttle
from hyperexport.vsphere.endpoint import VSphereEndpoint
from hyperexport.vsphere.inventory import describe, describe_many, find_vm
from hyperexport.vsphere.session import Session, connect


def export(
    vm: str,
    options: ExportOptions | None = None,
    *,
    vsphere: VSphereEndpoint | None = None,
    s3: S3Settings | None = None,
    **given: object,
) -> ExportResult:
    """Export one virtual machine, consistently and at a controlled rate, with proof that the bytes are right.

    Args:
        vm: The VM's name or its whole inventory path, exactly.
        options: What to do, and how.
        vsphere: The server and the login; this process's environment (``GOVC_URL``, ...) if None.
        s3: How to log in to S3; boto3's own way if None.
        given: Options by the names of their flags (``snapshot=True``, ``bandwidth_limit=50``); they beat ``options``.

    Raises:
        UsageError: An option makes no sense, or needs Prefect; nothing was touched.
        HyperExportError: The export failed; what was begun has been cleaned up.
    """
    began = time.monotonic()
    wanted = _in_force(options, given)
    with _running() as stop, connect(vsphere or VSphereEndpoint.from_environment(), stop=stop) as session:
        return run_export(_job(session, vm, wanted, stop, s3), directly(stop), began=began)


def incremental_info(
    vm: str,
    options: ExportOptions | None = None,
    *,
    vsphere: VSphereEndpoint | None = None,
    s3: S3Settings | None = None,
    **given: object,
) -> ExportPlan:
    """Say, disk by disk, what an incremental export would transfer, why, and what it would save.

    What changed on a running VM can be told only from a snapshot: with ``snapshot=True`` one is made and removed
    again; without it nothing is changed, and such disks count as undecided. Arguments and errors are those of
    :func:`export`.
    """
    wanted = _in_force(only_looking(_together(options, given)))
    with _running() as stop, connect(vsphere or VSphereEndpoint.from_environment(), stop=stop) as session:
        job = _job(session, vm, wanted, stop, s3)
        plan = analyse(job, directly(stop))
        fail_on_leak(job, f"the analysis of {job.ref.path} is done")
    return plan


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
        tag: Those that bear this tag, as ``CATEGORY:NAME``.
        match: Those whose name or path matches this pattern, such as ``web-*``.
        vsphere: The server and the login; this process's environment (``GOVC_URL``, ...) if None.

    Raises:
        VmNotFound, VmAmbiguous: A name fits no VM, or several; or nobody is chosen.
    """
    selection = selection_in_force(make_selection({"vm": vm, "folder": folder, "tag": tag, "match": match}))
    with _running() as stop, connect(vsphere or VSphereEndpoint.from_environment(), stop=stop) as session:
        rows = repeating(choose_vms, stop)(session, selection).all_there()
        return Listing(repeating(describe_many, stop)(session, [row.ref for row in rows]))


def open_store(place: str | Path, *, s3: S3Settings | None = None) -> Store:
    """Open a store to look at; nothing is touched yet.

    Args:
        place: A folder, or ``s3://bucket/prefix``.
        s3: How to log in to S3; boto3's own way if None.
    """
    if not str(place).startswith("s3://"):
        return LocalStore(Path(place))
    location = S3Location.parse(str(place))
    return S3Store(location, s3 or S3Settings(), throttle=Throttle(None), stop=StopSignal())


def list_exports(place: str | Path | None = None, *, s3: S3Settings | None = None) -> StoreContents:
    """Read what a store holds, from its manifests.

    Args:
        place: A folder, or ``s3://bucket/prefix``; the folder that the environment names (``HYPEREXPORT_OUTPUT``),
            or ``exports``, if None.
        s3: How to log in to S3; boto3's own way if None.

    Raises:
        StoreUnusable, StoreUnreachable: The store could not be listed.
    """
    store = open_store(place or resolve().options.destination.output, s3=s3)
    listing = store.listing()
    return StoreContents(store=store.url, exports=listing.exports, damaged=listing.damaged)


def verify_exports(
    *exports: str, options: ExportOptions | None = None, s3: S3Settings | None = None, **given: object
) -> Listing[VerifiedExport]:
    """Read stored exports back and prove them; what came out is noted in their manifests.

    Args:
        exports: Export ids, or paths that end in them. Every export of the stores if empty.
        options: Where the exports are. With ``verify="deep"`` what is in S3 is downloaded.
        s3: How to log in to S3; boto3's own way if None.
        given: Options by the names of their flags (``output="/backup"``); they beat ``options``.

    Raises:
        ExportNotFound: One of them is not there.
        VerificationFailed: At least one is damaged; all were looked at first.
    """
    wanted = _in_force(options, given)
    mode = VerifyMode.DEEP if wanted.execution.verify is VerifyMode.DEEP else VerifyMode.ON
    with _running() as stop:
        prove = directly(stop).verify_export
        stores = _stores(wanted, throttle_for(wanted.bandwidth), stop, s3)
        verified = Listing(verify_selected(select_exports(stores, exports), mode, stop, prove=prove))
    fail_on_damage(verified)
    return verified


def cleanup_exports(
    options: ExportOptions | None = None, *, s3: S3Settings | None = None, **given: object
) -> Listing[CleanupResult]:
    """Delete the exports that the limits give up, or with ``dry_run=True`` only say which they are.

    Never deleted: the newest export of each VM, what is preserved, and what a kept export refers to.

    Args:
        options: Where the exports are, and the limits.
        s3: How to log in to S3; boto3's own way if None.
        given: Options by the names of their flags (``cleanup_max_count=3``); they beat ``options``.

    Raises:
        StoreUnusable, StoreUnreachable: A store could not be listed; nothing was deleted in it.
    """
    wanted = _in_force(options, given)
    with _running() as stop:
        clean_up = directly(stop).clean_up
        stores = _stores(wanted, Throttle(None), stop, s3)
        return Listing(clean_up(store, wanted.cleanup, wanted.execution.dry_run, BY_ITSELF) for store in stores)


@contextmanager
def _running() -> Generator[StopSignal]:
    """Give the run its stop signal, raised as soon as the block is left by any exception, Ctrl-C and SIGTERM included.

    The threads that move bytes hear only this signal.
    """
    stop = StopSignal()
    with sigterm_raises():
        try:
            yield stop
        except BaseException:
            stop.set()
            raise


def _together(options: ExportOptions | None, given: dict[str, object]) -> ExportOptions:
    return ExportOptions.from_keys({**(options.given_keys() if options else {}), **given})


def _in_force(options: ExportOptions | None, given: dict[str, object] | None = None) -> ExportOptions:
    """Merge what the caller gave with the environment and the defaults.

    Raises:
        UsageError: A value makes no sense, options contradict each other, or one needs Prefect.
    """
    warn_of_unknown_variables()
    wanted = resolve(_together(options, given or {})).options
    needing = {
        "--bandwidth-shared": wanted.bandwidth.shared,
        "--leases-per-host": wanted.execution.leases_per_host,
        "--leases-per-vcenter": wanted.execution.leases_per_vcenter,
        "--s3-credentials": wanted.destination.s3_credentials,
        "--email-notify": wanted.email.notify,
        "--notify-webhook": wanted.email.webhooks,
    }
    refused = [flag for flag, value in needing.items() if value]
    if refused:
        raise UsageError(
            f"{', '.join(refused)} cannot be had without Prefect",
            fix="Leave it out (it may come from the environment), or call flows.export_vm in place of the engine",
        )
    return wanted


def _job(session: Session, vm: str, options: ExportOptions, stop: StopSignal, s3: S3Settings | None) -> Job:
    """Find the VM and gather what the steps share."""
    throttle = throttle_for(options.bandwidth)
    found = repeating(_inspect, stop, f"inspect {vm}")(session, vm)
    return Job(
        run=f"python-{uuid.uuid4().hex[:12]}",
        session=session,
        vm=found,
        options=options,
        stores=_stores(options, throttle, stop, s3),
        throttle=throttle,
        stop=stop,
    )


def _inspect(session: Session, vm: str) -> VmInfo:
    """Find a VM by its exact name or inventory path, and read what there is to know."""
    return describe(session, find_vm(session, vm))


def _stores(options: ExportOptions, throttle: Throttle, stop: StopSignal, s3: S3Settings | None) -> tuple[Store, ...]:
    endpoint = options.destination.s3_endpoint
    settings = s3.model_copy(update={"endpoint_url": endpoint}) if s3 and endpoint else s3
    return open_stores(options.destination, throttle=throttle, stop=stop, s3=settings)
