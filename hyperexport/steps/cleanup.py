"""Old exports: planned by ``policy/retention.py``, deleted as planned."""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime

from hyperexport.errors import HyperExportError, StoreUnusable
from hyperexport.option_groups import Cleanup
from hyperexport.policy.incremental import ExportPlan
from hyperexport.policy.retention import CleanupLimits, CleanupPlan, Incoming, plan_cleanup
from hyperexport.results import CleanupResult
from hyperexport.steps.leftovers import IsOver, remove_abandoned_stagings
from hyperexport.store.base import Store

logger = logging.getLogger(__name__)


def plan_store_cleanup(store: Store, options: Cleanup, incoming: Sequence[Incoming] = ()) -> CleanupPlan:
    """Decide what goes, and why.

    Args:
        store: Where the exports are.
        options: The limits.
        incoming: The exports that a dry run takes as done.

    Raises:
        StoreUnusable, StoreUnreachable: The listing failed; nothing is deleted on the strength of a failed listing.
    """
    exports = [(export.folder, export.manifest) for export in store.exports()]
    limits = CleanupLimits.from_options(options)
    return plan_cleanup(exports, limits, now=datetime.now(UTC), free_bytes=store.free_bytes(), incoming=incoming)


def planned_export(store: Store, folder: str, plan: ExportPlan) -> Incoming:
    """What a planned export will add to a store, for the dry run of the cleanup after it."""
    shared = tuple(disk.base_entry for disk in plan.to_reuse if disk.base_entry)
    # A hard link needs no other export; a reference in S3 does.
    held_by = {entry.stored_in or plan.base for entry in shared} if store.refers else set[str | None]()
    return Incoming(
        folder=folder,
        new_bytes=plan.transfer_bytes,
        shares=shared,
        refers_to=tuple(sorted(export for export in held_by if export)),
    )


def clean_store(store: Store, plan: CleanupPlan, is_over: IsOver) -> CleanupResult:
    """Delete what the plan says, and what dead runs left half-written.

    The plan deletes an export before those whose files it uses; where that fails, they are left alone as well.
    """
    exports = {str(export): export for export in store.exports()}
    deleted: list[str] = []
    failed: list[str] = []
    still_used: set[str] = set()
    for item in plan.to_delete:
        try:
            if str(item) in still_used:
                raise StoreUnusable("an export that could not be deleted uses its files")
            if str(item) in exports:
                store.delete(exports[str(item)])
        except HyperExportError as error:
            logger.warning("%s: %s could not be deleted: %s", store.url, item, error)
            failed.append(f"{item}: {error}")
            still_used |= {f"{item.folder}/{used}" for used in item.refers_to}
        else:
            logger.info("%s: deleted %s: %s", store.url, item, item.reason)
            deleted.append(str(item))
    abandoned = remove_abandoned_stagings(store, None, is_over)
    return CleanupResult(
        store=store.url,
        dry_run=False,
        plan=plan,
        deleted=tuple(deleted),
        failed=tuple(failed),
        abandoned=tuple(abandoned),
    )
