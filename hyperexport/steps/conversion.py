"""A stored export, converted to disk images or a package, with its progress reported."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from hyperexport.base.stop import StopSignal
from hyperexport.convert import conversion
from hyperexport.convert.values import Conversion, Target
from hyperexport.model.progress import Progress, Stage, report
from hyperexport.steps.step import step
from hyperexport.store.base import Store, StoredExport

SECONDS_BETWEEN_REPORTS: Final = 0.2


@step("convert-export", run_name="convert {export.export_id} to {to}", retried=True)
def convert(
    store: Store,
    export: StoredExport,
    to: Target,
    into: Path,
    *,
    disks: Sequence[int],
    stop: StopSignal,
    libvirt: bool = False,
    dry_run: bool = False,
) -> Conversion:
    """Convert one export; arguments and errors are those of :func:`hyperexport.convert.conversion.convert_export`.

    A failure leaves no file, so a transient one is retried from the beginning.
    """
    return conversion.convert_export(
        store,
        export,
        to=to,
        into=into,
        disks=disks,
        libvirt=libvirt,
        stop=stop,
        progress=reporting(export, Stage.CONVERT),
        dry_run=dry_run,
    )


def reporting(export: StoredExport, stage: Stage) -> Callable[[str, int, int], None]:
    """A listener that reports how far each file of an export is, a few times a second."""
    report_at = 0.0
    finished: set[str] = set()

    def on_progress(name: str, position: int, size: int) -> None:
        nonlocal report_at
        done = position >= size
        if name not in finished and (done or time.monotonic() >= report_at):
            finished.update([name] if done else [])
            report(Progress(export.manifest.vm, name, stage, position, size, position, done=done))
            report_at = time.monotonic() + SECONDS_BETWEEN_REPORTS

    return on_progress
