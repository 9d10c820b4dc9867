"""Which VMs have a young export already, so that a run that failed in part is repeated only where it failed.

Only the manifests in the stores decide: no run keeps a record elsewhere.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from hyperexport.model.history import is_of_the_future, made_at_the_earliest, of_vms
from hyperexport.model.identity import VmIdentity
from hyperexport.steps.job import Job
from hyperexport.steps.wall_clock import ServerTime
from hyperexport.store.base import Store, StoredExport


def recent_exports(
    stores: Sequence[Store], vms: Sequence[VmIdentity], younger_than: timedelta, *, server: ServerTime | None
) -> dict[VmIdentity, StoredExport]:
    """Find the VMs whose newest sound export began less than so long ago, in every store of the run.

    Args:
        stores: Where the run keeps its exports; one that lacks a young export needs a new one.
        vms: The VMs.
        younger_than: The age that is young enough.
        server: What the server's clock says. Where it and this machine's disagree, the later one decides, and an
            export of the future is never young: in doubt the VM is exported once more.

    Returns:
        The newest young export in the first store, by its VM.

    Raises:
        StoreUnusable, StoreUnreachable: A store could not be listed.
    """
    young = [_young(store, vms, younger_than, server) for store in stores]
    return {vm: young[0][vm] for vm in vms if all(vm in newest for newest in young)}


def young_export(job: Job) -> StoredExport | None:
    """The newest export of the job's VM, where it is young enough for the options to leave the VM out."""
    younger_than = job.options.fleet.skip_newer_than
    if younger_than is None:
        return None
    return recent_exports(job.stores, [job.identity], younger_than, server=job.server_time).get(job.identity)


def _young(
    store: Store, vms: Sequence[VmIdentity], younger_than: timedelta, server: ServerTime | None
) -> dict[VmIdentity, StoredExport]:
    own = datetime.now(UTC)
    now = max(own, server.now().time) if server else own
    earliest = min(own, server.now().time) if server else own
    found: dict[VmIdentity, StoredExport] = {}
    for vm, exports in of_vms(store.exports(), lambda export: export.manifest, vms).items():
        for export in reversed(exports):  # the newest last
            manifest = export.manifest
            made = made_at_the_earliest(manifest)
            if made > now - younger_than and not manifest.damage and not is_of_the_future(manifest, earliest):
                found[vm] = export
    return found
