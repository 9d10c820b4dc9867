"""The snapshots of all VMs at once: two paged requests, however many VMs there are. Nothing is changed."""

import logging

from pyVmomi import vim

from hyperexport.model.vm import SnapshotInfo, VmRef
from hyperexport.vsphere.collector import retrieve
from hyperexport.vsphere.inventory import read_inventory
from hyperexport.vsphere.session import Session
from hyperexport.vsphere.snapshot_tree import flatten

logger = logging.getLogger(__name__)


def snapshots_of_all_vms(session: Session) -> list[tuple[VmRef, tuple[SnapshotInfo, ...]]]:
    """Read the snapshots of every VM that the user may see and that has any, in the order of their paths."""
    found = retrieve(session, {vim.VirtualMachine: ("snapshot",)}, doing="reading the snapshots of all VMs")
    trees: dict[str, tuple[SnapshotInfo, ...]] = {}
    for obj, values in found:
        moref = obj._GetMoId()
        if "snapshot" in values.unread:
            logger.warning("the snapshots of VM %s could not be read, and are not in this list", moref)
        elif "snapshot" in values:
            trees[moref] = flatten(values["snapshot"])
    if not trees:
        return []
    return [(row.ref, trees[row.ref.moref]) for row in read_inventory(session).rows if row.ref.moref in trees]
