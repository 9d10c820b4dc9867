"""Every fault of the simulator at every call of a restore and of a drill: it is survived, or said, and nothing is left.

A first run of each way says which calls there are. Then each call fails in each way in which a call can fail, once at
its first occasion and once at its last. What concerns the bytes is in ``ON_THE_WAY``; what cannot happen to a restore,
and why, in ``ELSEWHERE``. A test holds the three together to all faults.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vmodl

import hyperexport
from hyperexport import errors
from hyperexport.base import retry
from hyperexport.jobs.direct import DirectRunner
from hyperexport.jobs.reap import reap_snapshots
from hyperexport.options.precedence import resolve
from hyperexport.simulator import DiskSpec, Fault, FaultKind, Simulator, VmSpec
from hyperexport.steps import upload_proof
from hyperexport.vsphere import questions
from tests.engine.simulator_client import find, finish, logged_in
from tests.faults.restored import take_away

MIB = 1 << 20
VMS = (
    VmSpec(
        "db01",
        powered_on=False,
        disks=(DiskSpec(2 * MIB, used=0.6), DiskSpec(MIB, used=0.4)),
        tags=("tier:gold",),
        custom_attributes=(("owner", "ada"),),
    ),
    VmSpec("target", powered_on=False, disks=(DiskSpec(MIB),)),
)
WAYS: dict[str, dict[str, Any]] = {
    "a VM": {"name": "copy", "power_on": True},
    "disks": {"attach_to": "target", "disks": [1, 0]},
    "a drill": {"target": "vsphere", "timeout": timedelta(seconds=2)},
}
OF_CALLS = {
    "503": Fault(FaultKind.HTTP_STATUS, status=503),
    "answer lost": Fault(FaultKind.ANSWER_LOST),
    "session expired": Fault(FaultKind.SESSION_EXPIRED),
    "refused": Fault(FaultKind.METHOD_FAULT, method="any", fault="InvalidState"),
    "not permitted": Fault(FaultKind.METHOD_FAULT, method="any", fault="NoPermission"),
    "in progress": Fault(FaultKind.TASK_IN_PROGRESS),
    "question": Fault(FaultKind.QUESTION),
    "slow": Fault(FaultKind.LATENCY, delay=0.2),
}
EVER = 0
ON_THE_WAY = [
    *[
        Fault(kind, disk=disk, at_byte=at, times=times)
        for kind in (FaultKind.UPLOAD_CUT, FaultKind.DATASTORE_FULL, FaultKind.LEASE_EXPIRED, FaultKind.SESSION_EXPIRED)
        for disk, at in ((0, 0), (0, 60_000), (1, 60_000))
        for times in (1, EVER)
    ],
    *[Fault(FaultKind.HTTP_STATUS, disk=disk, status=503, times=times) for disk in (0, 1) for times in (1, EVER)],
    *[Fault(FaultKind.MANIFEST_WRONG, disk=disk, times=times) for disk in (0, 1) for times in (1, EVER)],
    Fault(FaultKind.MANIFEST_MISSING, times=EVER),
    *[Fault(FaultKind.MANIFEST_SHA1, disk=0, times=times) for times in (1, EVER)],
    Fault(FaultKind.LEASE_ERROR),
    Fault(FaultKind.LEASE_ERROR, times=EVER),
    Fault(FaultKind.LEASE_SLOW, delay=0.3),
    Fault(FaultKind.UPLOAD_STALL, disk=0, at_byte=60_000, delay=0.3),
    Fault(FaultKind.NO_HEARTBEAT),
]
_DOWNLOAD = "it happens to the downloads of an export: tests/faults/test_matrix.py"
_SNAPSHOT = "a restore makes no snapshot: tests/engine/test_snapshots.py"
_CHANGES = "a restore asks for no changes: tests/engine/range_reads"
_FOLDER = "a restore reads no datastore: tests/engine/range_reads"
ELSEWHERE = {
    FaultKind.CUT: _DOWNLOAD,
    FaultKind.TRUNCATE: _DOWNLOAD,
    FaultKind.EMPTY: _DOWNLOAD,
    FaultKind.STALL: _DOWNLOAD,
    FaultKind.CORRUPT: _DOWNLOAD,
    FaultKind.NVRAM_SIZE: _DOWNLOAD,
    FaultKind.DESCRIPTOR_ERROR: "an export's descriptor: tests/engine/test_descriptor.py",
    FaultKind.QUIESCE_FAILED: _SNAPSHOT,
    FaultKind.CREATE_SNAPSHOT_FAILED: _SNAPSHOT,
    FaultKind.REMOVE_SNAPSHOT_FAILED: _SNAPSHOT,
    FaultKind.SLOW_CONSOLIDATION: _SNAPSHOT,
    FaultKind.CBT_FAULT: _CHANGES,
    FaultKind.CBT_OMITS: _CHANGES,
    FaultKind.FOLDER_REFUSED: _FOLDER,
    FaultKind.FOLDER_WHOLE: _FOLDER,
    FaultKind.FOLDER_SHORT: _FOLDER,
    FaultKind.FOLDER_WRONG: _FOLDER,
}


def test_no_fault_of_the_simulator_is_left_out() -> None:
    struck = {fault.kind for fault in (*OF_CALLS.values(), *ON_THE_WAY)}
    assert struck | set(ELSEWHERE) == set(FaultKind)
    assert struck & set(ELSEWHERE) == set()


class Scene:
    """Runs of one way, each with a fault, and what is left of them."""

    def __init__(self, sim: Simulator, folder: Path, way: str) -> None:
        self.sim, self.folder, self.way = sim, folder, way
        self.before = self.look()
        self.stored = self.digests()

    def run(self) -> Any:
        """Restore or drill db01."""
        if self.way == "a drill":
            return hyperexport.restore_drill(vm="db01", output=self.folder, **WAYS[self.way])
        return hyperexport.restore(vm="db01", output=self.folder, **WAYS[self.way])

    def calls(self) -> Counter[str]:
        """The calls of a run in which nothing fails."""
        earlier = Counter(self.sim.requests)
        self.run()
        take_away(self.sim)
        return Counter(self.sim.requests) - earlier

    def look(self) -> dict[str, list[str]]:
        """A digest of each disk of each VM."""
        return {vm.name: self.disks(vm.name) for vm in self.sim.vms()}

    def disks(self, name: str) -> list[str]:
        vm = self.sim.vm(name)
        sizes = vm.state()["disks"]
        return [hashlib.sha256(vm.read_disk(number, 0, size)).hexdigest() for number, size in enumerate(sizes)]

    def digests(self) -> dict[str, str]:
        """What the store holds, beside the records of drills."""
        files = [path for path in self.folder.rglob("*") if path.is_file() and not path.name.startswith("drill-")]
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def strike(self, fault: Fault) -> str:
        """Run with a fault, and see that it was survived or said, and what is left; returns how the run ended.

        A VM that is half made is said, or gone; a restore may have become complete before it failed. What is said to be
        left, and a session whose logout failed, is the reaper's.
        """
        self.sim.faults.add(fault)
        code = ""
        try:
            words = repr(self.run())
        except errors.HyperExportError as error:
            code, words = error.code, " ".join((str(error), *error.cleaned_up))
        fired = list(self.sim.faults.fired)
        self.sim.faults.clear()
        self.answer_questions()
        for path in self.folder.rglob("drill-*"):
            path.unlink()
        left = set(self.look()) - set(self.before) - {"copy"}
        assert all(name in words for name in left), (fault, code, words)
        if left or self.sim.sessions():
            reap_snapshots(
                DirectRunner(), resolve(hyperexport.ExportOptions.from_keys({"output": self.folder})).options
            )
        if self.is_whole(self.look()):
            take_away(self.sim)
        assert self.look() == self.before, (fault, code, words)
        assert (self.sim.leases(), self.sim.detached_disks(), self.sim.sessions()) == ([], [], []), (fault, code, words)
        assert self.digests() == self.stored, fault
        return (code or "survived") if fired else "not met"

    def is_whole(self, now: dict[str, list[str]]) -> bool:
        """Whether the restore is complete."""
        wanted = self.before["db01"]
        if self.way == "a VM":
            return now == {**self.before, "copy": wanted}
        return now == {**self.before, "target": [*self.before["target"], wanted[1], wanted[0]]}

    def answer_questions(self) -> None:
        """Answer what VMs of users ask, as somebody does in the vSphere client."""
        with logged_in(self.sim) as service:
            for name in [vm.name for vm in self.sim.vms()]:
                vm = find(service, name)
                if vm.runtime.question is not None:
                    vm.AnswerVM(vm.runtime.question.id, "0")
                    for task in vm.recentTask:
                        with suppress(vmodl.MethodFault):  # what it was for may be gone
                            finish(task)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[Simulator, Path]]:
    folder = tmp_path_factory.mktemp("exports")
    with Simulator(VMS, boot_seconds=0.0) as sim, pytest.MonkeyPatch.context() as patch:
        for name, value in sim.environment().items():
            patch.setenv(name, value)
        patch.setattr(retry, "RETRY_DELAYS", (0.0, 0.0, 0.0))
        patch.setattr(questions, "SECONDS_FOR_AN_ANSWER", 0.0)
        patch.setattr(upload_proof, "SECONDS_FOR_PROMISED", 0.0)
        hyperexport.export("db01", output=folder)
        yield sim, folder


@pytest.fixture
def scenes(stored: tuple[Simulator, Path]) -> Callable[[str], Scene]:
    return lambda way: Scene(*stored, way)


@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", OF_CALLS)
@pytest.mark.parametrize("way", WAYS)
def test_a_fault_of_any_call_is_survived_or_said_and_leaves_nothing(
    way: str, name: str, scenes: Callable[[str], Scene]
) -> None:
    scene = scenes(way)
    ends: Counter[str] = Counter()
    for method, count in scene.calls().items():
        for after in sorted({0, count - 1}):
            ends[scene.strike(replace(OF_CALLS[name], method=method, after=after))] += 1
    assert ends["not met"] < ends.total(), ends


@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("way", WAYS)
def test_a_fault_of_an_upload_is_survived_or_said_and_leaves_nothing(way: str, scenes: Callable[[str], Scene]) -> None:
    scene = scenes(way)
    ends = {str(fault): scene.strike(fault) for fault in ON_THE_WAY}
    assert {"survived", "transfer-interrupted" if way != "a drill" else "drill-failed"} <= set(ends.values()), ends
