"""Old exports: planned by ``policy/retention.py``, deleted as planned."""

import logging
from datetime import UTC, datetime

from hyperexport.errors import HyperExportError
from hyperexport.options import Cleanup
from hyperexport.policy.incremental import ExportPlan
from hyperexport.policy.retention import CleanupLimits, CleanupPlan, Incoming, plan_cleanup
from hyperexport.results import CleanupResult
from hyperexport.steps.leftovers import IsOver, remove_abandoned_stagings
from hyperexport.store.base import Store

logger = logging.getLogger(__name__)


def plan_store_cleanup(store: Store, options: Cleanup, incoming: Incoming | None = None) -> CleanupPlan:
    """Decide what goes, and why.

    Args:
        store: Where the exports are.
        options: The limits.
        incoming: The export that a dry run takes as done.

    Raises:
        StoreUnusable, StoreUnreachable: The listing failed; nothing is deleted on the strength of a failed listing.
    """
    exports = [(export.folder, export.manifest) for export in store.exports()]
    limits = CleanupLimits.from_options(options)
    return plan_cleanup(exports, limits, now=datetime.now(UTC), free_bytes=store.free_bytes(), incoming=incoming)


def planned_export(folder: str, plan: ExportPlan) -> Incoming:
    """What a planned export will add to a store, for the dry run of the cleanup after it."""
    shared = tuple(disk.base_entry for disk in plan.to_reuse if disk.base_entry)
    held_by = {entry.stored_in or plan.base for entry in shared}
    return Incoming(
        folder=folder,
        new_bytes=plan.transfer_bytes,
        shares=shared,
        refers_to=tuple(sorted(export for export in held_by if export)),
    )


def clean_store(store: Store, plan: CleanupPlan, is_over: IsOver) -> CleanupResult:
    """Delete what the plan says, oldest first, and what dead runs left half-written."""
    exports = {str(export): export for export in store.exports()}
    deleted: list[str] = []
    failed: list[str] = []
    for item in plan.to_delete:
        name = f"{item.folder}/{item.export_id}"
        try:
            store.delete(exports[name])
        except (HyperExportError, KeyError) as error:
            logger.warning("%s: %s could not be deleted: %s", store.url, name, error)
            failed.append(f"{name}: {error}")
        else:
            logger.info("%s: deleted %s: %s", store.url, name, item.reason)
            deleted.append(name)
    abandoned = remove_abandoned_stagings(store, None, is_over)
    return CleanupResult(
        store=store.url,
        dry_run=False,
        plan=plan,
        deleted=tuple(deleted),
        failed=tuple(failed),
        abandoned=tuple(abandoned),
    )
