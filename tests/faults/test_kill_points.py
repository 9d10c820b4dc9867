"""Kill -9 at any moment: what is listed afterwards is whole, and the next run of the VM leaves nothing of the dead one.

Half of the points are drawn from all events of a run, so most fall where most bytes move; the other half from its
steps first, so that short steps are met as often as long ones. ``HYPEREXPORT_FAULT_POINTS`` says how many,
``HYPEREXPORT_FAULT_SEED`` which.
"""

import os
import random
from collections import Counter
from collections.abc import Callable

import pytest

from tests.faults.harness import Outcome
from tests.faults.scenes import FORMS, Form, Scene

POINTS = int(os.environ.get("HYPEREXPORT_FAULT_POINTS", "160"))
SHARE = {form.name: POINTS // len(FORMS) + (number < POINTS % len(FORMS)) for number, form in enumerate(FORMS)}

Record = Callable[[str, object], None]


class Killer:
    """Kills one scene's runs, again and again, and looks at what is left.

    Args:
        at: The scene.
        seed: Decides where.
    """

    def __init__(self, at: Scene, seed: str) -> None:
        self.at = at
        self.chance = random.Random(f"{seed} {at.form.name}")
        self.killed: Counter[str] = Counter()
        self.survived = 0
        self.complete = 0
        self.whole: Outcome | None = None

    def measure(self) -> Outcome:
        """Run it unharmed: how many events there are, and in which steps."""
        assert self.at.export().ok
        whole = self.at.export()
        assert whole.ok, whole
        assert self.at.leftovers() == []
        self.whole = whole
        return whole

    def strike(self, *, kill_in: tuple[str, int] | None = None) -> None:
        """Kill a run, prove what is listed, have the next run or the reaper clean up, and prove that it did."""
        assert self.whole
        if kill_in is None and self.chance.random() < 0.5:
            step = self.chance.choice(sorted(self.whole.events))
            kill_in = step, self.chance.randint(1, self.whole.events[step])
        kill_at = None if kill_in else self.chance.randint(1, self.whole.count)
        listed = {str(export) for export in self.at.exports()}
        outcome = self.at.export(kill_at=kill_at, kill_in=kill_in)
        where = f"killed at {kill_at or kill_in}: {outcome.event} in {outcome.step or 'no step'}"
        if not outcome.killed:
            # Threads took another turn, and the run had fewer such events than the one that was counted.
            assert outcome.ok, outcome
            self.survived += 1
            return
        assert outcome.signal == 9, outcome
        self.killed[outcome.step] += 1
        self.complete += bool({str(export) for export in self.at.exports()} - listed)
        if self.chance.random() < 0.3:
            reaped = self.at.run("reap")
            assert reaped.ok, (where, reaped)
        else:
            following = self.at.export()
            assert following.ok, (where, following)
        assert self.at.leftovers() == [], where


def tell(record: Record, killer: Killer, proved: int) -> None:
    """Hand what was counted to the summary of the session."""
    record("kills", dict(killer.killed))
    record("runs that ended before their kill", killer.survived)
    record("killed runs whose export was complete", killer.complete)
    record("exports restored and compared at the end", proved)


@pytest.mark.faults
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_killed_at_random_points_nothing_is_lost_and_nothing_is_left(
    form: Form, scene: Callable[..., Scene], seed: str, record_property: Record
) -> None:
    killer = Killer(scene(form), seed)
    killer.measure()
    for _ in range(SHARE[form.name]):
        killer.strike()
    tell(record_property, killer, killer.at.prove_all())


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_killed_in_every_step_nothing_is_lost_and_nothing_is_left(
    form: Form, scene: Callable[..., Scene], seed: str, record_property: Record
) -> None:
    killer = Killer(scene(form), f"{seed} steps")
    whole = killer.measure()
    for step, events in whole.events.items():
        killer.strike(kill_in=(step, killer.chance.randint(1, events)))
    tell(record_property, killer, killer.at.prove_all())


SAMPLE = (
    ("stage locally", 2),
    ("stage locally", 5),
    ("snapshot", 9),
    ("transfer", 40),
    ("remove snapshot", 6),
    ("publish", 2),
    ("publish", 5),
    ("cleanup", 2),
)
"""Where it hurt when this was written: between making a staging and signing it, around a rename, in a deletion."""


def test_a_sample_of_the_kills(scene: Callable[..., Scene], seed: str) -> None:
    killer = Killer(scene(FORMS[1]), f"{seed} sample")
    killer.measure()
    for point in SAMPLE:
        killer.strike(kill_in=point)
    assert sum(killer.killed.values()) + killer.survived == len(SAMPLE)
    assert killer.at.prove_all() > 0
