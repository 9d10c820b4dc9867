"""The mark by which a person keeps an export from every cleanup: beside the export, and goes where that goes."""

import logging
from collections.abc import Sequence

from hyperexport.errors import ManifestInvalid, UsageError
from hyperexport.model.history import by_vm
from hyperexport.model.marks import PreservedMark
from hyperexport.steps.verification import Selection, is_named, select_exports
from hyperexport.store.base import Store, StoredExport

logger = logging.getLogger(__name__)


def preserve(stores: Sequence[Store], wanted: Sequence[str], *, on: bool) -> list[tuple[Store, StoredExport]]:
    """Set or take away the mark, in every store that holds the export.

    Args:
        stores: Where to look.
        wanted: The exports, as :func:`hyperexport.steps.verification.select_exports` takes them.
        on: Whether they shall have the mark.

    Returns:
        The exports with what their marks now say.

    Raises:
        UsageError: A name fits exports of several VMs; nothing was marked.
        ExportNotFound: A name fits nothing in any of the stores; nothing was marked.
        ManifestInvalid: One has no readable manifest that could have a mark; nothing was marked.
        StoreUnusable, StoreUnreachable: A mark could not be written.
    """
    selections = select_exports(stores, wanted)
    _refuse_ambiguous(selections, wanted)
    for selection in selections:
        for one in selection.damaged:
            raise ManifestInvalid(
                f"{selection.store.url}/{one} cannot be marked: {one.reason}",
                fix="Restore export.json from a copy; no cleanup touches the export as it is",
            )
    marked: list[tuple[Store, StoredExport]] = []
    for selection in selections:
        for export in selection.exports:
            mark = PreservedMark(export_id=export.export_id, preserve=on)
            marked.append((selection.store, selection.store.write_mark(export, mark)))
            logger.info("%s: %s is %s", selection.store.url, export, "preserved" if on else "no longer preserved")
    return marked


def _refuse_ambiguous(selections: Sequence[Selection], wanted: Sequence[str]) -> None:
    for name in wanted:
        exports = [one for selection in selections for one in selection.exports if is_named(str(one), [name])]
        damaged = [one for selection in selections for one in selection.damaged if is_named(str(one), [name])]
        vms = len(by_vm(exports, lambda export: export.manifest))
        # Which VM a damaged export is of is not known.
        unknown = {str(one) for one in damaged} - {str(export) for export in exports}
        if vms + len(unknown) > 1:
            each = ", ".join(sorted({str(one) for one in (*exports, *damaged)}))
            raise UsageError(
                f"{name} is an export of several VMs: {each}", fix="Give the VM's folder with the id, as in this list"
            )
