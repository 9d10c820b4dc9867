"""How far a run is, for a terminal, a Prefect artifact and a notebook.

The engine reports, it does not draw. Listeners are called from transfer threads, so they must be quick and must not
raise; what they raise is dropped.
"""

import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol, runtime_checkable

from hyperexport.model.vm import VmRef


class Stage(StrEnum):
    """What is being done with an item."""

    TRANSFER = "transfer"
    VERIFY = "verify"
    CONVERT = "convert"
    RESTORE = "restore"
    REMOVE_SNAPSHOT = "remove snapshot"
    FLEET = "fleet"


class Item(NamedTuple):
    """What moves: the same in all reports about it."""

    vm: VmRef
    stage: Stage
    name: str


@dataclass(frozen=True, slots=True)
class Progress:
    """One moment of one item's way.

    Args:
        vm: The VM; its name alone would not do, since several of a fleet may have it.
        item: The file or thing that moves, unique within the VM and stage (``db01-disk-0.vmdk``).
        stage: What is being done.
        position: How far, in bytes of the *disk* (not of the compressed stream), per cent for a server's
            task, or VMs of a fleet.
        total: Where the end is, in the unit of ``position``; 0 where it is not known.
        moved: Bytes that went over the wire so far.
        done: The item is finished; no later report will follow.
        failed: This attempt failed; a new one may begin at 0.
    """

    vm: VmRef
    item: str
    stage: Stage
    position: int
    total: int
    moved: int
    done: bool = False
    failed: bool = False

    @property
    def of(self) -> Item:
        """What moves, to tell it from all else."""
        return Item(self.vm, self.stage, self.item)


Listener = Callable[[Progress], None]


@runtime_checkable
class Expecting(Protocol):
    """A listener that also wants to know which files will move, before the first of them does."""

    def expect(self, vm: VmRef, stage: Stage, files: Sequence[tuple[str, int]]) -> None:
        """Take the names and sizes of the files of a VM; of a disk the bytes that the guest sees."""
        ...


# Of the process: transfer threads report without knowing who shows it (terminal, Prefect artifact, notebook).
_listeners: list[Listener] = []
_lock = threading.Lock()


@contextmanager
def subscribed(listener: Listener) -> Generator[None]:
    """Have ``listener`` called for every report in this process while the block runs."""
    with _lock:
        _listeners.append(listener)
    try:
        yield
    finally:
        with _lock:
            _listeners.remove(listener)


def report(progress: Progress) -> None:
    """Tell every listener; never raises."""
    for listener in _subscribed():
        with suppress(Exception):
            listener(progress)


def expect(vm: VmRef, stage: Stage, files: Sequence[tuple[str, int]]) -> None:
    """Tell the listeners that sum up which files of a VM will move; never raises."""
    for listener in _subscribed():
        with suppress(Exception):
            if isinstance(listener, Expecting):
                listener.expect(vm, stage, files)


def _subscribed() -> tuple[Listener, ...]:
    with _lock:
        return tuple(_listeners)
