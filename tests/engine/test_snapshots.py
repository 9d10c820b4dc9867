"""Snapshots are made, found again by their mark, and removed, whatever interrupts that."""

import os
import signal
import threading

import pytest

from hyperexport import errors
from hyperexport.base.stop import StopSignal
from hyperexport.model.manifest import Quiescing
from hyperexport.model.ownership import Owner
from hyperexport.simulator import Fault, FaultKind
from hyperexport.vsphere import snapshots
from hyperexport.vsphere.inventory import describe
from hyperexport.vsphere.snapshots import (
    consolidate_disks,
    create_snapshot,
    remove_all_snapshots,
    remove_snapshot,
    snapshot_tree,
)

simulator_only = pytest.mark.parametrize("peer", ["simulated"], indirect=True)


def make(session, vm, owner, **choice):
    choices = {
        "name": "for export",
        "quiesce": True,
        "memory": False,
        "quiesce_required": False,
        "tools_running": True,
        "powered_on": True,
    }
    return create_snapshot(session, vm, owner=owner, **{**choices, **choice})


def test_a_snapshot_is_made_found_by_its_mark_and_removed(session, vm, owner):
    made = make(session, vm, owner, name="50% of a/b")
    assert made.record.name == "50% of a/b"
    assert made.record.quiescing is Quiescing.FILESYSTEM
    assert made.warnings == ()
    (found,) = snapshot_tree(session, vm)
    assert (found.moref, Owner.from_description(found.description)) == (made.record.moref, owner)
    remove_snapshot(session, vm, made.record.moref)
    assert snapshot_tree(session, vm) == ()


def test_removing_a_snapshot_that_is_gone_is_fine(session, vm, owner):
    moref = make(session, vm, owner).record.moref
    remove_snapshot(session, vm, moref)
    remove_snapshot(session, vm, moref)
    assert snapshot_tree(session, vm) == ()


def test_removing_ours_leaves_a_users_above_and_below(session, vm, owner):
    someone = owner.model_copy(update={"run": "someone else"})
    below = make(session, vm, someone, name="below").record.moref
    ours = make(session, vm, owner, name="ours").record.moref
    above = make(session, vm, someone, name="above").record.moref
    remove_snapshot(session, vm, ours)
    assert [one.moref for one in snapshot_tree(session, vm)] == [below, above]


@simulator_only
def test_snapshots_without_our_mark_are_not_ours(simulated, session, vm, owner):
    simulated.server.vm(vm.name).take_snapshot("hyperexport-20261123T000000Z", "hyperexport, says a user")
    make(session, vm, owner)
    assert len(snapshot_tree(session, vm)) == 2
    tags = [Owner.from_description(one.description) for one in snapshot_tree(session, vm)]
    assert [tag for tag in tags if tag] == [owner]


def test_a_vm_that_is_off_needs_no_quiescing(session, vm, owner):
    made = make(session, vm, owner, powered_on=False, tools_running=False, quiesce_required=True)
    assert made.record.quiescing is Quiescing.POWERED_OFF


def test_without_tools_it_is_crash_consistent_and_says_so(session, vm, owner):
    made = make(session, vm, owner, tools_running=False)
    assert made.record.quiescing is Quiescing.CRASH_CONSISTENT
    assert "VMware Tools are not running" in made.warnings[0]


def test_without_tools_and_with_quiescing_required_there_is_no_snapshot(session, vm, owner):
    with pytest.raises(errors.QuiesceFailed, match="Tools"):
        make(session, vm, owner, tools_running=False, quiesce_required=True)
    assert snapshot_tree(session, vm) == ()


def test_a_snapshot_that_nobody_wants_quiesced_is_no_warning(session, vm, owner):
    made = make(session, vm, owner, quiesce=False)
    assert made.record.quiescing is Quiescing.CRASH_CONSISTENT
    assert made.warnings == ()


def test_memory_and_quiescing_exclude_each_other(session, vm, owner):
    with pytest.raises(errors.UsageError):
        make(session, vm, owner, memory=True, quiesce=True)
    assert make(session, vm, owner, memory=True, quiesce=False).record.quiescing is Quiescing.MEMORY


def test_a_chain_that_is_too_long_is_not_made_longer(session, vm, owner, monkeypatch):
    monkeypatch.setattr(snapshots, "LONGEST_CHAIN", 2)
    make(session, vm, owner)
    make(session, vm, owner.model_copy(update={"run": "second"}))
    with pytest.raises(errors.SnapshotChainTooLong, match="chain of 2"):
        make(session, vm, owner.model_copy(update={"run": "third"}))
    assert len(snapshot_tree(session, vm)) == 2


def test_all_snapshots_are_removed_when_that_is_asked_for(session, vm, owner):
    make(session, vm, owner)
    make(session, vm, owner.model_copy(update={"run": "second"}))
    remove_all_snapshots(session, vm)
    assert snapshot_tree(session, vm) == ()


