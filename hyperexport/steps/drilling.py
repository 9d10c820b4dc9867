"""A restore drill: which exports are to be proved, one of them booted, and what came of it recorded beside it."""

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from hyperexport.base.stop import StopSignal
from hyperexport.drill.booting import Boot, boot_on_qemu
from hyperexport.drill.qemu import QemuHost
from hyperexport.drill.serial_console import Expectation
from hyperexport.errors import ExportNotFound, HyperExportError, Interrupted, VerificationFailed
from hyperexport.images.opening import open_disks, read_whole
from hyperexport.model.drill import DrillRecord, DrillTarget, Sign
from hyperexport.model.hardware import Hardware
from hyperexport.model.history import by_vm, newest_first
from hyperexport.model.manifest import ExportManifest, FileRole, new_export_id
from hyperexport.model.progress import Stage
from hyperexport.steps.choosing import ChosenExport, is_good
from hyperexport.steps.conversion import reporting
from hyperexport.steps.step import step
from hyperexport.store.base import Store, StoredExport
from hyperexport.store.records import last_passed, proved_drills

logger = logging.getLogger(__name__)

_LARGEST_CONFIGURATION: Final = 16 << 20


class Drilled(NamedTuple):
    """A drill, and the picture of its end."""

    record: DrillRecord
    screenshot: bytes | None
    leaked: str | None = None
    """Why the VM of a drill in vSphere could not be destroyed, in words; None if nothing is left."""


@step("boot-export", run_name="boot {export.export_id}")
def boot_export(
    store: Store,
    export: StoredExport,
    host: QemuHost,
    expected: Expectation,
    *,
    stop: StopSignal,
    memory_mib: int | None = None,
) -> Drilled:
    """Boot an export on QEMU, straight from its store; a guest that does not come up is a result, and no error.

    Raises:
        ToolMissing: The VM needs EFI firmware, and none is installed.
        ExportNotFound: The export was deleted meanwhile.
        DrillFailed: QEMU did not start.
        StoreUnusable, StoreUnreachable: The store could not be read.
        Interrupted: The run was asked to stop.
    """
    started, began = datetime.now(UTC), time.monotonic()
    opened = began
    try:
        if noted := export.manifest.damage:
            raise VerificationFailed(noted[0])
        hardware = Hardware.from_json(_configuration(store, export))
        listen = reporting(export, Stage.VERIFY)
        entries = export.manifest.disks
        with open_disks(store, export, entries, stop=stop, progress=listen) as disks:
            opened = time.monotonic()
            pairs = list(zip(entries, disks, strict=True))
            boot = boot_on_qemu(host, hardware, pairs, expected, stop=stop, memory_mib=memory_mib)
    except VerificationFailed as error:
        boot = damaged(error)
        opened = time.monotonic()
    return drilled(
        export.manifest,
        DrillTarget.QEMU,
        host.words,
        boot,
        drill_id=new_export_id(started),
        started=started,
        seconds={"open": opened - began, "boot": boot.seconds},
        expected=expected.text,
    )


def drilled(
    manifest: ExportManifest,
    target: DrillTarget,
    platform: str,
    boot: Boot,
    *,
    drill_id: str,
    started: datetime,
    seconds: Mapping[str, float],
    expected: str | None = None,
) -> Drilled:
    """Make the record of a drill, which names its picture.

    Args:
        manifest: The export's.
        target: Where it was started.
        platform: On what, in words.
        boot: What came of it.
        drill_id: The drill's name.
        started: When the drill began.
        seconds: How long each part took.
        expected: The text that was waited for.
    """
    picture = boot.screenshot
    record = DrillRecord(
        drill_id=drill_id,
        export_id=manifest.export_id,
        vm=manifest.vm,
        vcenter_uuid=manifest.vcenter_uuid,
        target=target,
        platform=platform,
        started=started,
        seconds={part: round(took, 3) for part, took in seconds.items()},
        passed=boot.passed,
        sign=boot.sign,
        reason=boot.reason,
        expected=expected,
        console=boot.console,
        screenshot=f"drill-{drill_id}.png" if picture else None,
        screenshot_sha256=hashlib.sha256(picture).hexdigest() if picture else None,
        bytes_read=boot.bytes_read,
        warnings=boot.warnings,
    )
    return Drilled(record, picture)


def damaged(error: VerificationFailed) -> Boot:
    """What comes of a drill whose export is found damaged: nothing can be booted from it."""
    return Boot(Sign.NONE, f"the export is damaged: {error.what}", 0.0, "", None, 0, ())


def _configuration(store: Store, export: StoredExport) -> bytes:
    entry = next((entry for entry in export.manifest.files if entry.role is FileRole.CONFIG), None)
    return read_whole(store, export, entry, most=_LARGEST_CONFIGURATION) if entry else b"{}"


def keep(store: Store, export: StoredExport, drilled: Drilled) -> str | None:
    """Record a drill beside its export.

    Returns:
        Why it could not be recorded, in words; None if it is.
    """
    record = drilled.record
    try:
        if record.screenshot and drilled.screenshot:
            store.keep_record(export, record.screenshot, drilled.screenshot)
        store.keep_record(export, record.file_name, record.to_json())
    except Interrupted:
        raise
    except HyperExportError as error:
        logger.warning("%s: the drill could not be recorded: %s", export, error)
        return error.what
    return None


def due(
    stores: Sequence[Store], now: datetime, *, within: timedelta | None = None, most: int | None = None
) -> list[ChosenExport]:
    """Choose what to drill: the newest good export of each VM, the one whose last proof is oldest first.

    Args:
        stores: Where to look; of equal copies that in the earlier store is drilled.
        now: The time.
        within: Leave out VMs with a proof that is not older.
        most: How many at the most.

    Raises:
        ExportNotFound: The stores hold no good export.
        StoreUnusable, StoreUnreachable: A store could not be listed.
    """
    everything: list[ChosenExport] = []
    damaged = 0
    records: dict[tuple[str, str], list[DrillRecord]] = {}
    for store in stores:
        listing = store.listing()
        everything += [ChosenExport(store, export) for export in listing.exports]
        damaged += len(listing.damaged)
        for place, kept in proved_drills(store.records(listing)).items():
            records.setdefault(place, []).extend(kept)
    last = last_passed([chosen.export for chosen in everything], records)
    waiting: list[tuple[datetime, ChosenExport]] = []
    for identity, group in by_vm(everything, lambda chosen: chosen.export.manifest).items():
        good = [one for one in newest_first(group, lambda chosen: chosen.export.manifest) if is_good(one.export)]
        if good:
            proof = last.get(identity)
            waiting.append((proof.started if proof else _NEVER, good[0]))
    if not waiting:
        places = " and in ".join(store.url for store in stores)
        fix = (
            "Use hyperexport list to see why exports are damaged"
            if everything or damaged
            else "Check --output and --upload"
        )
        raise ExportNotFound(f"no good export is in {places}", fix=fix)
    waiting.sort(key=lambda one: (one[0], one[1].export.manifest.vm.path))
    chosen = [one for proved, one in waiting if within is None or now - proved > within]
    return chosen if most is None else chosen[:most]


_NEVER: Final = datetime.min.replace(tzinfo=UTC)
