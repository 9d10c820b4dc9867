"""How each changed disk is read: the best transport that works, tried before anything moves."""

import logging
from collections.abc import Sequence

from hyperexport.errors import TransportUnavailable
from hyperexport.formats.vmdk import GRAIN
from hyperexport.model.transport import Transport
from hyperexport.model.vm import DiskInfo, PowerState
from hyperexport.nbd.nbdkit import find_nbdkit
from hyperexport.options.groups import TransportChoice
from hyperexport.policy.export_plan import Decision, DiskPlan, ExportPlan
from hyperexport.policy.transport import candidates, most_read, why_whole_stream, with_transport
from hyperexport.steps.job import Job
from hyperexport.steps.range_sources import READ_ERRORS, open_ranges

logger = logging.getLogger(__name__)

_FIX = "Use --transport auto, which reads the disk by its lease where nothing better works"


def check_transport(job: Job) -> None:
    """Refuse a transport that cannot work on this machine, before anything is changed.

    Raises:
        TransportUnavailable: ``--transport nbdkit`` was given, and there is no nbdkit with that plugin.
    """
    if job.options.incremental.transport is TransportChoice.NBDKIT and (why := _without_nbdkit(job)):
        raise TransportUnavailable(f"--transport nbdkit cannot be used: {why}", fix=_FIX)


def choose_transports(job: Job, plan: ExportPlan, disks: Sequence[DiskInfo], snapshot: str | None) -> ExportPlan:
    """Complete the plan with how each disk is read, and why not a better way.

    Args:
        job: The export.
        plan: The plan so far.
        disks: The disks that it is for.
        snapshot: The snapshot that is read; None for a VM that is off.

    Raises:
        TransportUnavailable: A transport was asked for by name, and cannot read a disk.
    """
    by_key = {disk.key: disk for disk in disks}
    chosen = tuple(
        _choose(job, disk, by_key[disk.key], snapshot) if disk.decision is Decision.TRANSFER else disk
        for disk in plan.disks
    )
    return plan.model_copy(update={"disks": chosen})


def _choose(job: Job, plan: DiskPlan, disk: DiskInfo, snapshot: str | None) -> DiskPlan:
    asked = job.options.incremental.transport
    if why := why_whole_stream(plan, asked):
        return with_transport(plan, Transport.LEASE, {}, why=why)
    expected = most_read(plan, grain=GRAIN, percent=job.options.incremental.transport_sample)
    running = job.vm.power_state is not PowerState.OFF
    refused: dict[Transport, str] = {}
    for transport in candidates(asked, running=running, nbdkit=job.options.incremental.plugin is not None):
        why = _why_not(job, disk, transport, snapshot)
        if why is None:
            return with_transport(plan, transport, refused, expected=expected)
        refused[transport] = why
    if asked is not TransportChoice.AUTO:
        why = next(iter(refused.values()))
        raise TransportUnavailable(f"--transport {asked} cannot read {disk.label} of {job.ref.path}: {why}", fix=_FIX)
    if job.options.incremental.plugin is None:
        refused[Transport.NBDKIT] = "--nbdkit-plugin was not given"
    return with_transport(plan, Transport.LEASE, refused)


def _why_not(job: Job, disk: DiskInfo, transport: Transport, snapshot: str | None) -> str | None:
    """Open the disk, and say why that fails; None where it does not."""
    if transport is Transport.NBDKIT and (why := _without_nbdkit(job)):
        return why
    try:
        with open_ranges(job, disk, transport, snapshot):
            return None
    except READ_ERRORS as error:
        job.stop.check()
        logger.info("%s: %s cannot be read by %s: %s", job.vm.name, disk.label, transport, error)
        return error.what


def _without_nbdkit(job: Job) -> str | None:
    plugin = job.options.incremental.plugin or "vddk"
    key = f"nbdkit/{plugin}"
    if key not in job.refusals and (why := find_nbdkit(plugin)):
        job.refusals[key] = why
    return job.refusals.get(key)
