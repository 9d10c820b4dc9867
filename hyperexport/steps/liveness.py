"""Whether the run that left an owner tag is over, as far as this machine can prove it. Never by a clock.

Dead is what is *proved* dead. Unknown is neither dead nor at work: its things stay, no run waits for it, and the run
that finds them reports which they are and the command that removes them. The table, first match wins:

| the tag                                       | what this machine sees                            | it is   |
|-----------------------------------------------|---------------------------------------------------|---------|
| any                                           | its own ids not readable (no /proc, no /proc/sys, | unknown |
|                                               | no descriptors left, no machine id, another       |         |
|                                               | namespace's /proc)                                |         |
| of an earlier version (no machine id)         | its very process, by boot, namespace and ticks    | alive   |
| of an earlier version                         | anything else                                     | unknown |
| without a process                             | anything                                          | unknown |
| another machine, boot, PID or time namespace  | anything: a machine id and a host name can be     | unknown |
|                                               | shared by clones, so another boot proves nothing  |         |
| this boot's, signature missing or wrong       | anything: others can write tags                   | unknown |
| this boot's, signed                           | no process of that number                         | dead    |
|                                               | one that began at another tick                    | dead    |
|                                               | a zombie without threads                          | dead    |
|                                               | not shown by /proc (hidepid), or cannot be asked  | unknown |
|                                               | this very process, which has ended the run        | dead    |
|                                               | the process; the run's announcement is gone       | dead    |
|                                               | the process                                       | alive   |

What follows: *dead* is removed; *alive* is waited for, then the export fails with vm-held; *unknown* is kept and
reported. With Prefect, ``hyperexport/tasks/liveness.py`` asks it about the unknown ones.
"""

import errno
import hashlib
import os
import socket
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from enum import Enum, auto
from typing import Final

from hyperexport.base.machine import Machine, ProcessIdentity, process, this_machine
from hyperexport.model.ownership import Owner

AtWork = Callable[[Owner], bool]
"""Tells whether an owner's run may be at work; False where it is over, or nothing is known of it."""

IsOver = Callable[[Owner], bool]
"""Tells whether an owner's run is provably over; False whenever there is doubt."""


class Life(Enum):
    """What this machine can say of a run."""

    DEAD = auto()
    ALIVE = auto()
    UNKNOWN = auto()


def life_of(owner: Owner) -> Life:
    """Look at the process that the tag names, as the table above has it."""
    machine = this_machine()
    then = ProcessIdentity.parse(owner.process) if owner.process else None
    if machine is None or then is None:
        return Life.UNKNOWN
    if owner.machine is None:
        return _life_by_an_earlier_tag(owner, then, machine)
    if not _here(owner, then, machine) or not owner.is_signed_by(machine):
        return Life.UNKNOWN
    return _life_of_process(owner, then, machine)


def is_elsewhere(owner: Owner) -> bool:
    """Tell whether the run is out of this machine's sight, so that its state in Prefect is all that can be known.

    Where the identities cannot be compared, a process of that number on a machine of that name may be the run's.
    """
    machine = this_machine()
    then = ProcessIdentity.parse(owner.process) if owner.process else None
    if machine and then and owner.machine:
        return not _here(owner, then, machine)
    return owner.host != socket.gethostname() or _is_there(owner.pid) is False


def is_signature_valid(owner: Owner) -> bool:
    """Whether what the tag says is proved: this machine made it in this boot, and it is unchanged since."""
    machine = this_machine()
    return machine is not None and owner.is_signed_by(machine)


def process_is_over(owner: Owner) -> bool:
    """Tell whether this machine proves that the run is over."""
    return life_of(owner) is Life.DEAD


def process_at_work(owner: Owner) -> bool:
    """Whether the run is at work on this machine; other machines are unknown."""
    return life_of(owner) is Life.ALIVE


def over_or_acknowledged(runs: Collection[str], is_over: IsOver, at_work: AtWork) -> IsOver:
    """Have runs count as over that the user says are over, unless they may be at work."""
    return lambda owner: is_over(owner) or (owner.run in runs and not at_work(owner))


# Of the process, as its id is: tags of this process may belong to several runs, of which some have ended.
_ended_here: Final[set[str]] = set()


@contextmanager
def at_work_here(run: str) -> Generator[str | None]:
    """Have the run count as over when the block ends, though its process continues: a notebook, a fleet, a test.

    Other processes see it by an abstract socket, which exists while the block lasts and vanishes with the process
    (unix(7)).

    Yields:
        The network namespace where the run is announced, for its tags; None where it could not be.
    """
    _ended_here.discard(run)
    machine = this_machine()
    announcement = _announce(run) if machine else None
    try:
        yield machine.network if machine and announcement else None
    finally:
        _ended_here.add(run)
        if announcement:
            announcement.close()


def _here(owner: Owner, then: ProcessIdentity, machine: Machine) -> bool:
    return (owner.machine, then.boot, then.namespace) == (machine.id, machine.boot, machine.namespace)


def _life_of_process(owner: Owner, then: ProcessIdentity, machine: Machine) -> Life:
    there = _is_there(owner.pid)
    found = process(owner.pid) if there else None
    if there is None or (there and found is None):
        return Life.UNKNOWN
    if found is None or found.ticks != then.ticks or found.ended:
        return Life.DEAD
    ended_here = owner.pid == os.getpid() and owner.run in _ended_here
    return Life.DEAD if ended_here or _announcement_is_gone(owner, machine) else Life.ALIVE


def _is_there(pid: int) -> bool | None:
    """Ask the kernel for a process of this number in this namespace; None where it does not tell."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # of another user
    except OSError:
        return None
    return True


def _life_by_an_earlier_tag(owner: Owner, then: ProcessIdentity, machine: Machine) -> Life:
    namespace = machine.namespace.partition("-")[0]
    found = process(owner.pid) if (then.boot, then.namespace) == (machine.boot_id, namespace) else None
    return Life.ALIVE if found and not found.ended and found.ticks == then.ticks else Life.UNKNOWN


def _name(run: str) -> str:
    return f"\0hyperexport-run/{hashlib.sha256(run.encode(errors='replace')).hexdigest()[:32]}"


def _announce(run: str) -> socket.socket | None:
    try:
        announcement = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    except (OSError, AttributeError):
        return None
    try:
        announcement.bind(_name(run))
    except OSError:
        announcement.close()
        return None
    return announcement


def _announcement_is_gone(owner: Owner, machine: Machine) -> bool:
    if owner.network is None or owner.network != machine.network:
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asking:
            return asking.connect_ex(_name(owner.run)) == errno.ECONNREFUSED
    except OSError:
        return False
