"""Which snapshots are ours, which of them have to go, and what an export will do with a VM's snapshots.

Only the owner tag in a snapshot's own description makes it ours: a name proves nothing, and a user's snapshot is chosen
only by ``--consolidate-snapshots``. A tag that was made for a snapshot of another name, or on another server, is a
copy, and decides nothing. A VM is known by its server and its instance UUID, or its moref where it has none.
This module looks at a tree that somebody else read, and never at the server.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from enum import StrEnum
from typing import Final

from pydantic import Field

from hyperexport.base.units import format_bytes
from hyperexport.model.identity import VmIdentity
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
    removed: tuple[SnapshotInfo, ...] = Field(default=(), description="Given up, oldest first; after the export.")
    removed_first: tuple[SnapshotInfo, ...] = Field(
        default=(), description="Those of the given up that go before a new one is made: there are too many already."
    )
    why_removed: str = Field(default="", description="In words, for those that are given up.")
    keep: int = Field(default=0, description="How many of our kept snapshots stay; 0 for all.")
    merges_all: bool = Field(default=False, description="Whether all snapshots are merged into the base disks.")
    kept: tuple[SnapshotInfo, ...] = Field(default=(), description="Stay as they are.")
    in_doubt: tuple[tuple[SnapshotInfo, Owner], ...] = Field(
        default=(), description="Those of the kept that would go if their runs were known to be over."
    )
    holder: Owner | None = Field(
        default=None,
        description="Another run that made one of the snapshots and is not proved to be over.",
    )
    chain_before: int = Field(default=0, description="How long the chain is at the most when the snapshot is made.")


def plan_snapshots(
    tree: Iterable[SnapshotInfo],
    *,
    vm: VmIdentity,
    make: str | None,
    keeps_made: bool,
    keep: int,
    merge_all: bool,
    is_over: Callable[[Owner], bool],
    at_work: Callable[[Owner], bool] = lambda _owner: False,
    was_read: Callable[[SnapshotInfo], bool] = lambda _snapshot: False,
) -> SnapshotPlan:
    """Decide what becomes of a VM's snapshots.

    Args:
        tree: The VM's snapshots, parents first, each branch to its end.
        vm: The VM.
        make: The name of the snapshot to make; None for none.
        keeps_made: Whether it is made to be kept.
        keep: How many of our newest kept ones stay, the new one among them; 0 keeps all.
        merge_all: Merge every snapshot into the base disks, whoever made it.
        is_over: Whether an owner's run is provably over; doubt is False.
        at_work: Whether an owner's run is seen at work.
        was_read: Whether a store holds the export that was read from a snapshot, so that nobody reads from it any more.
    """
    every, is_over = tuple(tree), _answered_once(is_over)
    left = abandoned(every, vm=vm, is_over=is_over)
    rest = [snapshot for snapshot in every if snapshot not in left]
    tags = {snapshot.moref: owner for snapshot, owner in ours(every, vm)}

    def may_go(snapshot: SnapshotInfo) -> bool:
        owner = tags[snapshot.moref]
        return was_read(snapshot) or (is_own(snapshot, owner, vm) and is_over(owner))

    def holds(snapshot: SnapshotInfo, owner: Owner) -> bool:
        if not is_own(snapshot, owner, vm):
            return False
        # What was made to be kept stays after its run, however that ended: only a run that reads from it holds the VM.
        return not was_read(snapshot) and at_work(owner) if owner.keep else not is_over(owner)

    def beyond(new: int) -> list[SnapshotInfo]:
        return beyond_retention(rest, vm=vm, keep=keep, new=new)

    new = 1 if make and keeps_made else 0
    doomed = [] if merge_all else beyond(new)
    expendable = {snapshot.moref for snapshot in doomed if may_go(snapshot)}
    given_up = rest if merge_all else [snapshot for snapshot in doomed if snapshot.moref in expendable]
    first = [snapshot for snapshot in ([] if merge_all else beyond(0)) if snapshot.moref in expendable]
    if make and not merge_all and _longest_chain(every, without=(*left, *first)) >= LONGEST_CHAIN:
        first = given_up
    why = "all snapshots are merged into the base disks" if merge_all else f"--keep-snapshots {keep} keeps newer ones"
    kept = tuple(snapshot for snapshot in rest if snapshot not in given_up)
    unknown = {
        snapshot.moref
        for snapshot in kept
        if (owner := tags.get(snapshot.moref))
        and (snapshot in doomed if owner.keep else True)
        and not (is_own(snapshot, owner, vm) and at_work(owner))
    }
    holders = [tags[one.moref] for one in rest if one.moref in tags and holds(one, tags[one.moref])]
    return SnapshotPlan(
        make=make,
        keeps_made=keeps_made and make is not None and not merge_all,
        abandoned=tuple(left),
        removed=tuple(given_up),
        removed_first=tuple(first),
        why_removed=why if given_up else "",
        keep=keep,
        merges_all=merge_all,
        kept=kept,
        in_doubt=tuple((snapshot, tags[snapshot.moref]) for snapshot in kept if snapshot.moref in unknown),
        holder=next(filter(at_work, holders), next(iter(holders), None)),
        chain_before=_longest_chain(every, without=(*left, *first)),
    )


def _answered_once(ask: Callable[[Owner], bool]) -> Callable[[Owner], bool]:
    """Give one answer for the whole plan, though runs end meanwhile."""
    answers: dict[str, bool] = {}

    def answer(owner: Owner) -> bool:
        mark = owner.to_tag()
        if mark not in answers:
            answers[mark] = ask(owner)
        return answers[mark]

    return answer


def given_up_after_a_failure(
    plan: SnapshotPlan, tree: Iterable[SnapshotInfo], *, vm: VmIdentity, made: str | None
) -> list[SnapshotInfo]:
    """Choose what goes when an export failed, so that runs that fail keep no more snapshots than runs that succeed.

    That is what the plan gives up anyway. Where there is nothing of it, because it is unknown whether the other runs
    are over, the failed run's own snapshot goes.

    Args:
        plan: What the run planned.
        tree: The VM's snapshots now.
        vm: The VM.
        made: The moref of the snapshot that the run made to be kept; None where it made none.
    """
    there = {snapshot.moref: snapshot for snapshot in tree}
    own = [there[made]] if made in there else []
    if plan.merges_all:
        return own
    planned = [there[snapshot.moref] for snapshot in plan.removed if snapshot.moref in there]
    beyond = len(beyond_retention(there.values(), vm=vm, keep=plan.keep))
    return planned[:beyond] or own[:beyond]


def is_own(snapshot: SnapshotInfo, owner: Owner, vm: VmIdentity) -> bool:
    """Tell whether a tag was made for this snapshot of this VM, as far as the tag says.

    Earlier versions' tags have no signature, and name no snapshot. On another server only the same UUID can be the same
    VM, and not even that where both servers have one of their own; morefs repeat from server to server.
    """
    if owner.proof is not None and owner.thing != snapshot.name:
        return False
    server = (owner.vcenter_uuid or "").strip().lower()
    if server and vm.server:
        return server == vm.server
    return vm.vm != vm.moref or owner.vcenter.strip().lower() == vm.address


def _longest_chain(tree: Iterable[SnapshotInfo], *, without: Iterable[SnapshotInfo]) -> int:
    """Count the snapshots of the longest branch, without some of them."""
    gone = {snapshot.moref for snapshot in without}
    lengths, longest = [0], 0
    for snapshot in tree:
        del lengths[max(1, snapshot.depth) :]
        lengths.append(lengths[-1] + (snapshot.moref not in gone))
        longest = max(longest, lengths[-1])
    return longest


def space_warnings(disks: Iterable[DiskInfo], free: Mapping[str, int]) -> list[str]:
    """Say where a snapshot may fill a datastore.

    A delta lies beside its disk and may grow to the disk's whole size while the snapshot is there (Broadcom KB
    318825).

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
        f"{format_bytes(size)} of disks there: a snapshot may fill it if the guest writes a lot"
        for name, size in sorted(sizes.items())
        if name in free and free[name] < DELTA_SHARE * size
    ]