def test_disks_that_need_no_consolidation_are_left_alone(session, vm):
    assert consolidate_disks(session, vm) is False


def test_a_run_that_was_stopped_makes_no_snapshot(session, vm, owner):
    stop = StopSignal()
    stop.set()
    with pytest.raises(errors.Interrupted):
        make(session, vm, owner, stop=stop)
    assert snapshot_tree(session, vm) == ()


@simulator_only
class TestFaults:
    def test_failing_to_quiesce_falls_back_and_says_why(self, session, vm, owner, faults):
        faults.add(Fault(FaultKind.QUIESCE_FAILED, vm=vm.name))
        made = make(session, vm, owner)
        assert made.record.quiescing is Quiescing.CRASH_CONSISTENT
        assert "quiescing" in made.warnings[0]
        assert len(snapshot_tree(session, vm)) == 1

    def test_failing_to_quiesce_is_an_error_where_quiescing_is_required(self, session, vm, owner, faults):
        faults.add(Fault(FaultKind.QUIESCE_FAILED, vm=vm.name))
        with pytest.raises(errors.QuiesceFailed, match="quiescing"):
            make(session, vm, owner, quiesce_required=True)
        assert snapshot_tree(session, vm) == ()

    @pytest.mark.parametrize("required", [False, True])
    def test_a_snapshot_that_was_silently_not_quiesced_is_not_called_quiesced(
        self, simulated, session, vm, owner, required
    ):
        simulated.server.vm(vm.name).power_off()  # vSphere ignores the request then; ours believes that it runs
        if required:
            with pytest.raises(errors.QuiesceFailed, match="not quiesced"):
                make(session, vm, owner, quiesce_required=True)
            assert snapshot_tree(session, vm) == ()
        else:
            made = make(session, vm, owner)
            assert made.record.quiescing is Quiescing.CRASH_CONSISTENT
            assert "not quiesced" in made.warnings[0]

    def test_a_snapshot_that_fails_is_an_error_of_its_own(self, session, vm, owner, faults):
        faults.add(Fault(FaultKind.CREATE_SNAPSHOT_FAILED, vm=vm.name))
        with pytest.raises(errors.SnapshotFailed) as caught:
            make(session, vm, owner)
        assert not isinstance(caught.value, errors.QuiesceFailed)
        assert vm.name in str(caught.value)

    def test_a_missing_privilege_is_named_with_its_object_and_user(self, session, vm, owner, faults):
        privilege = "VirtualMachine.State.CreateSnapshot"
        faults.add(
            Fault(FaultKind.METHOD_FAULT, method="CreateSnapshot_Task", fault="NoPermission", privilege=privilege)
        )
        with pytest.raises(errors.PermissionMissing) as caught:
            make(session, vm, owner)
        assert privilege in str(caught.value)
        assert f"VirtualMachine {vm.name}" in str(caught.value)
        assert session.user in str(caught.value)

    def test_a_removal_that_is_refused_for_now_is_asked_for_again(self, session, vm, owner, faults):
        moref = make(session, vm, owner).record.moref
        faults.add(Fault(FaultKind.TASK_IN_PROGRESS, vm=vm.name, method="RemoveSnapshot_Task", times=2))
        remove_snapshot(session, vm, moref)
        assert snapshot_tree(session, vm) == ()

    def test_a_removal_that_fails_on_a_lock_once_is_tried_again(self, session, vm, owner, faults):
        moref = make(session, vm, owner).record.moref
        faults.add(Fault(FaultKind.REMOVE_SNAPSHOT_FAILED, vm=vm.name))
        remove_snapshot(session, vm, moref)
        assert snapshot_tree(session, vm) == ()

    @pytest.mark.parametrize("kind", [FaultKind.REMOVE_SNAPSHOT_FAILED, FaultKind.TASK_IN_PROGRESS])
    def test_a_snapshot_that_cannot_be_removed_is_reported_by_name(self, session, vm, owner, faults, kind):
        moref = make(session, vm, owner).record.moref
        method = "RemoveSnapshot_Task" if kind is FaultKind.TASK_IN_PROGRESS else None
        faults.add(Fault(kind, vm=vm.name, method=method, times=0))
        with pytest.raises(errors.SnapshotLeaked) as caught:
            remove_snapshot(session, vm, moref, timeout=1)
        assert moref in str(caught.value)
        assert vm.path in str(caught.value)

    def test_a_removal_that_takes_long_tells_how_far_it_is(self, session, vm, owner, faults):
        moref = make(session, vm, owner).record.moref
        faults.add(Fault(FaultKind.SLOW_CONSOLIDATION, vm=vm.name, delay=0.5))
        seen = []
        remove_snapshot(session, vm, moref, on_progress=seen.append)
        assert len(seen) >= 2
        assert seen == sorted(seen)

    def test_waiting_for_a_removal_can_be_stopped(self, session, vm, owner, faults):
        moref = make(session, vm, owner).record.moref
        faults.add(Fault(FaultKind.SLOW_CONSOLIDATION, vm=vm.name, delay=1))
        stop = StopSignal()
        with pytest.raises(errors.Interrupted):
            remove_snapshot(session, vm, moref, stop=stop, on_progress=lambda _: stop.set())
        remove_snapshot(session, vm, moref)
        assert snapshot_tree(session, vm) == ()

    def test_an_answer_that_never_came_leaves_no_snapshot(self, session, vm, owner, faults):
        faults.add(Fault(FaultKind.HTTP_STATUS, vm=vm.name, method="CreateSnapshot_Task", status=503))
        with pytest.raises(errors.ServerBusy):
            make(session, vm, owner)
        assert snapshot_tree(session, vm) == ()

    def test_the_session_may_end_between_making_and_removing(self, session, vm, owner, faults):
        moref = make(session, vm, owner).record.moref
        faults.add(Fault(FaultKind.SESSION_EXPIRED))
        remove_snapshot(session, vm, moref)
        assert snapshot_tree(session, vm) == ()

    def test_disks_are_consolidated_where_vsphere_asks_for_it(self, simulated, session, vm):
        simulated.server.vm(vm.name).consolidation_needed = True
        assert describe(session, vm).consolidation_needed
        assert consolidate_disks(session, vm) is True
        assert not describe(session, vm).consolidation_needed


