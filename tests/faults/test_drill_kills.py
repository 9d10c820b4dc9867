"""A drill is killed or stopped in every step: no VM, lease or file of it is left; VMs and store are as before.

After kill -9 the reaper sees to it, after SIGTERM the run itself.

``HYPEREXPORT_FAULT_POINTS`` says how many kills there are, ``HYPEREXPORT_FAULT_SEED`` which.
"""

import hashlib
import random
import subprocess
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

import hyperexport
from hyperexport.model.drill import DrillRecord
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from hyperexport.simulator.boot_sector import bootable_disk
from tests.faults.harness import Outcome, Victims
from tests.faults.restored import POINTS, stop_in_every_step
from tests.peers import require_program

MIB = 1 << 20
VMS = (
    VmSpec("db01", powered_on=False, firmware="bios", disks=(DiskSpec(2 * MIB), DiskSpec(MIB, used=0.4))),
    VmSpec("other", powered_on=False, disks=(DiskSpec(MIB),)),
)
WAYS: dict[str, dict[str, Any]] = {
    "vsphere": {"target": "vsphere"},
    "qemu": {"target": "qemu", "emulate": True, "memory_mib": 64, "expect": "the proof of db01"},
}


class Drills:
    """Drills that are killed, and what is left of them."""

    def __init__(self, sim: Simulator, victims: Victims, folder: Path, way: str) -> None:
        self.sim = sim
        self._victims, self._folder, self._way = victims, folder, WAYS[way]
        self.before = self.look()

    def run(self, flow: str = "drill", **how: Any) -> Outcome:
        options = {"output": str(self._folder)}
        environment = dict(self.sim.environment())
        return self._victims.run(flow, environment=environment, options=options, vm="db01", restore=self._way, **how)

    def look(self) -> dict[str, Any]:
        """A digest of each disk of each VM, and of each file of the store that is no record of a drill."""
        disks = {
            vm.path: (vm.state(), [vm.read_disk(number, 0, size) for number, size in enumerate(vm.state()["disks"])])
            for vm in self.sim.vms()
        }
        files = {str(path): path.read_bytes() for path in self._folder.rglob("*") if path.is_file()}
        stored = {name: data for name, data in files.items() if not Path(name).name.startswith("drill-")}
        return {name: hashlib.sha256(repr(found).encode()).hexdigest() for name, found in {**disks, **stored}.items()}

    def kill(self, **point: Any) -> str:
        """Kill a drill, have the reaper clean up, and see that nothing is left; returns the step."""
        outcome = self.run(**point)
        assert outcome.killed or outcome.ok, outcome
        reaped = self.run("reap")
        assert reaped.ok, (point, outcome, reaped)
        self.nothing_is_left(point, outcome)
        return outcome.step

    def stop(self, step: str, at: int) -> str:
        """Stop a drill, and see that it has left nothing by itself; returns how it ended."""
        outcome = self.run(mischief={"stop": (step, at)})
        assert outcome.signal is None, outcome
        assert outcome.code in {None, "stopped", "interrupted"}, outcome
        if step == "log in" and self.sim.sessions():  # the login's answer was on its way: nobody could log out
            assert self.run("reap").ok
        self.nothing_is_left({"stop_in": (step, at)}, outcome)
        return outcome.code or "complete"

    def nothing_is_left(self, point: dict[str, Any], outcome: Outcome) -> None:
        """See that VMs and store are as before, but for whole records of the drill."""
        left = (self.sim.leases(), self.sim.sessions(), self.sim.detached_disks())
        assert left == ([], [], []), (point, outcome)
        assert self.look() == self.before, (point, outcome)
        self.records_are_whole()
        ours = f"qemu-system.*{self._victims.scratch}/hyperexport-drill-"
        running = subprocess.run(["pgrep", "-f", ours], stdout=subprocess.PIPE, check=False)
        assert running.stdout == b"", (point, outcome)

    def records_are_whole(self) -> None:
        """A record is there whole, with its picture, or not at all; it is taken away for the next drill."""
        for path in self._folder.rglob("drill-*.json"):
            record = DrillRecord.from_json(path.read_bytes(), export_id=path.parent.name)
            assert record is not None
            assert record.passed
            picture = path.with_name(record.screenshot or "missing").read_bytes()
            assert hashlib.sha256(picture).hexdigest() == record.screenshot_sha256
        for path in self._folder.rglob("drill-*"):
            path.unlink()


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[Simulator, Path]]:
    folder = tmp_path_factory.mktemp("exports")
    with Simulator(VMS, boot_seconds=0.0) as sim, pytest.MonkeyPatch.context() as patch:
        sim.vm("db01").guest_write(0, 0, bootable_disk("the proof of db01", size=2 * MIB))
        for name, value in sim.environment().items():
            patch.setenv(name, value)
        hyperexport.export("db01", output=folder)
        yield sim, folder


@pytest.fixture
def drills(stored: tuple[Simulator, Path], fork_server: Victims) -> Callable[[str], Drills]:
    return lambda way: Drills(stored[0], fork_server, stored[1], way)


SAMPLE = {
    "vsphere": (
        *(("plan a restore", 10), ("import", 5), ("upload", 20), ("complete", 2), ("power on", 3)),
        *(("watch the guest", 3), ("screenshot", 6), ("destroy", 4), ("record", 3)),
    ),
    "qemu": (("boot", 1), ("record", 2)),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_sample_of_the_kills_leaves_nothing(way: str, drills: Callable[[str], Drills]) -> None:
    if way == "qemu":
        require_program("qemu-system-x86_64", "no drill on it has been killed")
    scene = drills(way)
    for point in SAMPLE[way]:
        scene.kill(kill_in=point)


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("way", WAYS)
def test_stopped_anywhere_a_drill_leaves_nothing_by_itself(
    way: str, drills: Callable[[str], Drills], seed: str
) -> None:
    scene = drills(way)
    whole = scene.run()
    assert whole.ok, whole
    scene.records_are_whole()
    ends = stop_in_every_step(scene.stop, whole.events, random.Random(f"{seed} stop {way}"))
    assert "stopped" in ends


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("way", WAYS)
def test_killed_anywhere_a_drill_leaves_nothing_after_the_reaper(
    way: str,
    drills: Callable[[str], Drills],
    fork_server: Victims,
    seed: str,
    record_property: Callable[[str, object], None],
) -> None:
    scene = drills(way)
    whole = scene.run()
    assert whole.ok, whole
    scene.records_are_whole()
    chance = random.Random(f"{seed} {way}")
    killed: dict[str, int] = {}
    for step, events in whole.events.items():
        for _ in range(max(1, POINTS // 32)):
            at = scene.kill(kill_in=(step, chance.randint(1, events)))
            killed[at] = killed.get(at, 0) + 1
    if way == "qemu":  # nothing that could be counted happens while the guest boots
        for _ in range(max(1, POINTS // 32)):
            scene.kill(kill_after=chance.uniform(0.5, 3.0))
        assert list(fork_server.scratch.glob("hyperexport-drill-*")), "no machine was running when its drill was killed"
    record_property("kills", killed)
