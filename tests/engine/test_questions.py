"""A VM asks a question while something is done to it: vSphere's task waits for the answer for ever, and no run does."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim

import hyperexport
from hyperexport import errors
from hyperexport.jobs.direct import DirectRunner
from hyperexport.jobs.reap import reap_snapshots
from hyperexport.options.precedence import resolve
from hyperexport.simulator import DiskSpec, Fault, FaultKind, Simulator, VmSpec
from hyperexport.vsphere import questions, vm_tasks
from hyperexport.vsphere.endpoint import VSphereEndpoint
from hyperexport.vsphere.inventory import find_vm
from hyperexport.vsphere.questions import QuestionUnanswered
from hyperexport.vsphere.session import connect
from hyperexport.vsphere.snapshots import consolidate_disks, remove_all_snapshots
from tests.engine.simulator_client import find, finish, logged_in

MIB = 1 << 20
WORDS = "waits for an answer to a question of {}: msg.uuid.altered"
VMS = (VmSpec("db01", disks=(DiskSpec(MIB),)), VmSpec("target", disks=(DiskSpec(MIB),)))


@pytest.fixture
def sim(monkeypatch: pytest.MonkeyPatch) -> Generator[Simulator]:
    monkeypatch.setattr(questions, "SECONDS_FOR_AN_ANSWER", 0.0)
    with Simulator(VMS, boot_seconds=0.0) as simulator:
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        yield simulator
        for vm in simulator.vms():
            answer(simulator, vm.name)


@pytest.fixture
def store(sim: Simulator, tmp_path: Path) -> Path:
    """A store with an export of db01."""
    hyperexport.export("db01", output=tmp_path, snapshot=True)
    return tmp_path


def answer(sim: Simulator, name: str) -> None:
    """Answer the VM's question, if it asks, as somebody does in the vSphere client, and wait for what it kept."""
    with logged_in(sim) as service:
        vm = find(service, name)
        if vm.runtime.question is None:
            return
        vm.AnswerVM(vm.runtime.question.id, "0")
        while any(task.info.state in {"queued", "running"} for task in vm.recentTask):
            time.sleep(0.01)


def names(sim: Simulator) -> list[str]:
    return [vm.name for vm in sim.vms()]


def reap(store: Path) -> Any:
    return reap_snapshots(DirectRunner(), resolve(hyperexport.ExportOptions.from_keys({"output": store})).options)


# -- restores and drills -----------------------------------------------------------------------------------------------


DISKS: dict[str, Any] = {"attach_to": "target", "disks": [0]}


def carrier(store: Path) -> str:
    """The name of the VM with which the disks for the target are imported."""
    (manifest,) = store.rglob("export.json")
    return f"target-restore-{manifest.parent.name}"


def test_a_question_of_a_vm_that_gets_disks_is_its_users_to_answer_and_the_restore_leaves_nothing(
    sim: Simulator, store: Path
) -> None:
    sim.faults.add(Fault(FaultKind.QUESTION, vm="target", method="ReconfigVM_Task"))

    with pytest.raises(errors.HyperExportError) as failed:
        hyperexport.restore(vm="db01", output=store, **DISKS)

    assert WORDS.format("target") in failed.value.what
    assert "vSphere client" in (failed.value.fix or "")
    answer(sim, "target")
    assert (names(sim), sim.detached_disks(), sim.leases()) == (["db01", "target"], [], [])
    assert len(sim.vm("target").state()["disks"]) == 1


def test_a_restore_answers_the_questions_of_the_vm_that_it_makes(sim: Simulator, store: Path) -> None:
    for asking, given in (("copy", {"name": "copy"}), (carrier(store), DISKS)):
        sim.faults.add(Fault(FaultKind.QUESTION, vm=asking, method="ReconfigVM_Task"))
        assert hyperexport.restore(vm="db01", output=store, **given).warnings == ()
    assert len(sim.faults.fired) == 2
    assert (names(sim), sim.detached_disks()) == (["db01", "target", "copy"], [])
    assert len(sim.vm("target").state()["disks"]) == 2


