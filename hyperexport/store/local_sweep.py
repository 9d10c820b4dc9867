"""What a crash leaves in a local store that has no mark of an owner, because it fell between two steps.

None of it is ever a part of an export, and each of it can be told by itself: a staging that was made and not yet
signed, an export whose deletion was begun, a mark half-written beside the old one, an owner tag that outlived its use.
Who is about to make one of them holds the folder, so that a sweep beside it leaves it alone.
"""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from hyperexport.model.manifest import FILE_NAME, is_export_id
from hyperexport.store.base import lies_beside
from hyperexport.store.filesystem import PROBE, held, remove_if_empty, remove_tree
from hyperexport.store.local_staging import DELETED, OWNER_FILE, PARTIAL, is_unsigned

logger = logging.getLogger(__name__)

_SUFFIX: Final = re.compile(r"[0-9a-f]{8}")
"""What the name of a file ends with that is being written beside the one that it will replace."""
_PROBE: Final = re.compile(rf"{re.escape(PROBE)}[0-9a-f]{{8}}")


class Kept(NamedTuple):
    """What a sweep could not remove, and why."""

    path: Path
    error: OSError


def sweep_root(root: Path) -> list[Kept]:
    """Remove probes whose writer died; one that is alive does not mind.

    Returns:
        Those that could not be removed.

    Raises:
        OSError: The folder cannot be listed.
    """
    kept: list[Kept] = []
    for path in _entries(root):
        if _PROBE.fullmatch(path.name) and not path.is_dir():
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                kept.append(Kept(path, error))
    return kept


def sweep_vm(folder: Path) -> tuple[list[str], list[Kept]]:
    """Remove what nobody owns from a VM's folder, and the folder if nothing is left in it.

    Returns:
        The names of the exports of which something was removed; and what could not be removed.

    Raises:
        OSError: The folder cannot be listed.
    """
    swept: list[str] = []
    kept: list[Kept] = []
    for path in _entries(folder):
        export_id, _, state = path.name.partition(".")
        if not is_export_id(export_id) or path.is_symlink() or not path.is_dir():
            continue
        try:
            if _sweep_one(path, state):
                swept.append(export_id)
        except OSError as error:
            kept.append(Kept(path, error))
    remove_if_empty(folder)
    return swept, kept


def _sweep_one(path: Path, state: str) -> bool:
    """Remove what nobody owns of one export; False where there is nothing of the kind."""
    if f".{state}" == DELETED:
        with suppress(FileNotFoundError):  # two sweeps at once
            remove_tree(path)
        return True
    return _remove_unsigned(path) if f".{state}" == PARTIAL else not state and _remove_marks(path)


def _remove_unsigned(path: Path) -> bool:
    """A staging into which not even the mark was written: nothing else is in it."""
    with held(path, wait=False) as ours:
        if not ours or not is_unsigned(path) or {entry.name for entry in _entries(path)} - {OWNER_FILE}:
            return False
        (path / OWNER_FILE).unlink(missing_ok=True)
        path.rmdir()
        return True


def _is_half_written(name: str) -> bool:
    hidden, _, suffix = name.removeprefix(".").rpartition(".")
    return (
        name.startswith(".") and (hidden == FILE_NAME or lies_beside(hidden)) and _SUFFIX.fullmatch(suffix) is not None
    )


def _remove_marks(path: Path) -> bool:
    """A mark of ownership, or a half-written mark or record, in an export that is complete."""
    with held(path, wait=False) as ours:
        if not ours or not (path / FILE_NAME).exists():
            return False
        found = [entry for entry in _entries(path) if entry.name == OWNER_FILE or _is_half_written(entry.name)]
        for entry in found:
            entry.unlink(missing_ok=True)
        return bool(found)


def _entries(folder: Path) -> Iterator[Path]:
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 - names alone
    except FileNotFoundError:
        return
    yield from (folder / name for name in names)
