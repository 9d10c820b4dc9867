"""Change tracking at the simulator: when it takes effect, what it answers, and how it refuses."""

import pytest
from pyVmomi import vim, vmodl

from hyperexport.simulator import DiskSpec, Fault, FaultKind, Simulator, VmSpec
from tests.engine.simulator_client import find, finish, logged_in, take_snapshot

MIB = 1 << 20
GRAIN = 65536
VMS = (
    VmSpec("tracked", disks=(DiskSpec(16 * MIB), DiskSpec(MIB))),
    VmSpec("untracked", change_tracking=False, disks=(DiskSpec(MIB),)),
    VmSpec("off", powered_on=False, change_tracking=False, disks=(DiskSpec(MIB),)),
    VmSpec("wide", disks=(DiskSpec(512 * MIB, used=0),)),
)


@pytest.fixture
def sim():
    with Simulator(VMS) as simulator:
        yield simulator


@pytest.fixture
def service(sim):
    with logged_in(sim) as service:
        yield service


def change_id(holder, key=2000):
    return next(device.backing.changeId for device in holder.config.hardware.device if device.key == key)


def areas(vm, snapshot, since, key=2000, start=0):
    answer = vm.QueryChangedDiskAreas(snapshot, key, start, since)
    return [(each.start, each.length) for each in answer.changedArea]


def test_the_areas_that_changed_between_two_snapshots_are_told(sim, service):
    vm = find(service, "tracked")
    first = take_snapshot(vm)
    sim.vm("tracked").guest_write(0, 5 * GRAIN + 10, b"x")
    sim.vm("tracked").guest_write(0, 100 * GRAIN, b"y" * (2 * GRAIN))
    second = take_snapshot(vm)
    sim.vm("tracked").guest_write(0, 7 * GRAIN, b"later")
    assert areas(vm, second, change_id(first)) == [(5 * GRAIN, GRAIN), (100 * GRAIN, 2 * GRAIN)]
    assert areas(vm, second, change_id(second)) == []
    assert areas(vm, second, change_id(first, 2001), key=2001) == []


def test_a_star_asks_for_what_is_allocated(sim, service):
    vm = find(service, "tracked")
    snapshot = take_snapshot(vm)
    found = areas(vm, snapshot, "*")
    assert 0 < sum(length for _, length in found) < 16 * MIB
    covered = bytearray(sim.vm("tracked").read_disk(0, 0, 16 * MIB, snapshot._moId))
    for start, length in found:
        covered[start : start + length] = bytes(length)
    assert not any(covered)


def test_long_answers_come_in_pages(sim, service):
    vm = find(service, "wide")
    first = take_snapshot(vm)
    written = [number * 2 * GRAIN for number in range(2500)]
    for offset in written:
        sim.vm("wide").guest_write(0, offset, b"x")
    second = take_snapshot(vm)
    since, capacity = change_id(first), 512 * MIB
    page = vm.QueryChangedDiskAreas(second, 2000, 0, since)
    assert len(page.changedArea) == 2000
    assert page.length < capacity
    found = list(page.changedArea)
    position = page.startOffset + page.length
    rest = vm.QueryChangedDiskAreas(second, 2000, position, since)
    assert rest.startOffset == position
    assert rest.startOffset + rest.length == capacity
    found += rest.changedArea
    assert [each.start for each in found] == written


def test_an_offset_in_the_middle_of_an_area_cuts_it(sim, service):
    vm = find(service, "tracked")
    first = take_snapshot(vm)
    sim.vm("tracked").guest_write(0, 0, b"x" * (4 * GRAIN))
    second = take_snapshot(vm)
    assert areas(vm, second, change_id(first), start=GRAIN + 512) == [(GRAIN + 512, 3 * GRAIN - 512)]


@pytest.mark.parametrize("start", [16 * MIB, -1])
def test_an_offset_beyond_the_disk_is_an_invalid_argument(service, start):
    vm = find(service, "tracked")
    snapshot = take_snapshot(vm)
    with pytest.raises(vmodl.fault.InvalidArgument) as refused:
        vm.QueryChangedDiskAreas(snapshot, 2000, start, "*")
    assert refused.value.invalidProperty == "startOffset"


