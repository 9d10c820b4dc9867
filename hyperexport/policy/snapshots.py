"""Which snapshots are ours, which of them have to go, and what an export will do with a VM's snapshots.

Only the mark in a snapshot's own description makes it ours: a name proves nothing, and a user's snapshot is chosen
only by ``--consolidate-snapshots``. This module looks at a tree that somebody else read, and never at the server.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Final

from pydantic import Field

from hyperexport.base.units import format_bytes
from hyperexport.model.ownership import Owner
from hyperexport.model.vm import DiskInfo, SnapshotInfo, Value, VmRef

LONGEST_CHAIN: Final = 30
"""vSphere allows 32 snapshots in a chain (Broadcom KB 318825); two are left for whoever needs one in between."""

DELTA_SHARE: Final = 0.20
"""A warning is given where less than this part of the disks' size is free for the delta that grows beside them."""

_DATASTORE: Final = re.compile(r"\[([^\]]+)\]")


class SnapshotPlan(Value):
    """What an export does with the VM's snapshots; a dry run shows it, a real run does it."""

    make: str | None = Field(default=None, description="The name of the snapshot to export from; None without one.")
    why_none: str = Field(default="", description="Why none is made though --snapshot was given; else empty.")
    keeps_made: bool = Field(default=False, description="Whether that one stays on the VM on purpose.")
    abandoned: tuple[SnapshotInfo, ...] = Field(default=(), description="Left by runs that are over; removed first.")
    removed: tuple[SnapshotInfo, ...] = Field(default=(), description="Removed after the export.")
    why_removed: str = Field(default="", description="In words, for those removed after the export.")
    merges_all: bool = Field(default=False, description="Whether all snapshots are merged into the base disks.")
    kept: tuple[SnapshotInfo, ...] = Field(default=(), description="Stay as they are.")
    holder: Owner | None = Field(default=None, description="Another run that is at work on a snapshot of its own now.")

    @property
    def chain_before(self) -> int:
        """How long the chain is at the most when the snapshot is made, with what was abandoned gone."""
        deepest = max((snapshot.depth for snapshot in (*self.removed, *self.kept)), default=0)
        return max(0, deepest - len(self.abandoned))


def plan_snapshots(
    tree: Iterable[SnapshotInfo],
    *,
    vm_uuid: str,
    make: str | None,
    keeps_made: bool,
    keep: int,
    merge_all: bool,
    is_over: Callable[[Owner], bool],
    at_work: Callable[[Owner], bool] = lambda _owner: False,
) -> SnapshotPlan:
    """Decide what becomes of a VM's snapshots.

    Args:
        tree: The VM's snapshots, parents first.
        vm_uuid: The VM's instance uuid.
        make: The name of the snapshot to make; None for none.
        keeps_made: Whether it is made to be kept.
        keep: How many of our newest kept ones stay, the new one among them; 0 keeps all.
        merge_all: Merge every snapshot into the base disks, whoever made it.
        is_over: Whether an owner's run is provably over; doubt is False.
        at_work: Whether an owner's run may be at work.
    """
    every = tuple(tree)
    left = abandoned(every, vm_uuid=vm_uuid, is_over=is_over)
    rest = [snapshot for snapshot in every if snapshot not in left]
    if merge_all:
        removed, why = rest, "all snapshots are merged into the base disks"
    else:
        new = 1 if make and keeps_made else 0
        removed = beyond_retention(rest, vm_uuid=vm_uuid, keep=keep, new=new)
        why = f"--keep-snapshots {keep} keeps newer ones" if removed else ""
    return SnapshotPlan(
        make=make,
        keeps_made=keeps_made and make is not None and not merge_all,
        abandoned=tuple(left),
        removed=tuple(removed),
        why_removed=why if removed else "",
        merges_all=merge_all,
        kept=tuple(snapshot for snapshot in rest if snapshot not in removed),
        holder=next((owner for _, owner in ours(every, vm_uuid) if at_work(owner)), None),
    )


