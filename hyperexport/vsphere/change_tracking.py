"""Which parts of a disk changed since an earlier snapshot, as far as vSphere can prove it.

Every page of the answer is walked to the end of the disk, and anything doubtful is an error: to read a disk whole is
slow, to trust half an answer loses data. Here is also how tracking is switched on, which is done only on request.
"""

import logging
from collections.abc import Callable, Iterator
from itertools import count
from typing import Final, NamedTuple

from pyVmomi import vim

from hyperexport.base.stop import StopSignal
from hyperexport.errors import ChangeTrackingUnavailable, PermissionMissing, ServerBusy, ServerFault
from hyperexport.model.vm import DiskInfo, VmRef
from hyperexport.vsphere.inventory import vm_object
from hyperexport.vsphere.raw_collection import VIM, field_of, parse_answer
from hyperexport.vsphere.session import Session
from hyperexport.vsphere.tasks import wait_task, when_free

logger = logging.getLogger(__name__)

_MOST_AREAS: Final = 4_000_000
_MOST_PAGES: Final = 50_000
"""Beyond these the answer costs more than reading the disk, if it ends at all. An answer holds some 2,000 areas."""


class Extent(NamedTuple):
    """A changed part of a disk, in bytes."""

    start: int
    length: int


class ChangedAreas(NamedTuple):
    """What may have changed: no change is missing, and some of it may be unchanged."""

    bytes: int
    extents: tuple[Extent, ...]


class _Page(NamedTuple):
    """What one answer says: the areas in a stretch of the disk, which begins at ``start``."""

    start: int
    length: int
    extents: tuple[Extent, ...]


def changed_areas(session: Session, ref: VmRef, disk: DiskInfo, *, snapshot: str | None, since: str) -> ChangedAreas:
    """Ask what changed on a disk between an earlier snapshot and this one.

    Args:
        session: The login.
        ref: The VM.
        disk: The disk as the new snapshot has it, or as the VM has it now.
        snapshot: The new snapshot's managed object id; None asks about the VM as it is, which vSphere answers only
            while it is off (vSphere API: QueryChangedDiskAreas).
        since: The change id that the disk had in the earlier snapshot.

    Raises:
        ChangeTrackingUnavailable: The changed areas are unknown, for the reason given; read the whole disk.
        ServerUnreachable, SessionLost: As they say.
    """
    what = f"what changed on disk {disk.key} of {ref.name} is unknown"
    doing = f"asking what changed on disk {disk.key} of {ref.name}"
    taken_at = session.reference(vim.vm.Snapshot, snapshot) if snapshot else None
    vm = vm_object(session, ref)

    def ask(offset: int) -> _Page:
        asked = (taken_at, disk.key, offset, since)
        return _page(session.read_raw(vm, "QueryChangedDiskAreas", *asked, doing=doing), f"{doing} failed")

    _compare_ids(what, disk, since)
    try:
        found = tuple(extent for page in _pages(what, ask, disk.capacity) for extent in page.extents)
    except (PermissionMissing, ServerBusy, ServerFault) as error:
        raise ChangeTrackingUnavailable(f"{what}: {error.what}") from error
    _inside(what, found, disk.capacity)
    changed = ChangedAreas(bytes=sum(extent.length for extent in found), extents=found)
    logger.info("disk %d of %s: %d bytes changed in %d areas", disk.key, ref.name, changed.bytes, len(found))
    return changed


def enable_change_tracking(session: Session, ref: VmRef, *, stop: StopSignal | None = None) -> None:
    """Switch change tracking on in a VM's configuration. Safe to repeat.

    vSphere API: ConfigSpec.changeTrackingEnabled; it takes effect when the VM is stopped for a moment the next time.

    Args:
        session: The login.
        ref: The VM; it should have no snapshots.
        stop: Ends the waiting.

    Raises:
        PermissionMissing, ServerBusy, ServerFault: The server did not take it.
        Interrupted: ``stop`` was raised.
    """
    doing = f"switching on change tracking of {ref.name}"
    spec = vim.vm.ConfigSpec(changeTrackingEnabled=True)

    def reconfigure() -> None:
        task = session.call(vm_object(session, ref).ReconfigVM_Task, spec, doing=doing)
        wait_task(session, task, doing=doing, stop=stop, vm=ref)

    when_free(session, ref, reconfigure, stop=stop)


def _compare_ids(what: str, disk: DiskInfo, since: str) -> None:
    # vSphere API: a change id is <uuid>/<sequence>; another uuid means that tracking began anew in between.
    if disk.change_id is None:
        raise ChangeTrackingUnavailable(f"{what}: vSphere does not track the changes of this disk")
    if disk.change_id.partition("/")[0] != since.partition("/")[0]:
        raise ChangeTrackingUnavailable(f"{what}: change tracking was reset since then")


def _page(answer: bytes, failed: str) -> _Page:
    """Read an answer as XML: objects of pyVmomi's would take 50 us for each of its areas.

    Raises:
        ServerFault: It is not XML, or an area in it is not a pair of numbers.
    """
    returned = parse_answer(answer, failed).find(f".//{VIM}returnval")
    if returned is None:
        raise ServerFault(f"{failed}: the answer is empty")
    try:
        areas = [(field_of(area, "start"), field_of(area, "length")) for area in returned.iterfind(f"{VIM}changedArea")]
        extents = tuple(Extent(int(start), int(length)) for start, length in areas)
        return _Page(int(field_of(returned, "startOffset")), int(field_of(returned, "length")), extents)
    except ValueError as error:
        raise ServerFault(f"{failed}: the answer has areas without a number") from error


def _pages(what: str, ask: Callable[[int], _Page], capacity: int) -> Iterator[_Page]:
    """Walk the answer, which holds some 2,000 areas at a time, to the end of the disk and not past it."""
    offset = areas = 0
    for pages in count():
        if offset >= capacity:  # asking at the very end is an InvalidArgument
            return
        if pages > _MOST_PAGES or areas > _MOST_AREAS:
            raise ChangeTrackingUnavailable(f"{what}: vSphere names more than {areas} areas in {pages} answers")
        page = ask(offset)
        if page.start != offset or page.length <= 0:
            raise ChangeTrackingUnavailable(
                f"{what}: asked about byte {offset}, vSphere answered about {page.length} bytes at {page.start}"
            )
        yield page
        offset += page.length
        areas += len(page.extents)


def _inside(what: str, extents: tuple[Extent, ...], capacity: int) -> None:
    end = 0
    for extent in extents:
        if extent.length <= 0 or extent.start < end or extent.start + extent.length > capacity:
            raise ChangeTrackingUnavailable(
                f"{what}: vSphere names {extent.length} bytes at {extent.start}, which cannot be"
            )
        end = extent.start + extent.length