def ours(tree: Iterable[SnapshotInfo], vm: VmIdentity) -> list[tuple[SnapshotInfo, Owner]]:
    """Choose the snapshots that this tool made of this VM, oldest first.

    Args:
        tree: The VM's snapshots, in any order.
        vm: The VM; a mark that names another one is not ours to act on.
    """
    marked = ((snapshot, Owner.from_description(snapshot.description)) for snapshot in tree)
    found = [(snapshot, owner) for snapshot, owner in marked if owner and owner.vm.lower() == vm.vm.lower()]
    return sorted(found, key=lambda pair: (pair[0].created, pair[0].depth))


def beyond_retention(tree: Iterable[SnapshotInfo], *, vm: VmIdentity, keep: int, new: int = 0) -> list[SnapshotInfo]:
    """Choose which of our kept snapshots ``--keep-snapshots`` removes, oldest first.

    A snapshot that was not made to be kept does not count: its own run removes it, or :func:`abandoned` finds it.

    Args:
        tree: The VM's snapshots, in any order.
        vm: The VM.
        keep: How many of the newest stay; 0 keeps all.
        new: How many newer ones are about to be made, and count as kept.
    """
    if keep <= 0:
        return []
    kept = [snapshot for snapshot, owner in ours(tree, vm) if owner.keep]
    return kept[: max(0, len(kept) + new - keep)]


