"""The job that shows what can be restored, by names that a restore takes as they are."""

from itertools import chain
from typing import Final

from hyperexport.base.display import Listing
from hyperexport.base.units import format_bytes
from hyperexport.jobs.list import list_exports
from hyperexport.jobs.runner import StepRunner
from hyperexport.model.vm import Value
from hyperexport.options.precedence import ExportOptions
from hyperexport.steps.choosing import is_good
from hyperexport.store.base import StoredExport
from hyperexport.store.contents import StoreContents

MOST: Final = 500
"""A list that people pick from: older ones are restored by their id."""


class OfferedPoint(Value):
    """One restore point, as a list of them shows it."""

    name: str
    """``<vm folder>/<export id>``, which a restore takes as its export."""
    vm: str
    time: str
    kind: str
    size: str
    verified: str
    drilled: str
    store: str


def restore_points(run: StepRunner, options: ExportOptions) -> Listing[OfferedPoint]:
    """Show the good exports of all stores, newest first, and offer them where a restore is started from a form.

    Raises:
        StoreUnusable, StoreUnreachable: A store could not be listed; what was offered before stays.
    """
    contents = list(list_exports(run, options))
    found = chain.from_iterable(((export, one) for export in one.exports if is_good(export)) for one in contents)
    newest = sorted(found, key=lambda pair: pair[0].manifest.started, reverse=True)
    points: dict[str, OfferedPoint] = {}
    for export, one in newest:
        points.setdefault(str(export), _point(export, one))
    offered = Listing(list(points.values())[:MOST])
    run.show_table(("restore-points",), lambda: [_row(point) for point in offered], "Restore points")
    run.offer_restore_points([point.name for point in offered])
    return offered


def _point(export: StoredExport, contents: StoreContents) -> OfferedPoint:
    manifest = export.manifest
    drilled = contents.drilled.get(str(export))
    return OfferedPoint(
        name=str(export),
        vm=manifest.vm.name,
        time=f"{manifest.started:%Y-%m-%d %H:%M} UTC",
        kind=str(manifest.kind),
        size=format_bytes(sum(file.size for file in manifest.files)),
        verified=f"{manifest.verified:%Y-%m-%d}" if manifest.verified else "never",
        drilled=f"{drilled:%Y-%m-%d}" if drilled else "never",
        store=contents.store,
    )


def _row(point: OfferedPoint) -> dict[str, object]:
    return {
        "VM": point.vm,
        "Created": point.time,
        "Restore point": point.name,
        "Kind": point.kind,
        "Size": point.size,
        "Verified": point.verified,
        "Drilled": point.drilled,
        "Store": point.store,
    }