def space_warnings(disks: Iterable[DiskInfo], free: Mapping[str, int]) -> list[str]:
    """Say where a snapshot may fill a datastore.

    A delta lies beside its disk and may grow to the disk's whole size while the snapshot is there (vSphere facts 73).

    Args:
        disks: The VM's disks.
        free: Free bytes by the datastore's name, as far as they are known.
    """
    sizes: Counter[str] = Counter()
    for disk in disks:
        found = _DATASTORE.match(disk.file)
        if found and disk.unexportable is None:
            sizes[found[1]] += disk.capacity
    return [
        f"datastore {name} has {format_bytes(free[name])} free, less than {DELTA_SHARE:.0%} of the "
        f"{format_bytes(size)} of disks there: a snapshot may fill it if the guest writes much"
        for name, size in sorted(sizes.items())
        if name in free and free[name] < DELTA_SHARE * size
    ]


def ours(tree: Iterable[SnapshotInfo], vm_uuid: str) -> list[tuple[SnapshotInfo, Owner]]:
    """Choose the snapshots that this tool made of this VM, oldest first.

    Args:
        tree: The VM's snapshots, in any order.
        vm_uuid: The VM's instance uuid; a mark that names another VM is not ours to act on.
    """
    marked = ((snapshot, Owner.from_description(snapshot.description)) for snapshot in tree)
    found = [(snapshot, owner) for snapshot, owner in marked if owner and owner.vm.lower() == vm_uuid.lower()]
    return sorted(found, key=lambda pair: (pair[0].created, pair[0].depth))


def beyond_retention(tree: Iterable[SnapshotInfo], *, vm_uuid: str, keep: int, new: int = 0) -> list[SnapshotInfo]:
    """Choose which of our kept snapshots ``--keep-snapshots`` removes, oldest first.

    A snapshot that was not made to be kept does not count: its own run removes it, or :func:`abandoned` finds it.

    Args:
        tree: The VM's snapshots, in any order.
        vm_uuid: The VM's instance uuid.
        keep: How many of the newest stay; 0 keeps all.
        new: How many newer ones are about to be made, and count as kept.
    """
    if keep <= 0:
        return []
    kept = [snapshot for snapshot, owner in ours(tree, vm_uuid) if owner.keep]
    return kept[: max(0, len(kept) + new - keep)]


class Fate(StrEnum):
    """What becomes of a snapshot that bears our mark, seen from outside its run."""

    ABANDONED = "abandoned"
    """Its run is over and should have removed it."""
    KEPT = "kept on purpose"
    IN_DOUBT = "in doubt"
    """Its run is not provably over: it may be at work, or on a machine that nobody can ask."""


class MarkedSnapshot(Value):
    """A snapshot that this tool made, found on a VM."""

    vm: VmRef
    snapshot: SnapshotInfo
    owner: Owner
    fate: Fate


def judge(vm: VmRef, tree: Iterable[SnapshotInfo], *, is_over: Callable[[Owner], bool]) -> list[MarkedSnapshot]:
    """Say of each snapshot that bears our mark what becomes of it, oldest first; a user's are left out.

    Args:
        vm: The VM.
        tree: Its snapshots, in any order.
        is_over: Whether an owner's run is provably over; doubt is False.
    """

    def fate(owner: Owner) -> Fate:
        if owner.keep:
            return Fate.KEPT
        return Fate.ABANDONED if is_over(owner) else Fate.IN_DOUBT

    return [
        MarkedSnapshot(vm=vm, snapshot=snapshot, owner=owner, fate=fate(owner))
        for snapshot, owner in ours(tree, vm.instance_uuid)
    ]


def abandoned(tree: Iterable[SnapshotInfo], *, vm_uuid: str, is_over: Callable[[Owner], bool]) -> list[SnapshotInfo]:
    """Choose the snapshots that dead runs of ours should have removed and did not, oldest first.

    Args:
        tree: The VM's snapshots, in any order.
        vm_uuid: The VM's instance uuid.
        is_over: Whether an owner's run is provably over; doubt is False.
    """
    return [snapshot for snapshot, owner in ours(tree, vm_uuid) if not owner.keep and is_over(owner)]


def chain_refusal(depth: int) -> str | None:
    """Say why no further snapshot should be made on a chain of this length; None where one may be."""
    if depth < LONGEST_CHAIN:
        return None
    return f"its chain of snapshots is {depth} long, and vSphere allows no more than 32"
