"""A restore is killed or stopped in every step: no VM, lease or file of it is left, and no other VM was touched.

After kill -9 the reaper sees to it, after SIGTERM the run itself.

``HYPEREXPORT_FAULT_POINTS`` says how many kills there are, ``HYPEREXPORT_FAULT_SEED`` which.
"""

import hashlib
import random
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

import hyperexport
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from tests.faults.harness import Outcome, Victims
from tests.faults.restored import POINTS, stop_in_every_step, take_away

MIB = 1 << 20
VMS = (
    VmSpec(
        "db01",
        powered_on=False,
        disks=(DiskSpec(3 * MIB, used=0.6), DiskSpec(2 * MIB, used=0.4)),
        tags=("tier:gold",),
        custom_attributes=(("owner", "ada"),),
    ),
    VmSpec("target", powered_on=False, disks=(DiskSpec(MIB),)),
)
WAYS: dict[str, dict[str, Any]] = {
    "a VM": {"name": "copy", "power_on": True},
    "disks for another VM": {"disks": [1, 0], "attach_to": "target"},
}
COMMITTED = {"hand over", "power on", "attach", "remove the carrier", "log out", "begin"}
"""From the first of these on, a restore may be complete when it is killed."""


class Restores:
    """Restores that are killed, and what is left of them."""

    def __init__(self, sim: Simulator, victims: Victims, folder: Path, way: dict[str, Any]) -> None:
        self.sim, self.way = sim, way
        self._victims, self._folder = victims, folder
        self.before = self.look()

    def run(self, flow: str = "restore", **how: Any) -> Outcome:
        options = {"output": str(self._folder)}
        environment = dict(self.sim.environment())
        return self._victims.run(flow, environment=environment, options=options, vm="db01", restore=self.way, **how)

    def look(self) -> dict[str, list[str]]:
        """A digest of each disk of each VM."""
        return {vm.name: self.disks(vm.name) for vm in self.sim.vms()}

    def disks(self, name: str) -> list[str]:
        vm = self.sim.vm(name)
        sizes = vm.state()["disks"]
        return [hashlib.sha256(vm.read_disk(number, 0, size)).hexdigest() for number, size in enumerate(sizes)]

    def kill(self, **point: Any) -> str:
        """Kill a restore, have the reaper clean up, and see that nothing is left; returns the step."""
        outcome = self.run(**point)
        assert outcome.killed or outcome.ok, outcome
        reaped = self.run("reap")
        assert reaped.ok, (point, outcome, reaped)
        assert self.sim.leases() == [], (point, outcome)
        assert self.sim.sessions() == [], (point, outcome)
        assert self.sim.detached_disks() == [], (point, outcome)
        now = self.look()
        if now != self.before:
            assert not outcome.killed or outcome.step in COMMITTED, (point, outcome)
            self.is_whole(now)
            take_away(self.sim)
        assert self.look() == self.before
        return outcome.step

    def stop(self, step: str, at: int) -> str:
        """Stop a restore, and see that it has left nothing by itself; returns how it ended."""
        outcome = self.run(mischief={"stop": (step, at)})
        assert outcome.signal is None, outcome
        assert outcome.code in {None, "stopped", "interrupted"}, outcome
        if step == "log in" and self.sim.sessions():  # the login's answer was on its way: nobody could log out
            assert self.run("reap").ok
        assert (self.sim.leases(), self.sim.sessions(), self.sim.detached_disks()) == ([], [], []), (step, at, outcome)
        now = self.look()
        if now != self.before:
            assert outcome.ok or step in COMMITTED, (step, at, outcome)
            self.is_whole(now)
            take_away(self.sim)
        assert self.look() == self.before
        return outcome.code or "complete"

    def is_whole(self, now: dict[str, list[str]]) -> None:
        """The restore was complete when it was killed."""
        wanted = self.before["db01"]
        if "attach_to" in self.way:
            assert now == {**self.before, "target": [*self.before["target"], wanted[1], wanted[0]]}
        else:
            assert now == {**self.before, "copy": wanted}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[Simulator, Path]]:
    folder = tmp_path_factory.mktemp("exports")
    with Simulator(VMS, boot_seconds=0.0) as sim, pytest.MonkeyPatch.context() as patch:
        for name, value in sim.environment().items():
            patch.setenv(name, value)
        hyperexport.export("db01", output=folder)
        yield sim, folder


@pytest.fixture
def restores(stored: tuple[Simulator, Path], fork_server: Victims) -> Callable[[str], Restores]:
    return lambda way: Restores(stored[0], fork_server, stored[1], WAYS[way])


SAMPLE = {
    "a VM": (("import", 5), ("upload", 20), ("complete", 2), ("attributes", 4), ("hand over", 3)),
    "disks for another VM": (("complete", 5), ("attach", 8), ("attach", 16), ("remove the carrier", 4)),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_sample_of_the_kills_leaves_nothing(way: str, restores: Callable[[str], Restores]) -> None:
    scene = restores(way)
    for point in SAMPLE[way]:
        scene.kill(kill_in=point)


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("way", WAYS)
def test_stopped_anywhere_a_restore_leaves_nothing_by_itself(
    way: str, restores: Callable[[str], Restores], seed: str
) -> None:
    scene = restores(way)
    whole = scene.run()
    assert whole.ok, whole
    take_away(scene.sim)
    ends = stop_in_every_step(scene.stop, whole.events, random.Random(f"{seed} stop {way}"))
    assert "stopped" in ends


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("way", WAYS)
def test_killed_anywhere_a_restore_leaves_nothing_after_the_reaper(
    way: str, restores: Callable[[str], Restores], seed: str, record_property: Callable[[str, object], None]
) -> None:
    scene = restores(way)
    whole = scene.run()
    assert whole.ok, whole
    take_away(scene.sim)
    chance = random.Random(f"{seed} {way}")
    killed: dict[str, int] = {}
    for step, events in whole.events.items():
        for _ in range(max(1, POINTS // 32)):
            at = scene.kill(kill_in=(step, chance.randint(1, events)))
            killed[at] = killed.get(at, 0) + 1
    record_property("kills", killed)
