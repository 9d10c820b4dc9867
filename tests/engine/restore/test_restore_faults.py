"""Restores that meet a fault or are stopped: survived, or no VM, no lease and no file is left."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hyperexport import errors
from hyperexport.model.restore import RestoreResult
from hyperexport.simulator import Fault, FaultKind, Simulator
from hyperexport.steps import upload_proof
from hyperexport.vsphere import questions
from tests.engine.restores import disks_of, nothing_is_left
from tests.engine.simulator_client import find, finish, logged_in

FAULTS = {
    "upload cut once": (Fault(FaultKind.UPLOAD_CUT, vm="copy", disk=0, at_byte=100_000), None),
    "upload cut for ever": (
        Fault(FaultKind.UPLOAD_CUT, vm="copy", disk=0, at_byte=100_000, times=0),
        "transfer-interrupted",
    ),
    "503 once": (Fault(FaultKind.HTTP_STATUS, vm="copy", disk=1, status=503), None),
    "503 for ever": (Fault(FaultKind.HTTP_STATUS, vm="copy", disk=1, status=503, times=0), "transfer-interrupted"),
    "datastore full": (Fault(FaultKind.DATASTORE_FULL, vm="copy", at_byte=50_000), "datastore-full"),
    "wrong checksum once": (Fault(FaultKind.MANIFEST_WRONG, vm="copy", disk=0), None),
    "wrong checksum for ever": (Fault(FaultKind.MANIFEST_WRONG, vm="copy", disk=0, times=0), "checksum-mismatch"),
    "no checksum": (Fault(FaultKind.MANIFEST_MISSING, vm="copy", times=0), None),
    "lease error once": (Fault(FaultKind.LEASE_ERROR, vm="copy"), None),
    "lease error for ever": (Fault(FaultKind.LEASE_ERROR, vm="copy", times=0), "lease-failed"),
    "lease timeout": (Fault(FaultKind.LEASE_EXPIRED, vm="copy", disk=0, at_byte=60_000), "restore-failed"),
    "lease slow": (Fault(FaultKind.LEASE_SLOW, vm="copy", delay=0.3), None),
    "session ends": (Fault(FaultKind.SESSION_EXPIRED, vm="copy", at_byte=1000), "restore-failed"),
    "import refused": (Fault(FaultKind.METHOD_FAULT, method="ImportVApp", fault="NoDiskSpace"), "datastore-full"),
    "completion fails": (
        Fault(FaultKind.METHOD_FAULT, method="HttpNfcLeaseComplete", fault="InvalidState"),
        "restore-failed",
    ),
    "handing over fails": (
        Fault(FaultKind.METHOD_FAULT, method="ReconfigVM_Task", fault="GenericVmConfigFault"),
        "server-fault",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_survived_or_leaves_no_vm_no_lease_and_no_file(
    name: str, sim: Simulator, restore: Callable[..., RestoreResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_proof, "SECONDS_FOR_PROMISED", 0.0)
    fault, code = FAULTS[name]
    sim.faults.add(fault)
    if code is None:
        result = restore()
        assert disks_of(sim, "copy") == disks_of(sim, "db01")
        assert result.verified is (name != "no checksum")
        return
    with pytest.raises(errors.HyperExportError) as failed:
        restore()
    assert failed.value.code == code, failed.value
    assert sim.faults.fired
    sim.faults.clear()
    assert sim.leases() == []
    assert nothing_is_left(sim)


@pytest.mark.parametrize("method", ["ReconfigVM_Task"])
def test_disks_that_could_not_be_attached_leave_nothing(
    method: str, sim: Simulator, restore: Callable[..., RestoreResult]
) -> None:
    sim.faults.add(Fault(FaultKind.METHOD_FAULT, vm="other", method=method, fault="InvalidDeviceSpec"))
    with pytest.raises(errors.HyperExportError):
        restore(attach_to="other", disks=[1])
    assert nothing_is_left(sim)


def test_a_vm_that_cannot_be_powered_on_is_there_and_the_result_says_why(
    sim: Simulator, restore: Callable[..., RestoreResult]
) -> None:
    sim.faults.add(
        Fault(FaultKind.METHOD_FAULT, vm="copy", method="PowerOnVM_Task", fault="InsufficientMemoryResourcesFault")
    )
    result = restore(power_on=True)
    assert not result.powered_on
    assert "could not be powered on" in result.warnings[-1]
    assert disks_of(sim, "copy") == disks_of(sim, "db01")


def test_a_vm_that_asks_a_question_when_it_is_powered_on_is_there_and_the_result_has_the_question(
    sim: Simulator, restore: Callable[..., RestoreResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "SECONDS_FOR_AN_ANSWER", 0.0)
    sim.faults.add(Fault(FaultKind.QUESTION, vm="copy"))
    result = restore(power_on=True)
    assert not result.powered_on
    assert "waits for an answer to a question of copy: msg.uuid.altered: This virtual" in result.warnings[-1]
    assert disks_of(sim, "copy") == disks_of(sim, "db01")
    with logged_in(sim) as service:  # it goes on when somebody answers
        vm = find(service, "copy")
        vm.AnswerVM(vm.runtime.question.id, "0")
        for task in vm.recentTask:
            finish(task)
        assert vm.runtime.powerState == "poweredOn"


def test_a_question_that_the_host_answers_by_itself_does_not_disturb_a_power_on(
    sim: Simulator, restore: Callable[..., RestoreResult]
) -> None:
    sim.faults.add(Fault(FaultKind.QUESTION, vm="copy", delay=1.5))
    result = restore(power_on=True)
    assert result.powered_on
    assert result.warnings == ()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_restore_that_is_stopped_while_it_sends_leaves_nothing(
    number: signal.Signals, sim: Simulator, exports: Path
) -> None:
    sim.faults.add(Fault(FaultKind.UPLOAD_STALL, vm="copy", disk=0, at_byte=100_000))
    # One write: two disks move side by side, and print() gives the line and its end separately.
    said = r"os.write(1, b'moving\n') if progress.moved else None"
    lines = (
        "import os",
        "import hyperexport",
        "from hyperexport.model.progress import subscribed",
        f"told = lambda progress: {said}",
        "with subscribed(told):",
        f"    hyperexport.restore(vm='db01', name='copy', output={str(exports)!r})",
    )
    command = [sys.executable, "-c", "\n".join(lines)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "moving\n"
        process.send_signal(number)
        process.wait(timeout=60)
    assert process.returncode != 0
    sim.faults.clear()
    assert sim.leases() == []
    assert sim.sessions() == []
    assert nothing_is_left(sim)
