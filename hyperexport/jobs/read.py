"""The jobs that read an export in place: disks opened or served over NBD, files of the guest listed and extracted.

What is opened stays open for the block of a ``with``, so these are no flows: they run in the caller's process.
"""

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from hyperexport.base.display import Listing
from hyperexport.base.stop import StopSignal
from hyperexport.convert.conversion import choose_disks
from hyperexport.files.extraction import Extracted, extract
from hyperexport.files.guest import Guest, GuestEntry, VolumeInfo, open_guest
from hyperexport.files.libraries import require_libraries
from hyperexport.images.disk import Disk
from hyperexport.images.opening import open_disks
from hyperexport.jobs.runner import StepRunner
from hyperexport.model.manifest import FileEntry
from hyperexport.model.progress import Stage
from hyperexport.model.restore_point import RestorePoint
from hyperexport.nbd.server import NbdServer, socket_folder
from hyperexport.options.precedence import ExportOptions
from hyperexport.steps.choosing import choose_export
from hyperexport.steps.conversion import reporting
from hyperexport.steps.stores import open_stores
from hyperexport.store.base import StoredExport


class OpenedExport(NamedTuple):
    """An export with its disks open to be read at any place."""

    export: StoredExport
    entries: tuple[FileEntry, ...]
    """What the manifest says of each disk."""
    disks: tuple[Disk, ...]
    """The disks, in the same order: ``disk.capacity`` and ``disk.read(offset, length)``, in bytes of the guest."""
    numbers: tuple[int, ...]
    """Their numbers, from 0 in the VM's order."""
    stop: StopSignal


class ServedDisk(NamedTuple):
    """A disk that is served over NBD."""

    name: str
    """The disk's file in the export."""
    number: int
    capacity: int
    """Bytes."""
    uri: str
    controller: str | None
    """The type and bus of the controller that the disk was on."""


class ServedExport(NamedTuple):
    """An export while its disks are served over NBD."""

    export: StoredExport
    disks: tuple[ServedDisk, ...]


@contextmanager
def opened(
    run: StepRunner, wanted: RestorePoint, options: ExportOptions, *, disks: Sequence[int] = ()
) -> Generator[OpenedExport]:
    """Open the disks of an export; every byte that is read of them is proved first.

    Each file is read once and proved by its SHA-256 before the block begins.

    Args:
        run: Opens the stores.
        wanted: Which export.
        options: Where the exports are.
        disks: Only the disks with these numbers, from 0 in the VM's order; all if empty.

    Raises:
        ExportNotFound: There is no such export.
        UsageError: It has no such disk.
        VerificationFailed: A file is damaged.
        StoreUnusable, StoreUnreachable: The store could not be read.
    """
    run.check_options(options)
    place = options.destination
    with run.stop_signal() as stop, run.bandwidth(options.bandwidth) as throttle:
        stores = open_stores(place, throttle=throttle, stop=stop, s3=run.s3_settings(place))
        store, export = choose_export(stores, export=wanted.export, vm=wanted.vm, at=wanted.at)
        entries = tuple(choose_disks(export, disks))
        numbers = tuple(export.manifest.disks.index(entry) for entry in entries)
        with open_disks(store, export, entries, stop=stop, progress=reporting(export, Stage.VERIFY)) as found:
            yield OpenedExport(export, entries, tuple(found), numbers, stop)


@contextmanager
def served(
    run: StepRunner,
    wanted: RestorePoint,
    options: ExportOptions,
    *,
    disks: Sequence[int] = (),
    socket: Path | None = None,
    port: int | None = None,
) -> Generator[ServedExport]:
    """Serve disks of an export read-only over NBD while the block runs; see :func:`opened`.

    Args:
        run: Opens the stores.
        wanted: Which export.
        options: Where the exports are.
        disks: Only the disks with these numbers; all if empty.
        socket: The Unix socket to make, for this user only. With neither this nor a port, one in a new private folder.
        port: A TCP port of the loopback address, open to every local user; 0 for any that is free.

    Raises:
        UsageError: The socket or port cannot be listened on.
    """
    with ExitStack() as stack:
        found = stack.enter_context(opened(run, wanted, options, disks=disks))
        if socket is None and port is None:
            socket = stack.enter_context(socket_folder()) / "nbd.sock"
        path = socket.absolute() if socket else None
        images = {f"disk-{number}": disk for number, disk in zip(found.numbers, found.disks, strict=True)}
        server = stack.enter_context(NbdServer(images, socket_path=path, port=port or 0))
        served_disks = (
            ServedDisk(entry.name, number, disk.capacity, server.uri(f"disk-{number}"), entry.disk_controller)
            for entry, number, disk in zip(found.entries, found.numbers, found.disks, strict=True)
        )
        yield ServedExport(found.export, tuple(served_disks))


def list_volumes(run: StepRunner, wanted: RestorePoint, options: ExportOptions) -> Listing[VolumeInfo]:
    """List the guest's volumes: partitions, logical volumes, disks without partitions.

    Raises:
        ToolMissing: The extra ``files`` is not installed.
        ExportNotFound, VerificationFailed, StoreUnusable, StoreUnreachable: As for :func:`opened`.
    """
    with _guest(run, wanted, options) as (guest, _):
        return Listing(guest.volumes())


def list_files(run: StepRunner, wanted: RestorePoint, options: ExportOptions, path: str) -> Listing[GuestEntry]:
    """List a folder of the guest, such as ``/disk0p1/etc``; of a file, itself.

    Raises:
        GuestFileNotFound: The guest has nothing of that path.
        ToolMissing, ExportNotFound, VerificationFailed, StoreUnusable, StoreUnreachable: As for :func:`list_volumes`.
    """
    with _guest(run, wanted, options) as (guest, _):
        return Listing(guest.list(path))


def extract_files(
    run: StepRunner, wanted: RestorePoint, options: ExportOptions, paths: Sequence[str], into: Path
) -> Listing[Extracted]:
    """Copy files or whole folders of the guest into a folder of this machine.

    Raises:
        GuestFileNotFound: The guest has nothing of that path.
        TargetExists: The folder has something of that name; it is not overwritten.
        ExtractionFailed, DiskFull: It could not be written; nothing of it stays.
        ToolMissing, ExportNotFound, VerificationFailed, StoreUnusable, StoreUnreachable: As for :func:`list_volumes`.
    """
    with _guest(run, wanted, options) as (guest, stop):
        return Listing([extract(guest, path, into, stop=stop) for path in paths])


@contextmanager
def _guest(run: StepRunner, wanted: RestorePoint, options: ExportOptions) -> Generator[tuple[Guest, StopSignal]]:
    require_libraries()
    with opened(run, wanted, options) as found:
        yield open_guest(found.disks), found.stop
