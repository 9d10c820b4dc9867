"""One line for a whole VM, and one for a fleet, made of the reports about their files."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from hyperexport.base.units import MIB
from hyperexport.model.progress import Item, Listener, Progress, Stage, report
from hyperexport.model.vm import VmRef

ALL_FILES: Final = "all files"
"""The item of a report that stands for all files of a VM."""

FLEET: Final = VmRef(moref="", name="fleet", path="", instance_uuid="")
"""Stands for all VMs of a fleet in the reports of how many are done."""

_SUMMED: Final = frozenset({Stage.TRANSFER, Stage.RESTORE})
_SMALL: Final = MIB
"""Bytes below which a file is summed, but makes no sum worth a line: an nvram beside one disk."""


class WithTotals:
    """A listener that passes every report on, and after it one of all files of the VM, where there are several.

    The files that :func:`hyperexport.model.progress.expect` names count from the beginning, others from their first
    report.

    Args:
        listener: Gets the reports.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._lock = threading.Lock()
        self._files: dict[Item, dict[str, Progress]] = {}

    def __call__(self, progress: Progress) -> None:
        """Take a report, from any thread."""
        self._listener(progress)
        self._sum([progress])

    def expect(self, vm: VmRef, stage: Stage, files: Sequence[tuple[str, int]]) -> None:
        """Take the files of a VM that will move."""
        self._sum([Progress(vm, name, stage, 0, size, 0) for name, size in files])

    def _sum(self, reports: Sequence[Progress]) -> None:
        with self._lock:
            files: dict[str, Progress] = {}
            for each in reports:
                if each.stage in _SUMMED:
                    files = self._files.setdefault(Item(each.vm, each.stage, ALL_FILES), {})
                    files[each.item] = each
            if sum(each.total >= _SMALL for each in files.values()) < 2:
                return
            whole = total_of(list(files.values()))
        self._listener(whole)


def total_of(files: list[Progress]) -> Progress:
    """All files of a VM as one report."""
    return replace(
        files[0],
        item=ALL_FILES,
        position=sum(each.position for each in files),
        total=sum(each.total for each in files),
        moved=sum(each.moved for each in files),
        done=all(each.done for each in files),
        failed=False,
    )


def report_fleet(done: int, total: int) -> None:
    """Report how many VMs of a fleet are done."""
    report(Progress(FLEET, "VMs", Stage.FLEET, done, total, 0, done=done == total))
