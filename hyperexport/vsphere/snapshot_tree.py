"""A VM's tree of snapshots, flattened: the one form in which everything else reads it."""

from collections.abc import Iterator
from datetime import UTC
from typing import Any

from hyperexport.model.vm import SnapshotInfo
from hyperexport.vsphere.names import unescape


def flatten(info: Any) -> tuple[SnapshotInfo, ...]:
    """Read a VM's ``snapshot`` property, parents before their children; empty where the VM has none."""
    if info is None:
        return ()
    current = info.currentSnapshot._GetMoId() if info.currentSnapshot else None
    return tuple(_walk(info.rootSnapshotList, current=current))


def _walk(roots: Any, *, current: str | None) -> Iterator[SnapshotInfo]:
    # Not by recursion: how deep the tree is, is the server's word.
    waiting = [(node, 1) for node in reversed(roots or ())]
    while waiting:
        node, depth = waiting.pop()
        moref = node.snapshot._GetMoId()
        yield SnapshotInfo(
            moref=moref,
            name=unescape(node.name),
            description=node.description or "",
            created=node.createTime.astimezone(UTC),
            depth=depth,
            current=moref == current,
            quiesced=bool(node.quiesced),
        )
        waiting += [(child, depth + 1) for child in reversed(node.childSnapshotList or ())]