def test_change_ids_that_do_not_belong_here_are_invalid_arguments(sim, service):
    vm = find(service, "tracked")
    first = take_snapshot(vm)
    second = take_snapshot(vm)
    for wrong in (change_id(second), change_id(second, 2001), "nonsense", "52 de/1"):
        with pytest.raises(vmodl.fault.InvalidArgument):
            vm.QueryChangedDiskAreas(first, 2000, 0, wrong)
    with pytest.raises(vmodl.fault.InvalidArgument):
        vm.QueryChangedDiskAreas(first, 4711, 0, "*")


def test_a_reset_voids_the_ids_from_before(sim, service):
    vm = find(service, "tracked")
    first = take_snapshot(vm)
    sim.vm("tracked").reset_change_tracking(0)
    second = take_snapshot(vm)
    with pytest.raises(vmodl.fault.InvalidArgument):
        vm.QueryChangedDiskAreas(second, 2000, 0, change_id(first))


def test_without_a_snapshot_the_vm_must_be_off(sim, service):
    vm = find(service, "tracked")
    first = take_snapshot(vm)
    with pytest.raises(vim.fault.InvalidPowerState):
        vm.QueryChangedDiskAreas(None, 2000, 0, change_id(first))
    sim.vm("tracked").guest_write(0, 0, b"x")
    sim.vm("tracked").power_off()
    assert areas(vm, None, change_id(first)) == [(0, GRAIN)]


def test_a_snapshot_of_another_vm_is_not_found(service):
    other = take_snapshot(find(service, "wide"))
    with pytest.raises(vim.fault.NotFound):
        find(service, "tracked").QueryChangedDiskAreas(other, 2000, 0, "*")


def test_enabling_takes_effect_at_the_next_stun_of_a_running_vm(service):
    vm = find(service, "untracked")
    assert change_id(vm) is None
    finish(vm.ReconfigVM_Task(vim.vm.ConfigSpec(changeTrackingEnabled=True)))
    assert vm.config.changeTrackingEnabled
    assert change_id(vm) is None
    first = take_snapshot(vm)
    assert change_id(first) is None
    assert change_id(vm) is not None
    with pytest.raises(vim.fault.FileFault):
        vm.QueryChangedDiskAreas(first, 2000, 0, "*")
    assert change_id(take_snapshot(vm)) is not None


def test_enabling_takes_effect_at_once_on_a_vm_that_is_off(service):
    vm = find(service, "off")
    finish(vm.ReconfigVM_Task(vim.vm.ConfigSpec(changeTrackingEnabled=True)))
    assert change_id(vm) is not None


def test_disabling_and_enabling_again_begins_anew(service):
    vm = find(service, "tracked")
    before = change_id(vm)
    for enabled in (False, True):
        finish(vm.ReconfigVM_Task(vim.vm.ConfigSpec(changeTrackingEnabled=enabled)))
        finish(take_snapshot(vm).RemoveSnapshot_Task(removeChildren=False))
    assert change_id(vm).split("/")[0] != before.split("/")[0]


def test_untracked_vms_refuse_the_question(service):
    vm = find(service, "untracked")
    snapshot = take_snapshot(vm)
    with pytest.raises(vmodl.fault.InvalidArgument):
        vm.QueryChangedDiskAreas(snapshot, 2000, 0, "*")


@pytest.mark.parametrize(
    ("name", "kind"), [(None, vim.fault.FileFault), ("InvalidArgument", vmodl.fault.InvalidArgument)]
)
def test_the_question_fails_on_demand(sim, service, name, kind):
    vm = find(service, "tracked")
    snapshot = take_snapshot(vm)
    sim.faults.add(Fault(FaultKind.CBT_FAULT, vm="tracked", disk=1, fault=name))
    assert areas(vm, snapshot, change_id(snapshot)) == []
    with pytest.raises(kind):
        vm.QueryChangedDiskAreas(snapshot, 2001, 0, "*")


def test_an_extended_disk_has_a_new_tracking(sim, service):
    vm = find(service, "tracked")
    before = change_id(vm)
    sim.vm("tracked").resize_disk(0, 32 * MIB)
    assert change_id(vm).split("/")[0] != before.split("/")[0]
