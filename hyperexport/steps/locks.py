"""The lock on a VM's folder in a store. The staging is the lock: there is no separate lock file.

A run first creates a staging with its owner tag, then looks for other runs' stagings. Of two runs that start at the
same moment at least one sees the other and backs off. The lock ends with its staging. A dead run's lock is recognised
by the state of the run, never by its age.
"""

import logging
import random
import shlex
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Final, NamedTuple

from hyperexport.base.stop import StopSignal
from hyperexport.errors import VmHeld
from hyperexport.model.ownership import Owner
from hyperexport.steps.liveness import AtWork, IsOver, is_signature_valid
from hyperexport.store.base import AbandonedStaging, Staging, Store

logger = logging.getLogger(__name__)

LOCK_TIMEOUT: Final = 60.0
"""Seconds that a run waits for another to be done with the VM's exports: a cleanup takes no longer, an export does."""

WAIT_OR_CANCEL: Final = "Wait for its end or cancel it; if its machine is gone, set that run to Crashed in Prefect"


class FolderLock(NamedTuple):
    """A VM's folder in a store, locked by this run."""

    staging: Staging
    doubtful: tuple[AbandonedStaging, ...]
    """What others have staged there with owner tags that cannot be read: it is unknown whether their runs are over."""


def describe_staging_owner(staging: AbandonedStaging) -> str:
    """The owner of a half-written export, or why its owner tag cannot be read."""
    return describe_owner(staging.owner) if staging.owner else f"an unknown run ({staging}: {staging.doubt})"


def describe_owner(owner: Owner) -> str:
    """Who holds something, so that a person finds the run again."""
    return f"run {owner.run} on {owner.host} (process {owner.pid}), since {owner.started:%Y-%m-%d %H:%M:%S} UTC"


def describe_holder(owner: Owner, at_work: AtWork) -> tuple[str, str]:
    """Who holds something, in words, and what to do about it."""
    if at_work(owner):
        return describe_owner(owner), WAIT_OR_CANCEL
    return f"{describe_owner(owner)}; it is unknown whether that run is over", removal_hint(owner)


def removal_hint(owner: Owner | None) -> str:
    """The command that removes what a run left which cannot be proved to be over; None is an unknown run."""
    if owner is None:
        return "Once no run is at work there, remove it by hand"
    return (
        "Where you know that this run is over, remove what it left with: hyperexport reap-snapshots "
        f"--reap-run {shlex.quote(owner.run)}, with the --output and --upload of its export"
    )


def other_stagings(store: Store, folder: str, own: Owner) -> list[AbandonedStaging]:
    """The stagings in a folder that are not this run's, but those that are provably of another VM in the same folder.

    A tag that this machine did not sign in this boot proves nothing: what it says of its VM may have rotted.
    """
    return [
        one
        for one in store.abandoned(folder)
        if one.doubt
        or (
            one.owner is not None
            and one.owner != own
            and (not is_signature_valid(one.owner) or one.owner.may_share_vm(own))
        )
    ]


@contextmanager
def lock_folder(
    store: Store,
    folder: str,
    export_id: str,
    *,
    owner: Owner,
    is_over: IsOver,
    at_work: AtWork,
    stop: StopSignal,
    timeout: float = LOCK_TIMEOUT,
) -> Generator[FolderLock]:
    """Stage in a VM's folder as the only one at work there; what is not published when the block ends is discarded.

    Two that meet both step back, and come again after a time that chance chooses. A run holds the folder until it is
    proved to be over.

    Args:
        store: Where.
        folder: The VM's folder.
        export_id: What is staged.
        owner: Whose it is.
        is_over: Proves that another's run is over.
        at_work: Tells whether another's run is seen at work, for the message.
        stop: Ends the waiting.
        timeout: Seconds to wait for the others.

    Raises:
        VmHeld: Another run held it all the time; the message says which.
        Interrupted: The run was asked to stop.
    """
    end = time.monotonic() + timeout
    told = False
    with ExitStack() as stack:
        while True:
            with ExitStack() as attempt:
                staging = attempt.enter_context(store.stage(folder, export_id, owner))
                found = other_stagings(store, folder, owner)
                found = [other for other in found if other.owner or other.export_id != export_id]
                holder = next((other.owner for other in found if other.owner and not is_over(other.owner)), None)
                if holder is None:
                    stack.push(attempt.pop_all())
                    break
            if time.monotonic() >= end:
                words, fix = describe_holder(holder, at_work)
                raise VmHeld(f"{store.url}/{folder} is held by {words}", fix=fix)
            if not told:
                logger.warning("%s/%s is held by %s; waiting for it", store.url, folder, describe_owner(holder))
                told = True
            stop.wait(min(random.uniform(0.5, 2.0), max(0.0, end - time.monotonic())))  # noqa: S311 - no secret
            stop.check()
        yield FolderLock(staging, tuple(other for other in found if other.owner is None))
