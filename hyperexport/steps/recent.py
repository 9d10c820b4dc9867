"""Which VMs have a young export already, so that a run that failed in part is repeated only where it failed.

Told by the manifests in the stores and by nothing else: no run writes down what it did.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from hyperexport.model.manifest import vm_folder
from hyperexport.model.vm import VmRef
from hyperexport.steps.job import Job
from hyperexport.store.base import Store, StoredExport


def recent_exports(stores: Sequence[Store], refs: Sequence[VmRef], younger_than: timedelta) -> dict[str, StoredExport]:
    """Find the VMs whose newest sound export began less than so long ago, in every store of the run.

    Args:
        stores: Where the run keeps its exports; one that lacks a young export needs a new one.
        refs: The VMs.
        younger_than: The age that is young enough.

    Returns:
        The newest export in the first store, by the managed object id of its VM.

    Raises:
        StoreUnusable, StoreUnreachable: A store could not be listed.
    """
    since = datetime.now(UTC) - younger_than
    young = [_newest_since(store, since) for store in stores]
    return {ref.moref: young[0][vm_folder(ref)] for ref in refs if all(vm_folder(ref) in newest for newest in young)}


def young_export(job: Job) -> StoredExport | None:
    """The newest export of the job's VM, where it is young enough for the options to leave the VM out."""
    younger_than = job.options.fleet.skip_newer_than
    if younger_than is None:
        return None
    return recent_exports(job.stores, [job.ref], younger_than).get(job.ref.moref)


def _newest_since(store: Store, since: datetime) -> dict[str, StoredExport]:
    newest: dict[str, StoredExport] = {}
    for export in store.exports():  # the newest first
        if export.manifest.started > since and not export.manifest.damage:
            newest.setdefault(export.folder, export)
    return newest
