"""VMs that a dead restore left half made are reaped; no other VM is."""

from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

import hyperexport
from hyperexport import errors
from hyperexport.jobs.direct import DirectRunner
from hyperexport.jobs.reap import reap_snapshots
from hyperexport.model.restore import RestoreResult
from hyperexport.options.precedence import resolve
from hyperexport.simulator import Simulator
from hyperexport.vsphere import partial_vms
from tests.engine.restores import VMS, disks_of, nothing_is_left
from tests.engine.simulator_client import find, finish, logged_in


def left_half_made(restore: Callable[..., RestoreResult], monkeypatch: pytest.MonkeyPatch, *steps: str) -> None:
    """Have a restore fail after its import, and its way back too, as if it had been killed."""
    from hyperexport.jobs import restore as job
    from hyperexport.steps import restoring

    def dies(*_args: Any, **_kwargs: Any) -> None:
        raise errors.ServerFault("killed")

    with monkeypatch.context() as patch:
        patch.setattr(restoring, "undo", lambda *_: None)
        for name in steps:
            dying: Any = FunctionType(dies.__code__, dies.__globals__, name)
            dying.hyperexport_step = getattr(restoring, name).hyperexport_step
            patch.setattr(job.restoring, name, dying)
        with pytest.raises(errors.ServerFault, match="killed"):
            restore()


def test_a_half_made_vm_of_a_dead_run_is_reaped_and_a_restored_one_never_is(
    sim: Simulator, restore: Callable[..., RestoreResult], exports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restore(name="whole")
    left_half_made(restore, monkeypatch, "restore_attributes")
    assert {vm.name for vm in sim.vms()} >= {"whole", "copy"}
    options = resolve(hyperexport.ExportOptions.from_keys({"output": exports})).options
    result = reap_snapshots(DirectRunner(), options)
    assert result.vms == ("/DC0/vm/production/copy",)
    assert [vm.name for vm in sim.vms()] == [*(spec.name for spec in VMS), "whole"]


def test_a_vm_that_runs_is_never_reaped_whatever_its_notes_say(
    sim: Simulator, restore: Callable[..., RestoreResult], exports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_half_made(restore, monkeypatch, "restore_attributes")
    with logged_in(sim) as service:
        finish(find(service, "copy").PowerOnVM_Task())
    options = resolve(hyperexport.ExportOptions.from_keys({"output": exports})).options
    assert reap_snapshots(DirectRunner(), options).vms == ()
    assert "copy" in {vm.name for vm in sim.vms()}


def test_a_server_that_leaves_the_tag_in_the_notes_gets_no_vm_that_a_reaper_would_destroy(
    sim: Simulator, restore: Callable[..., RestoreResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    def pretending(*given: Any, doing: str, **how: Any) -> Any:
        return None if doing.startswith("taking the restore's tag off") else run_task(*given, doing=doing, **how)

    run_task = partial_vms.run_task
    monkeypatch.setattr(partial_vms, "run_task", pretending)
    with pytest.raises(errors.ServerFault, match="the tag is still there"):
        restore()
    assert nothing_is_left(sim)


def test_a_name_with_signs_that_vsphere_escapes_is_restored_and_reaped_as_any_other(
    sim: Simulator, restore: Callable[..., RestoreResult], exports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "50% a/b\\c"
    left_half_made(lambda: restore(name=name), monkeypatch, "restore_attributes")
    options = resolve(hyperexport.ExportOptions.from_keys({"output": exports})).options
    assert reap_snapshots(DirectRunner(), options).vms == ("/DC0/vm/production/50%25 a%2fb%5cc",)
    assert nothing_is_left(sim)
    restore(name=name)
    assert disks_of(sim, name) == disks_of(sim, "db01")


def test_the_next_restore_removes_what_a_dead_one_left(
    sim: Simulator, restore: Callable[..., RestoreResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    left_half_made(restore, monkeypatch, "restore_attributes")
    result = restore()
    assert any("left half made by a restore that did not end" in words for words in result.warnings)
    assert disks_of(sim, "copy") == disks_of(sim, "db01")