class SnapshotState(StrEnum):
    """What becomes of a snapshot that has our mark, seen from outside its run."""

    ABANDONED = "abandoned"
    """Its run is over and should have removed it."""
    KEPT = "kept on purpose"
    IN_DOUBT = "in doubt"
    """Its run is not provably over: it may be at work, or on a machine that nobody can ask."""


class TaggedSnapshot(Value):
    """A snapshot that this tool made, found on a VM."""

    vm: VmRef
    snapshot: SnapshotInfo
    owner: Owner
    state: SnapshotState


def classify_snapshots(
    ref: VmRef,
    tree: Iterable[SnapshotInfo],
    *,
    vm: VmIdentity,
    is_over: Callable[[Owner], bool],
    runs: Collection[str] = (),
) -> list[TaggedSnapshot]:
    """Say of each snapshot that has our tag what becomes of it, oldest first; a user's are left out.

    Args:
        ref: The VM, as its server knows it.
        vm: Its identity.
        tree: Its snapshots, in any order.
        is_over: Whether an owner's run is provably over; doubt is False.
        runs: Runs that the user named, whose kept snapshots go, too.
    """

    def state(snapshot: SnapshotInfo, owner: Owner) -> SnapshotState:
        if not is_own(snapshot, owner, vm):
            return SnapshotState.IN_DOUBT
        if owner.keep and owner.run not in runs:
            return SnapshotState.KEPT
        return SnapshotState.ABANDONED if is_over(owner) else SnapshotState.IN_DOUBT

    return [
        TaggedSnapshot(vm=ref, snapshot=snapshot, owner=owner, state=state(snapshot, owner))
        for snapshot, owner in ours(tree, vm)
    ]


def abandoned(tree: Iterable[SnapshotInfo], *, vm: VmIdentity, is_over: Callable[[Owner], bool]) -> list[SnapshotInfo]:
    """Choose the snapshots that dead runs of ours should have removed and did not, oldest first.

    Args:
        tree: The VM's snapshots, in any order.
        vm: The VM.
        is_over: Whether an owner's run is provably over; doubt is False.
    """
    return [
        snapshot
        for snapshot, owner in ours(tree, vm)
        if not owner.keep and is_own(snapshot, owner, vm) and is_over(owner)
    ]


def chain_refusal(depth: int) -> str | None:
    """Say why no further snapshot should be made on a chain of this length; None where one may be."""
    if depth < LONGEST_CHAIN:
        return None
    return f"its chain of snapshots is {depth} long, and vSphere allows no more than 32"