def test_disks_that_were_detached_only_once_a_question_was_answered_go_with_their_vm(
    sim: Simulator, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sim.faults.add(Fault(FaultKind.QUESTION, vm=carrier(store), method="ReconfigVM_Task"))
    may = [False, True]

    def refused_once(*given: Any) -> bool:
        if not may.pop(0):
            raise errors.PermissionMissing("not allowed to answer")
        return answer_question(*given)

    answer_question = vm_tasks.answer_question
    monkeypatch.setattr(vm_tasks, "answer_question", refused_once)
    with pytest.raises(errors.PermissionMissing):
        hyperexport.restore(vm="db01", output=store, **DISKS)
    assert (may, names(sim), sim.detached_disks()) == ([], ["db01", "target"], [])


@pytest.mark.parametrize("method", ["PowerOnVM_Task", "PowerOffVM_Task", "Destroy_Task"])
def test_a_drill_answers_the_questions_of_its_own_vm_and_destroys_it(method: str, sim: Simulator, store: Path) -> None:
    sim.faults.add(Fault(FaultKind.QUESTION, method=method))
    with_it: dict[str, Any] = {"vm": "db01", "output": store, "target": "vsphere"}

    if method == "PowerOnVM_Task":
        with pytest.raises(errors.DrillFailed):
            hyperexport.restore_drill(**with_it)
    else:
        (drilled,) = hyperexport.restore_drill(**with_it)
        assert (drilled.failed, drilled.leaked) == (False, None)

    assert [fault.kind for fault in sim.faults.fired] == [FaultKind.QUESTION]
    assert (names(sim), sim.leases()) == (["db01", "target"], [])


# -- snapshots ---------------------------------------------------------------------------------------------------------


def test_a_snapshot_that_waits_for_an_answer_fails_the_export_and_is_reaped_once_it_was_given(
    sim: Simulator, tmp_path: Path
) -> None:
    sim.faults.add(Fault(FaultKind.QUESTION, vm="db01", method="CreateSnapshot_Task"))

    with pytest.raises(errors.SnapshotFailed) as failed:
        hyperexport.export("db01", output=tmp_path, snapshot=True)

    assert WORDS.format("db01") in failed.value.what
    assert list(tmp_path.rglob("export.json")) == []
    answer(sim, "db01")
    reap(tmp_path)
    assert sim.vm("db01").snapshots() == []


def test_a_removal_that_waits_for_an_answer_is_said_with_the_complete_export_and_goes_on_when_it_is_given(
    sim: Simulator, tmp_path: Path
) -> None:
    sim.faults.add(Fault(FaultKind.QUESTION, vm="db01", method="RemoveSnapshot_Task"))

    with pytest.raises(errors.SnapshotLeaked) as failed:
        hyperexport.export("db01", output=tmp_path, snapshot=True)

    (left,) = [words for words in failed.value.cleaned_up if "could NOT" in words]
    assert WORDS.format("db01") in left
    assert "vSphere client" in left
    assert "is complete" in failed.value.what
    answer(sim, "db01")
    assert sim.vm("db01").snapshots() == []


@pytest.mark.parametrize(
    ("method", "call"),
    [("RemoveAllSnapshots_Task", remove_all_snapshots), ("ConsolidateVMDisks_Task", consolidate_disks)],
)
def test_a_merge_of_disks_ends_with_the_question(method: str, call: Callable[..., Any], sim: Simulator) -> None:
    sim.faults.add(Fault(FaultKind.QUESTION, vm="db01", method=method))
    sim.vm("db01").consolidation_needed = True
    with (
        connect(VSphereEndpoint.from_environment()) as session,
        pytest.raises(QuestionUnanswered, match="a question of db01"),
    ):
        call(session, find_vm(session, "db01"))


@contextmanager
def anothers_task(sim: Simulator, name: str) -> Generator[None]:
    """Somebody else's task on the VM that waits for an answer; it is given at the end."""
    sim.faults.add(Fault(FaultKind.QUESTION, vm=name, method="ReconfigVM_Task"))
    with logged_in(sim) as service:
        vm = find(service, name)
        task = vm.ReconfigVM_Task(vim.vm.ConfigSpec(numCPUs=2))
        while vm.runtime.question is None:
            time.sleep(0.01)
        yield
        vm.AnswerVM(vm.runtime.question.id, "0")
        finish(task)


def test_anothers_task_that_waits_for_an_answer_is_not_waited_for_for_ever(sim: Simulator, tmp_path: Path) -> None:
    with anothers_task(sim, "db01"), pytest.raises(errors.HyperExportError) as failed:
        hyperexport.export("db01", output=tmp_path, snapshot=True)
    assert WORDS.format("db01") in failed.value.what
    assert sim.vm("db01").snapshots() == []
