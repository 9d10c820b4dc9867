"""Which snapshots are ours, and which of ours have to go.

Only the mark in a snapshot's own description makes it ours: a name proves nothing, and a user's snapshot is never
chosen here, whatever it is called. This module looks at a tree that somebody else read, and never at the server.
"""

from collections.abc import Callable, Iterable
from typing import Final

from hyperexport.ownership import Owner
from hyperexport.vm import SnapshotInfo

LONGEST_CHAIN: Final = 30
"""vSphere allows 32 snapshots in a chain (Broadcom KB 318825); two are left for whoever needs one in between."""


def ours(tree: Iterable[SnapshotInfo], vm_uuid: str) -> list[tuple[SnapshotInfo, Owner]]:
    """Choose the snapshots that this tool made of this VM, oldest first.

    Args:
        tree: The VM's snapshots, in any order.
        vm_uuid: The VM's instance uuid; a mark that names another VM is not ours to act on.
    """
    marked = ((snapshot, Owner.from_description(snapshot.description)) for snapshot in tree)
    found = [(snapshot, owner) for snapshot, owner in marked if owner and owner.vm.lower() == vm_uuid.lower()]
    return sorted(found, key=lambda pair: (pair[0].created, pair[0].depth))


def beyond_retention(tree: Iterable[SnapshotInfo], *, vm_uuid: str, keep: int) -> list[SnapshotInfo]:
    """Choose which of our kept snapshots ``--keep-snapshots`` removes, oldest first.

    A snapshot that was not made to be kept does not count: its own run removes it, or :func:`abandoned` finds it.

    Args:
        tree: The VM's snapshots, in any order.
        vm_uuid: The VM's instance uuid.
        keep: How many of the newest stay; 0 keeps all.
    """
    if keep <= 0:
        return []
    return [snapshot for snapshot, owner in ours(tree, vm_uuid) if owner.keep][:-keep]


def abandoned(tree: Iterable[SnapshotInfo], *, vm_uuid: str, is_over: Callable[[Owner], bool]) -> list[SnapshotInfo]:
    """Choose the snapshots that dead runs of ours should have removed and did not, oldest first.

    Args:
        tree: The VM's snapshots, in any order.
        vm_uuid: The VM's instance uuid.
        is_over: Whether an owner's run is provably over; doubt is False.
    """
    return [snapshot for snapshot, owner in ours(tree, vm_uuid) if not owner.keep and is_over(owner)]


def chain_refusal(tree: Iterable[SnapshotInfo]) -> str | None:
    """Say why no further snapshot should be made; None where one may be."""
    depth = max((snapshot.depth for snapshot in tree), default=0)
    if depth < LONGEST_CHAIN:
        return None
    return f"its chain of snapshots is {depth} long, and vSphere allows no more than 32"
