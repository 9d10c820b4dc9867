"""The exports of each VM in the order in which they were made, by more than one clock.

An export names those that were there when it began, and the one that it builds on: it was made after them, whatever
any clock said. Only where no such link says anything do the times decide.
"""

import heapq
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, TypeVar

from hyperexport.model.identity import VmIdentity, resolved
from hyperexport.model.manifest import ExportManifest

TOLERANCE: Final = timedelta(minutes=10)
"""How far apart two clocks may be. S3 refuses a machine whose clock is 15 minutes off."""

T = TypeVar("T")


class Placed(NamedTuple):
    """Where an export stands among those of its VM."""

    at: datetime
    """When it was made at the earliest: no earlier than the exports that it was made after."""
    latest: datetime
    """When it was made at the latest. Later than ``at`` only where its own time is before that of a predecessor."""
    rank: int
    """0 is the oldest of the VM; copies of one export have one rank."""
    future: bool
    """Whether its time is later than now."""


def identity_of(manifest: ExportManifest) -> VmIdentity:
    """The VM that an export is of."""
    return VmIdentity.of(manifest.vm, vcenter=manifest.vcenter, vcenter_uuid=manifest.vcenter_uuid)


def by_vm(items: Iterable[T], manifest_of: Callable[[T], ExportManifest]) -> dict[VmIdentity, list[T]]:
    """Group exports by the VM that they are of, wherever they lie.

    Args:
        items: Exports.
        manifest_of: Gives an item's manifest.
    """
    return grouped(items, lambda item: identity_of(manifest_of(item)))


def grouped(items: Iterable[T], identify: Callable[[T], VmIdentity]) -> dict[VmIdentity, list[T]]:
    """Group things by the VM that each is of."""
    every = [(item, identify(item)) for item in items]
    heads = resolved(identity for _, identity in every)
    groups: dict[VmIdentity, list[T]] = {}
    for item, identity in every:
        groups.setdefault(heads[identity], []).append(item)
    return groups


def of_vms(
    items: Iterable[T], manifest_of: Callable[[T], ExportManifest], vms: Sequence[VmIdentity]
) -> dict[VmIdentity, list[T]]:
    """Choose the exports of each of these VMs, in the order given."""
    every = [(item, identity_of(manifest_of(item))) for item in items]
    heads = resolved([*vms, *(identity for _, identity in every)])
    groups: dict[VmIdentity, list[T]] = {}
    for item, identity in every:
        groups.setdefault(heads[identity], []).append(item)
    return {vm: groups.get(heads[vm], []) for vm in vms}


def of_vm(items: Iterable[T], manifest_of: Callable[[T], ExportManifest], vm: VmIdentity) -> list[T]:
    """Choose the exports of one VM, in the order given."""
    return of_vms(items, manifest_of, [vm])[vm]


def made(manifest: ExportManifest) -> datetime:
    """The latest moment at which the export can have begun: of the machine's clock and the server's, the later."""
    return max(manifest.started, manifest.server_time or manifest.started)


def made_at_the_earliest(manifest: ExportManifest) -> datetime:
    """The earliest moment at which the export can have begun: of the machine's clock and the server's, the earlier.

    What must not be taken for younger than it is counts from here.
    """
    return min(manifest.started, manifest.server_time or manifest.started)


def is_of_the_future(manifest: ExportManifest, now: datetime) -> bool:
    """Whether an export's time is later than now, which proves a clock wrong."""
    return made(manifest) > now + TOLERANCE


def place(manifests: Sequence[ExportManifest], now: datetime) -> list[Placed]:
    """Say of each export of one VM where it stands among the others.

    Args:
        manifests: All exports of one VM, in any order.
        now: The present time.
    """
    order = _in_order(manifests)
    future = [is_of_the_future(manifest, now) for manifest in manifests]
    first = next((made(manifests[index]) for index in order if not future[index]), now)
    found: dict[int, Placed] = {}
    at, rank, last = first, -1, ""
    contradicted: list[int] = []
    for index in order:
        manifest = manifests[index]
        rank += manifest.export_id != last
        last = manifest.export_id
        # One dated in the future says nothing of those after it.
        at = at if future[index] else max(at, made(manifest))
        found[index] = Placed(at, at, rank, future[index])
        if made(manifest) < at - TOLERANCE:
            contradicted.append(index)
        elif not future[index]:
            found |= {one: found[one]._replace(latest=at) for one in contradicted}
            contradicted = []
    found |= {one: found[one]._replace(latest=now) for one in contradicted}
    return [found[index] for index in range(len(manifests))]


def newest_first(
    items: Iterable[T], manifest_of: Callable[[T], ExportManifest], now: datetime | None = None
) -> list[T]:
    """Sort exports: those of one VM as they were made, those of several VMs among each other by time."""
    moment = now or datetime.now(UTC)
    keyed: list[tuple[tuple[datetime, int, str], T]] = []
    for group in by_vm(items, manifest_of).values():
        manifests = [manifest_of(item) for item in group]
        for item, manifest, placed in zip(group, manifests, place(manifests, moment), strict=True):
            keyed.append(((placed.at, placed.rank, manifest.export_id), item))
    return [item for _, item in sorted(keyed, key=lambda pair: pair[0], reverse=True)]


def _links(manifest: ExportManifest) -> set[str]:
    """The exports that this one was certainly made after."""
    stored = {entry.stored_in for entry in manifest.files if entry.stored_in}
    links = {*manifest.predecessors, *stored, *([manifest.base] if manifest.base else [])}
    return links - {manifest.export_id}


def _by_clock(manifest: ExportManifest) -> tuple[datetime, str]:
    return manifest.server_time or manifest.started, manifest.export_id


def _in_order(manifests: Sequence[ExportManifest]) -> list[int]:
    """Positions of the manifests, oldest first. Links that contradict each other (forged ones) yield to the clock."""
    order = sorted(range(len(manifests)), key=lambda index: _by_clock(manifests[index]))
    positions: dict[str, list[int]] = {}
    for index in order:
        positions.setdefault(manifests[index].export_id, []).append(index)
    before = [{name for name in _links(manifest) if name in positions} for manifest in manifests]
    seen: set[str] = set()
    for index in order:
        if before[index] - seen:
            return _sorted_by_links(manifests, positions, before)
        seen.add(manifests[index].export_id)
    return order


def _sorted_by_links(
    manifests: Sequence[ExportManifest], positions: dict[str, list[int]], before: Sequence[set[str]]
) -> list[int]:
    names = {name: set[str]().union(*(before[index] for index in where)) for name, where in positions.items()}
    after: dict[str, list[str]] = {}
    for name, earlier in names.items():
        for one in earlier:
            after.setdefault(one, []).append(name)
    clock = {name: _by_clock(manifests[where[0]]) for name, where in positions.items()}
    missing = {name: len(earlier) for name, earlier in names.items()}
    ready = [(clock[name], name) for name, count in missing.items() if not count]
    heapq.heapify(ready)
    left = dict.fromkeys(sorted(names, key=clock.__getitem__))
    order: list[int] = []
    while left:
        name = heapq.heappop(ready)[1] if ready else next(iter(left))
        if name not in left:
            continue
        del left[name]
        order += positions[name]
        for later in after.get(name, ()):
            missing[later] -= 1
            if not missing[later]:
                heapq.heappush(ready, (clock[later], later))
    return order