def once_asked(server, act):
    """Call ``act`` once the server has begun to make one more snapshot."""
    before = server.requests.get("CreateSnapshot_Task", 0)

    def wait():
        while server.requests.get("CreateSnapshot_Task", 0) == before:
            threading.Event().wait(0.01)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@simulator_only
@pytest.mark.usefixtures("faults")
@pytest.mark.parametrize("way", ["stop", "Ctrl-C"])
def test_a_snapshot_that_was_being_made_when_the_run_was_stopped_is_removed(simulated, session, vm, owner, way):
    simulated.server.faults.add(Fault(FaultKind.LATENCY, method="CreateSnapshot_Task", delay=0.5))
    stop = StopSignal()
    act, raised = {
        "stop": (stop.set, errors.Interrupted),
        "Ctrl-C": (lambda: os.kill(os.getpid(), signal.SIGINT), KeyboardInterrupt),
    }[way]
    before = simulated.server.requests
    thread = once_asked(simulated.server, act)
    with pytest.raises(raised):
        make(session, vm, owner, stop=stop)
    thread.join()
    assert simulated.server.requests["CreateSnapshot_Task"] == before["CreateSnapshot_Task"] + 1
    assert simulated.server.vm(vm.name).snapshots() == []


UNREADABLE = [("NoPermission", errors.PermissionMissing), ("SystemError", errors.ServerFault)]


@simulator_only
@pytest.mark.parametrize(("fault", "expected"), UNREADABLE)
def test_snapshots_that_cannot_be_read_are_not_taken_for_none(session, vm, owner, faults, fault, expected):
    moref = make(session, vm, owner).record.moref
    faults.add(Fault(FaultKind.METHOD_FAULT, vm=vm.name, method="snapshot", fault=fault, times=0))
    with pytest.raises(expected, match="reading snapshot"):
        snapshot_tree(session, vm)
    with pytest.raises(errors.SnapshotLeaked, match=moref):
        remove_snapshot(session, vm, moref, timeout=0)
    with pytest.raises(expected):
        make(session, vm, owner)
    faults.clear()
    assert [info.moref for info in snapshot_tree(session, vm)] == [moref]


@simulator_only
def test_a_snapshot_that_cannot_be_read_for_a_moment_is_removed_all_the_same(session, vm, owner, faults):
    moref = make(session, vm, owner).record.moref
    faults.add(Fault(FaultKind.METHOD_FAULT, vm=vm.name, method="snapshot", fault="SystemError", times=1))
    remove_snapshot(session, vm, moref)
    assert snapshot_tree(session, vm) == ()


@simulator_only
def test_disks_of_which_nobody_knows_whether_they_need_consolidation_are_an_error(session, vm, faults):
    faults.add(
        Fault(FaultKind.METHOD_FAULT, vm=vm.name, method="runtime.consolidationNeeded", fault="NoPermission", times=0)
    )
    with pytest.raises(errors.PermissionMissing):
        consolidate_disks(session, vm)


@simulator_only
def test_a_vm_of_which_something_could_not_be_read_is_described_and_says_so(session, vm, faults):
    faults.add(Fault(FaultKind.METHOD_FAULT, vm=vm.name, method="snapshot", fault="NoPermission", times=1))
    assert describe(session, vm).unread == ("snapshot (NoPermission)",)
    assert describe(session, vm).unread == ()
