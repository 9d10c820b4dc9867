"""How a changed disk is read: the best transport that works, and why it is not a better one. A decision without I/O.

Also which unchanged grains are read again, and how likely it is that they find what change tracking lost.
"""

from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Final

from hyperexport.model.transport import Transport
from hyperexport.options.declaring import TransportChoice
from hyperexport.policy.export_plan import Decision, DiskPlan

FEWEST_SAMPLED: Final = 16
"""Grains of a disk that are read again at least, where it has so many that are unchanged."""

KNOWN_GRAINS: Final = 8
"""Grains that hold something and have to come as the store has them, before anything else counts."""

Run = tuple[int, int]
"""Grains: the first, and the one after the last."""


def why_whole_stream(plan: DiskPlan, asked: TransportChoice) -> str | None:
    """Say why a changed disk is read as a whole, whatever transport there is; None where ranges are enough."""
    if asked is TransportChoice.LEASE:
        return "--transport lease was given"
    if not plan.bases:
        return "it is stored whole"
    if plan.changed_bytes is None:
        return "change tracking does not say what changed"
    return None


def candidates(asked: TransportChoice, *, running: bool, nbdkit: bool) -> tuple[Transport, ...]:
    """The range transports to try, the best first.

    The flat file of a VM that is off is served by any host; that of a running one is refused by most.

    Args:
        asked: What the options ask for.
        running: Whether the VM runs, so that a snapshot is read.
        nbdkit: Whether a plugin for nbdkit was named.
    """
    if asked is TransportChoice.LEASE:
        return ()
    if asked is not TransportChoice.AUTO:
        return (Transport(str(asked)),)
    every = (Transport.NBDKIT, Transport.DATASTORE) if running else (Transport.DATASTORE, Transport.NBDKIT)
    return tuple(one for one in every if one is not Transport.NBDKIT or nbdkit)


def with_transport(
    plan: DiskPlan, transport: Transport, refused: Mapping[Transport, str], *, why: str = "", expected: int = 0
) -> DiskPlan:
    """The plan of a disk with how it is read, and why not better.

    Args:
        plan: The plan so far.
        transport: What is used.
        refused: The better ones that do not work, with the reasons.
        why: Why no better one was looked for; empty where that was done.
        expected: Bytes that a range transport reads at the most (:func:`most_read`).
    """
    if plan.decision is not Decision.TRANSFER or not plan.bases:
        return plan.model_copy(update={"transport": transport})
    reasons = [why] if why else [f"{one}: {reason}" for one, reason in refused.items()]
    known = f" ({'; '.join(reasons)})" if reasons else ""
    words = f"read by {transport}{known}"
    if transport is Transport.LEASE:
        # The stream that a lease sends has every grain, so it is the whole disk itself.
        whole = {"bases": (), "synthetic": False} if plan.synthetic else {}
        return plan.model_copy(update={"transport": transport, "transport_words": words, **whole})
    if plan.synthetic:
        words = f"only what changed is {words}, and the rest is written from the store's own grains"
    return plan.model_copy(update={"transport": transport, "transport_words": words, "expected_bytes": expected})


def most_read(plan: DiskPlan, *, grain: int, percent: float) -> int:
    """Bytes that a range transport reads of a disk at the most: what changed, the sample, and the known grains.

    Args:
        plan: The plan of the disk, with what changed.
        grain: Bytes of a grain.
        percent: Of the unchanged grains that are read again.
    """
    changed = sum(end - first for first, end in grains_of(plan.changed or (), grain))
    unchanged = -(-plan.capacity // grain) - changed
    again = min(_sample_size(unchanged, percent) + KNOWN_GRAINS, unchanged)
    return min((changed + again) * grain, plan.capacity)


def grains_of(areas: Sequence[tuple[int, int]], grain: int) -> list[Run]:
    """The grains that areas touch, as ascending runs that do not touch one another.

    Args:
        areas: Offset and length of each, in bytes, ascending.
        grain: Bytes of a grain.
    """
    runs: list[Run] = []
    for offset, length in areas:
        first, end = offset // grain, -(-(offset + length) // grain)
        if runs and first <= runs[-1][1]:
            runs[-1] = runs[-1][0], max(end, runs[-1][1])
        else:
            runs.append((first, end))
    return runs


def choose_sample(changed: Sequence[Run], total: int, *, percent: float, chance: Random) -> list[int]:
    """Choose at random which unchanged grains are read again; ascending.

    Args:
        changed: The others.
        total: Grains of the disk.
        percent: Of the unchanged ones; at least :data:`FEWEST_SAMPLED` are chosen.
        chance: Makes the choice.
    """
    unchanged = total - sum(end - first for first, end in changed)
    chosen = sorted(chance.sample(range(unchanged), _sample_size(unchanged, percent)))
    return list(_among_unchanged(chosen, changed))


def _sample_size(unchanged: int, percent: float) -> int:
    return min(max(round(unchanged * percent / 100), FEWEST_SAMPLED), unchanged)


def _among_unchanged(chosen: Sequence[int], changed: Sequence[Run]) -> Iterator[int]:
    """The grains that are the n-th unchanged ones."""
    runs = iter(changed)
    run = next(runs, None)
    skipped = 0
    for number in chosen:
        while run is not None and run[0] <= number + skipped:
            skipped += run[1] - run[0]
            run = next(runs, None)
        yield number + skipped


def is_changed(number: int, changed: Sequence[Run]) -> bool:
    """Whether a grain is one of those that changed."""
    low, high = 0, len(changed)
    while low < high:
        middle = (low + high) // 2
        if changed[middle][1] <= number:
            low = middle + 1
        else:
            high = middle
    return low < len(changed) and changed[low][0] <= number


def odds(missed: int, unchanged: int, sampled: int) -> float:
    """How likely it is that a sample finds that change tracking lost some grains.

    Args:
        missed: Grains that changed and were not reported.
        unchanged: Grains that were reported as unchanged, with those.
        sampled: Grains that are read again.
    """
    return 1 - (1 - missed / unchanged) ** sampled if unchanged else 0.0
