"""Half-written exports that dead runs left in a store, found by their owner tag and removed once the run is over."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

from hyperexport.errors import HyperExportError, Interrupted
from hyperexport.model.ownership import Owner
from hyperexport.steps.liveness import IsOver
from hyperexport.store.base import AbandonedStaging, Store

logger = logging.getLogger(__name__)


def abandoned_stagings(
    store: Store, folder: str | None, is_over: IsOver, *, of: Owner | None = None
) -> list[AbandonedStaging]:
    """Find half-written exports whose runs are over.

    Args:
        store: Where to look.
        folder: One folder, or None for the whole store.
        is_over: Proves that an owner's run is over.
        of: The run whose VM they must be of; None for those of every VM.
    """
    return [
        staging
        for staging in store.abandoned(folder)
        if staging.owner is not None and (of is None or staging.owner.may_share_vm(of)) and is_over(staging.owner)
    ]


class Removed(NamedTuple):
    """What became of half-written exports."""

    removed: list[str]
    """``<vm folder>/<export id>`` of each that is gone."""
    failed: list[str]
    """The others that should be, each with its reason."""
    kept: Sequence[str] = ()
    """What could not be looked at, or stays and will be tried again: no failure of the run, in words."""


def remove_abandoned_stagings(store: Store, folder: str | None, is_over: IsOver, *, of: Owner | None = None) -> Removed:
    """Remove half-written exports whose runs are over.

    Args:
        store: Where to look.
        folder: One folder, or None for the whole store.
        is_over: Proves that an owner's run is over.
        of: The run whose VM they must be of; None for those of every VM.

    Returns:
        What was removed, and what could not be; one that fails is no reason to leave the others.

    Raises:
        StoreUnusable, StoreUnreachable: A store could not be listed.
    """
    removed: list[str] = []
    failed: list[str] = []
    for staging in abandoned_stagings(store, folder, is_over, of=of):
        try:
            store.remove_abandoned(staging)
        except Interrupted:
            raise
        except HyperExportError as error:
            logger.warning("%s: %s could not be removed: %s", store.url, staging, error)
            failed.append(f"{staging}: {error}")
            continue
        logger.warning("%s: removed the half-written export %s of a run that is over", store.url, staging)
        removed.append(str(staging))
    try:
        for name in store.sweep(folder):
            logger.info("%s: removed the remains of a crashed run from %s", store.url, name)
    except Interrupted:
        raise
    except HyperExportError as error:
        failed.append(f"the remains of a crashed run in {store.url}: {error}")
    return Removed(removed, failed, store.warnings())
