"""Opens a disk of an export to be read in ranges, by the transport that was chosen."""

import logging
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Final

from hyperexport.errors import (
    CertificateUntrusted,
    PermissionMissing,
    ServerFault,
    ServerUnreachable,
    TransferInterrupted,
    TransportUnavailable,
)
from hyperexport.formats.flat_extent import LARGEST_DESCRIPTOR, FlatExtent, NotFlat, flat_extent
from hyperexport.model.tls import show_thumbprint
from hyperexport.model.transport import Transport
from hyperexport.model.vm import DiskInfo, PowerState
from hyperexport.nbd.nbdkit import NbdkitDisk, NbdkitSource
from hyperexport.steps.job import Job
from hyperexport.transfer.http_ranges import HttpRanges
from hyperexport.transfer.ranges import Range, RangeSource, read_ranges
from hyperexport.transfer.source import open_source
from hyperexport.vsphere.datastore_files import beside, folder_url
from hyperexport.vsphere.handshake import server_thumbprint

logger = logging.getLogger(__name__)

_PROBE: Final = 512

READ_ERRORS: Final = (
    TransportUnavailable,
    TransferInterrupted,
    ServerUnreachable,
    ServerFault,
    PermissionMissing,
    CertificateUntrusted,
)
"""What a range transport raises where it does not work; anything else is not its fault."""


def open_ranges(
    job: Job, disk: DiskInfo, transport: Transport, snapshot: str | None
) -> AbstractContextManager[RangeSource]:
    """Open a disk by a range transport; errors are of :data:`READ_ERRORS`, or Interrupted.

    Args:
        job: The export.
        disk: The disk as the snapshot froze it, or as a VM that is off has it.
        transport: Which one.
        snapshot: The snapshot's managed object id; None for a VM that is off.
    """
    return open_datastore(job, disk) if transport is Transport.DATASTORE else open_nbdkit(job, disk, snapshot)


@contextmanager
def open_nbdkit(job: Job, disk: DiskInfo, snapshot: str | None) -> Generator[RangeSource]:
    """Open a disk behind the user's nbdkit, which ends with the block."""
    endpoint = job.session.endpoint
    source = NbdkitSource(
        NbdkitDisk(
            plugin=job.options.incremental.plugin or "vddk",
            server=endpoint.host,
            port=endpoint.port,
            user=endpoint.username,
            password=endpoint.password,
            thumbprint=show_thumbprint(server_thumbprint(endpoint)),
            vm=job.ref.moref,
            snapshot=snapshot,
            file=disk.file,
            capacity=disk.capacity,
            label=disk.label,
        ),
        stop=job.stop,
    )
    try:
        yield source
    finally:
        source.close()


@contextmanager
def open_datastore(job: Job, disk: DiskInfo) -> Generator[RangeSource]:
    """Open the flat file of a disk in its datastore, over HTTPS.

    Where it lies is found once in an export, for the plan and for the reading, and proved by a first read.

    Args:
        job: The export.
        disk: The disk as the snapshot froze it, or as a VM that is off has it.

    Raises:
        TransportUnavailable: It is not one flat file, or the server does not serve it.
        HyperExportError: The connection failed.
    """
    running = job.vm.power_state is not PowerState.OFF
    remembered = f"datastore/{job.host}"
    if running and (why := job.refusals.get(remembered)):
        raise TransportUnavailable(why)
    known = (disk.file, disk.content_id, disk.capacity)
    url = job.flat_files.get(known) or _flat_url(job, disk)
    source = HttpRanges(
        url,
        capacity=disk.capacity,
        trust=job.session.endpoint.trust,
        headers=lambda: {"Cookie": job.session.cookie},
        renew=job.session.time,
        stop=job.stop,
    )
    try:
        with job.stop.waking(source.cut):
            if known not in job.flat_files:
                first = Range(0, min(_PROBE, disk.capacity))
                try:
                    list(read_ranges(source, [first], throttle=job.throttle, stop=job.stop))
                except TransportUnavailable as error:
                    if running and source.serves_none:
                        why = f"{job.host or 'the host'} refused it before in this run: {error.what}"
                        job.refusals[remembered] = why
                    raise
                job.flat_files[known] = url
            yield source
    finally:
        source.close()


def _flat_url(job: Job, disk: DiskInfo) -> str:
    """The address of the disk's flat file.

    Raises:
        TransportUnavailable: Its descriptor names none of the disk's size.
    """
    url, extent = _descriptor(job, disk)
    if extent.capacity != disk.capacity:
        raise TransportUnavailable(
            f"the flat file of {disk.label} has {extent.capacity} bytes by its descriptor, the disk {disk.capacity}"
        )
    return beside(url, extent.name)


def _descriptor(job: Job, disk: DiskInfo) -> tuple[str, FlatExtent]:
    """The address of the disk's descriptor, and the extent that it names."""
    try:
        url = folder_url(job.session, job.ref, disk.file)
        headers = {"Cookie": job.session.cookie}
        trust, most = job.session.endpoint.trust, LARGEST_DESCRIPTOR
        with open_source(url, trust=trust, stop=job.stop, headers=headers, largest=most) as source:
            data = bytearray()
            buffer = memoryview(bytearray(most))
            while count := source.readinto(buffer):
                data += buffer[:count]
        return url, flat_extent(bytes(data))
    except NotFlat as error:
        raise TransportUnavailable(f"{disk.label} {error}") from error
    except (ServerFault, PermissionMissing, TransferInterrupted) as error:
        fix = "Check the privileges Datastore.Browse and Datastore.FileManagement of the user"
        denied = isinstance(error, PermissionMissing)
        raise TransportUnavailable(
            f"the descriptor of {disk.label} cannot be read: {error.what}", fix=fix if denied else None
        ) from error
