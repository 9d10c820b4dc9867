"""The snapshots of all VMs at once: two paged requests, however many VMs there are. Nothing is changed."""

from pyVmomi import vim

from hyperexport.model.vm import SnapshotInfo, VmRef
from hyperexport.vsphere.collector import retrieve
from hyperexport.vsphere.inventory import read_inventory
from hyperexport.vsphere.session import Session
from hyperexport.vsphere.snapshot_tree import flatten


def snapshots_of_all_vms(session: Session) -> list[tuple[VmRef, tuple[SnapshotInfo, ...]]]:
    """Read the snapshots of every VM that the user may see and that has any, in the order of their paths."""
    found = retrieve(session, {vim.VirtualMachine: ("snapshot",)}, doing="reading the snapshots of all VMs")
    trees = {obj._GetMoId(): flatten(values["snapshot"]) for obj, values in found if values.get("snapshot")}
    if not trees:
        return []
    return [(row.ref, trees[row.ref.moref]) for row in read_inventory(session).rows if row.ref.moref in trees]
