"""Which processes this run of the suite started and left behind.

Every process that a test starts inherits a variable with the number of the run, however deep it is started and whatever
session it makes for itself; Linux shows it in ``/proc``.
"""

import os
import time
from typing import Any, Final, NamedTuple

import psutil

VARIABLE: Final = "TEST_SUITE_RUN"
_SECONDS_TO_END: Final = 10.0
_SECONDS_BETWEEN_LOOKS: Final = 0.1


class Left(NamedTuple):
    """A process that still lives."""

    pid: int
    command: str

    def __str__(self) -> str:
        return f"process {self.pid}: {self.command}"


def mark_this_run() -> None:
    """Mark all that this process starts from now on."""
    os.environ[VARIABLE] = f"{os.getpid()}-{time.time_ns()}"


def still_living(mark: str, *, seconds: float | None = None) -> list[Left]:
    """Name the processes with a mark, this one and its ancestors aside, that do not end by themselves.

    Args:
        mark: As :func:`mark_this_run` left it in the environment.
        seconds: How long a process that is ending may take; ten seconds if None.
    """
    end = time.monotonic() + (_SECONDS_TO_END if seconds is None else seconds)
    while (found := _marked(mark)) and time.monotonic() < end:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    return found


def _marked(mark: str) -> list[Left]:
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found: list[Left] = []
    for process in psutil.process_iter(["environ", "cmdline", "status"]):
        facts: dict[str, Any] = process.info
        marked = (facts["environ"] or {}).get(VARIABLE) == mark
        if marked and process.pid not in own and facts["status"] != psutil.STATUS_ZOMBIE:
            found.append(Left(process.pid, " ".join(facts["cmdline"] or ())[:200]))
    return found
