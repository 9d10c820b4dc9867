"""Kill -9 at any moment: what is listed afterwards is whole, and the next run of the VM leaves nothing of the dead one.

Of five points, two are drawn from all events of a run, so most fall where most bytes move; two from its steps first, so
that short steps are met as often as long ones; and one is a moment, wherever the run is then. Of three who clean up
afterwards, one is killed as well. ``HYPEREXPORT_FAULT_POINTS`` says how many, ``HYPEREXPORT_FAULT_SEED`` which.
"""

import os
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

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
        self.cleaners_killed: Counter[str] = Counter()
        self.survived = 0
        self.complete = 0
        self.whole: Outcome | None = None
        self.seconds = 0.0
        """How long an unharmed run takes."""

    def measure(self) -> Outcome:
        """Run it unharmed: how many events there are, and in which steps."""
        assert self.at.export().ok
        began = time.monotonic()
        whole = self.at.export()
        self.seconds = time.monotonic() - began
        assert whole.ok, whole
        assert self.at.leftovers() == []
        self.whole = whole
        return whole

    def point(self) -> dict[str, Any]:
        """Where to kill next, drawn by lot."""
        assert self.whole
        match self.chance.randrange(5):
            case 0 | 1:
                return {"kill_at": self.chance.randint(1, self.whole.count)}
            case 2 | 3:
                step = self.chance.choice(sorted(self.whole.events))
                return {"kill_in": (step, self.chance.randint(1, self.whole.events[step]))}
            case _:
                return {"kill_after": self.chance.uniform(0, self.seconds)}

    def strike(self, **point: Any) -> None:
        """Kill a run, prove what is listed, have the next run or the reaper clean up, and prove that it did."""
        point = point or self.point()
        listed = {str(export) for export in self.at.exports()}
        outcome = self.at.export(**point)
        where = f"killed at {point}: {outcome.event} in {outcome.step or 'no step'}"
        if not outcome.killed:
            # Threads took another turn, and the run had fewer such events than the one that was counted.
            assert outcome.ok, outcome
            self.survived += 1
            return
        assert outcome.signal == 9, outcome
        self.killed[outcome.step or "wherever it was"] += 1
        self.complete += bool({str(export) for export in self.at.exports()} - listed)
        if self.chance.random() < 0.35:
            where += self.strike_who_cleans_up()
        if self.chance.random() < 0.3:
            reaped = self.at.run("reap")
            assert reaped.ok, (where, reaped)
        else:
            following = self.at.export()
            assert following.ok, (where, following)
        assert self.at.leftovers() == [], where

    def strike_who_cleans_up(self) -> str:
        """Kill the next run, the reaper or a cleanup, which has less to do than an export."""
        flow = self.chance.choice(("export", "reap", "cleanup"))
        kill_at = self.chance.randint(1, 120)
        again = self.at.export(kill_at=kill_at) if flow == "export" else self.at.run(flow, kill_at=kill_at)
        assert again.killed or again.ok, again
        if again.killed:
            self.cleaners_killed[flow] += 1
        return f"; then the {flow} at {kill_at}: {again.event} in {again.step}"


def tell(record: Record, killer: Killer, proved: int) -> None:
    """Hand what was counted to the summary of the session."""
    record("kills", dict(killer.killed))
    for flow, count in killer.cleaners_killed.items():
        record(f"kills of who cleaned up after another: {flow}", count)
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
