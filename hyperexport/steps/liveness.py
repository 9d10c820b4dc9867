"""Whether the run that left a mark is over, as far as this machine's process table can tell. Never by a clock."""

import os
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final

from hyperexport.model.ownership import Owner, ProcessIdentity, identity_of

AtWork = Callable[[Owner], bool]
"""Tells whether an owner's run may be at work; False where it is over, or nobody knows anything of it."""

IsOver = Callable[[Owner], bool]
"""Tells whether an owner's run is provably over; False whenever there is doubt."""


def on_this_machine(owner: Owner) -> bool:
    """Tell whether the run's process is, or was, on this machine, so that its process table can prove its end.

    A container's numbers mean nothing outside of it, even where the machine's name and boot are the same.
    """
    if owner.host != socket.gethostname():
        return False
    then, now = _recorded(owner), identity_of(os.getpid())
    return then is None or now is None or then.boot != now.boot or then.namespace == now.namespace


def process_is_over(owner: Owner) -> bool:
    """Prove from the process table that the run is over: it was on this machine, and its process is gone.

    A run on another machine is never proven over here; the orchestrator has to say. Neither is one whose number
    another process may have been given, unless the mark says which process it was. Never is a clock asked.
    """
    if not on_this_machine(owner):
        return False
    then, here = _recorded(owner), identity_of(os.getpid())
    if then and here and then.boot != here.boot:
        return True
    now = identity_of(owner.pid)
    if then and now:
        return then != now or (now == here and owner.run in _ended_here)
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False  # somebody else's, of whom /proc may tell us nothing
    return then is not None and now is None  # it is a zombie: dead, and nobody has taken notice


def _recorded(owner: Owner) -> ProcessIdentity | None:
    return ProcessIdentity.parse(owner.process) if owner.process else None


def process_at_work(owner: Owner) -> bool:
    """Tell by the process table alone whether a run may be at work; of other machines it knows nothing."""
    return on_this_machine(owner) and not process_is_over(owner)


_ended_here: Final[set[str]] = set()


@contextmanager
def at_work_here(run: str) -> Generator[None]:
    """Have the run count as over when the block ends, though its process goes on: a notebook, a fleet, a test."""
    _ended_here.discard(run)
    try:
        yield
    finally:
        _ended_here.add(run)
