"""What can be done to a simulated VM: power, configuration, snapshots; and what is refused, and how."""

# pyVmomi's stubs give a device's backing as its base class, which lacks most of the attributes.
# pyright: reportAttributeAccessIssue=false

import pytest
from pyVmomi import vim, vmodl

from hyperexport.simulator import DiskSpec, Fault, FaultKind, Simulator, VmSpec
from tests.engine.simulator_client import find, finish, logged_in, ready, take_snapshot

MIB = 1 << 20
VMS = (
    VmSpec("on", disks=(DiskSpec(4 * MIB), DiskSpec(2 * MIB)), snapshots=("old",)),
    VmSpec("plain", disks=(DiskSpec(4 * MIB), DiskSpec(2 * MIB))),
    VmSpec("off", powered_on=False, disks=(DiskSpec(4 * MIB),)),
    VmSpec("toolless", tools="guestToolsNotRunning", disks=(DiskSpec(MIB),)),
    VmSpec("template", powered_on=False, template=True, disks=(DiskSpec(MIB),)),
    VmSpec(
        "odd",
        disks=(
            DiskSpec(MIB),
            DiskSpec(MIB, mode="independent_persistent"),
            DiskSpec(MIB, backing="RawDiskMappingVer1"),
            DiskSpec(MIB, backing="SeSparse"),
        ),
    ),
)


@pytest.fixture
def sim():
    with Simulator(VMS) as simulator:
        yield simulator


@pytest.fixture
def service(sim):
    with logged_in(sim) as service:
        yield service


def disks_of(config):
    return [device for device in config.hardware.device if isinstance(device, vim.vm.device.VirtualDisk)]


def test_a_snapshot_freezes_the_disks_while_the_guest_writes_on(sim, service):
    vm, handle = find(service, "plain"), sim.vm("plain")
    handle.guest_write(0, 1000, b"before")
    snapshot = take_snapshot(vm)
    handle.guest_write(0, 1000, b"after!")
    assert handle.read_disk(0, 1000, 6) == b"after!"
    assert handle.read_disk(0, 1000, 6, snapshot._moId) == b"before"


def test_snapshots_make_a_tree_with_the_current_one_marked(sim, service):
    vm = find(service, "on")
    new = take_snapshot(vm, "new", quiesce=True)
    tree = vm.snapshot.rootSnapshotList
    assert [each.name for each in tree] == ["old"]
    assert [(each.name, each.quiesced) for each in tree[0].childSnapshotList] == [("new", True)]
    assert vm.snapshot.currentSnapshot == new
    assert vm.rootSnapshot[0].childSnapshot[0] == new
    assert [each[1] for each in sim.vm("on").snapshots()] == ["old", "new"]


def test_the_chain_of_backing_files_grows_and_shrinks_with_the_snapshots(service):
    vm = find(service, "on")
    new = take_snapshot(vm)
    live = disks_of(vm.config)[1].backing
    assert live.fileName == "[datastore1] on/on_1-000002.vmdk"
    assert live.parent.fileName == "[datastore1] on/on_1-000001.vmdk"
    assert live.parent.parent.fileName == "[datastore1] on/on_1.vmdk"
    assert live.parent.parent.parent is None
    assert disks_of(new.config)[1].backing.fileName == "[datastore1] on/on_1-000001.vmdk"
    assert len(vm.layoutEx.snapshot) == 2
    finish(vm.RemoveAllSnapshots_Task())
    assert disks_of(vm.config)[1].backing.fileName == "[datastore1] on/on_1.vmdk"
    assert vm.snapshot is None


def test_removing_a_snapshot_in_the_middle_keeps_those_above(sim, service):
    vm = find(service, "on")
    middle, top = take_snapshot(vm, "middle"), take_snapshot(vm, "top")
    finish(middle.RemoveSnapshot_Task(removeChildren=False))
    assert [each[1] for each in sim.vm("on").snapshots()] == ["old", "top"]
    assert vm.snapshot.currentSnapshot == top
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        _ = middle.config


def test_removing_with_children_removes_all_above(sim, service):
    vm = find(service, "on")
    middle = take_snapshot(vm, "middle")
    take_snapshot(vm, "top")
    finish(middle.RemoveSnapshot_Task(removeChildren=True))
    assert [each[1] for each in sim.vm("on").snapshots()] == ["old"]
    assert vm.snapshot.currentSnapshot._moId == sim.vm("on").snapshots()[0][0]


def test_removing_without_consolidation_leaves_it_needed(service):
    vm = find(service, "plain")
    snapshot = take_snapshot(vm)
    finish(snapshot.RemoveSnapshot_Task(removeChildren=False, consolidate=False))
    assert vm.runtime.consolidationNeeded
    finish(vm.ConsolidateVMDisks_Task())
    assert not vm.runtime.consolidationNeeded


def test_a_snapshot_can_be_renamed(sim, service):
    snapshot = find(service, "on").snapshot.currentSnapshot
    snapshot.Rename("other", "words")
    assert sim.vm("on").snapshots()[0][1:3] == ("other", "words")


def test_reverting_brings_content_and_configuration_back(sim, service):
    vm, handle = find(service, "plain"), sim.vm("plain")
    snapshot = take_snapshot(vm)
    change_id = disks_of(vm.config)[0].backing.changeId
    handle.guest_write(0, 0, b"new")
    handle.add_disk(DiskSpec(MIB))
    finish(snapshot.RevertToSnapshot_Task())
    assert handle.read_disk(0, 0, 3) != b"new"
    assert len(disks_of(vm.config)) == 2
    assert vm.runtime.powerState == "poweredOff"
    assert disks_of(vm.config)[0].backing.changeId.split("/")[0] != change_id.split("/")[0]


def test_quiescing_needs_running_tools_unless_the_vm_is_off(service):
    with pytest.raises(vim.fault.ApplicationQuiesceFault):
        take_snapshot(find(service, "toolless"), quiesce=True)
    snapshot = take_snapshot(find(service, "off"), quiesce=True)
    assert snapshot.vm.snapshot.rootSnapshotList[0].quiesced is False


def test_quiescing_by_the_newer_call_is_the_same(sim, service):
    vm = find(service, "plain")
    spec = vim.vm.GuestQuiesceSpec(timeout=5)
    finish(vm.CreateSnapshotEx_Task("ex", None, memory=False, quiesceSpec=spec))
    assert vm.snapshot.rootSnapshotList[0].quiesced
    sim.faults.add(Fault(FaultKind.QUIESCE_FAILED, vm="plain"))
    with pytest.raises(vim.fault.ApplicationQuiesceFault):
        finish(vm.CreateSnapshotEx_Task("ex", None, memory=False, quiesceSpec=spec))


def test_a_template_has_no_snapshots(service):
    with pytest.raises(vim.fault.InvalidState):
        take_snapshot(find(service, "template"))


def test_a_chain_has_at_most_32_snapshots(sim, service):
    for number in range(32):
        sim.vm("plain").take_snapshot(str(number))
    with pytest.raises(vim.fault.SnapshotFault):
        take_snapshot(find(service, "plain"))


def test_independent_and_raw_disks_are_not_snapshotted(sim, service):
    vm = find(service, "odd")
    snapshot = take_snapshot(vm)
    normal, independent, raw, sparse = disks_of(snapshot.config)
    assert isinstance(raw.backing, vim.vm.device.VirtualDisk.RawDiskMappingVer1BackingInfo)
    assert raw.backing.compatibilityMode == "physicalMode"
    assert isinstance(sparse.backing, vim.vm.device.VirtualDisk.SeSparseBackingInfo)
    assert independent.backing.diskMode == "independent_persistent"
    assert [bool(disk.backing.changeId) for disk in (normal, independent, raw, sparse)] == [True, False, False, True]
    live = disks_of(vm.config)
    assert live[0].backing.parent is not None
    assert live[1].backing.parent is None
    info = ready(snapshot.ExportSnapshot())
    assert [url.key.rpartition("/")[2] for url in info.deviceUrl if url.disk] == [
        "ParaVirtualSCSIController0:0",
        "ParaVirtualSCSIController0:3",
    ]


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        (FaultKind.CREATE_SNAPSHOT_FAILED, vim.fault.SnapshotFault),
        (FaultKind.TASK_IN_PROGRESS, vim.fault.TaskInProgress),
    ],
)
def test_taking_a_snapshot_fails_on_demand(sim, service, kind, fault):
    sim.faults.add(Fault(kind, vm="plain"))
    with pytest.raises(fault):
        take_snapshot(find(service, "plain"))
    assert sim.vm("plain").snapshots() == []
    take_snapshot(find(service, "plain"))


def test_removing_a_snapshot_fails_on_demand_and_leaves_it(sim, service):
    snapshot = take_snapshot(find(service, "plain"))
    sim.faults.add(Fault(FaultKind.REMOVE_SNAPSHOT_FAILED, vm="plain"))
    with pytest.raises(vim.fault.GenericVmConfigFault):
        finish(snapshot.RemoveSnapshot_Task(removeChildren=False))
    finish(snapshot.RemoveSnapshot_Task(removeChildren=False))


def test_a_slow_consolidation_shows_progress_and_keeps_others_away(sim, service):
    vm = find(service, "plain")
    snapshot = take_snapshot(vm)
    sim.faults.add(Fault(FaultKind.SLOW_CONSOLIDATION, vm="plain", delay=10))
    task = snapshot.RemoveSnapshot_Task(removeChildren=False)
    while not task.info.progress:
        assert task.info.state in {"queued", "running"}
    with pytest.raises(vim.fault.TaskInProgress) as refused:
        snapshot.ExportSnapshot()
    assert refused.value.task == task
    assert task in vm.recentTask
    assert len(sim.vm("plain").snapshots()) == 1


def test_a_slow_consolidation_ends_well(sim, service):
    snapshot = take_snapshot(find(service, "plain"))
    sim.faults.add(Fault(FaultKind.SLOW_CONSOLIDATION, vm="plain", delay=0.1))
    finish(snapshot.RemoveSnapshot_Task(removeChildren=False))
    assert sim.vm("plain").snapshots() == []
    assert len(sim.faults.fired) == 1


def test_power_goes_on_and_off_and_not_twice(service):
    vm = find(service, "off")
    finish(vm.PowerOnVM_Task())
    assert vm.runtime.powerState == "poweredOn"
    with pytest.raises(vim.fault.InvalidPowerState) as refused:
        finish(vm.PowerOnVM_Task())
    assert refused.value.existingState == "poweredOn"
    finish(vm.PowerOffVM_Task())
    assert vm.runtime.powerState == "poweredOff"
    assert vm.guest.toolsRunningStatus == "guestToolsNotRunning"


def test_a_disk_is_added_and_made_larger(sim, service):
    vm = find(service, "off")
    disk = vim.vm.device.VirtualDisk(
        key=-1,
        capacityInKB=1024,
        backing=vim.vm.device.VirtualDisk.FlatVer2BackingInfo(fileName="", diskMode="persistent"),
    )
    operation = vim.vm.device.VirtualDeviceSpec.Operation
    change = vim.vm.device.VirtualDeviceSpec(operation=operation.add, fileOperation="create", device=disk)
    finish(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[change], annotation="hello")))
    first, second = disks_of(vm.config)
    assert (second.capacityInBytes, second.unitNumber, second.key) == (MIB, 1, 2001)
    assert vm.config.annotation == "hello"
    first.capacityInKB, first.capacityInBytes = 8192, 8 * MIB
    change = vim.vm.device.VirtualDeviceSpec(operation=operation.edit, device=first)
    finish(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[change])))
    assert disks_of(vm.config)[0].capacityInBytes == 8 * MIB
    sim.vm("off").take_snapshot("x")
    with pytest.raises(ValueError, match="snapshots"):
        sim.vm("off").resize_disk(0, 16 * MIB)


def test_what_the_simulator_cannot_reconfigure_is_refused(service):
    with pytest.raises(vmodl.fault.NotSupported):
        finish(find(service, "off").ReconfigVM_Task(vim.vm.ConfigSpec(motherboardLayout="i440bxHostBridge")))


def test_the_unit_number_of_the_controller_itself_is_left_free():
    disks = (DiskSpec(MIB, used=0),) * 17
    with Simulator((VmSpec("many", disks=disks),)) as sim, logged_in(sim) as service:
        found = disks_of(find(service, "many").config)
        assert [disk.unitNumber for disk in found[:16]] == [*range(7), *range(8, 16), 0]
        assert (found[15].controllerKey, found[16].unitNumber) == (1001, 1)
        assert len({disk.key for disk in found}) == 17


def test_a_destroyed_vm_is_gone(sim, service):
    vm = find(service, "off")
    finish(vm.Destroy_Task())
    assert service.content.searchIndex.FindByInventoryPath("/DC0/vm/off") is None
    with pytest.raises(KeyError):
        sim.vm("off")


def test_vms_of_the_same_name_have_homes_of_their_own():
    twins = tuple(VmSpec("twin", folder=folder, disks=(DiskSpec(MIB),)) for folder in ("a", "b"))
    with Simulator(twins) as sim, logged_in(sim) as service:
        index = service.content.searchIndex
        paths = [index.FindByInventoryPath(f"/DC0/vm/{each}/twin").config.files.vmPathName for each in "ab"]
        assert paths == ["[datastore1] twin/twin.vmx", "[datastore1] twin_1/twin_1.vmx"]
        assert sim.vm("/DC0/vm/a/twin").instance_uuid != sim.vm("/DC0/vm/b/twin").instance_uuid
        with pytest.raises(KeyError, match="2 simulated VMs"):
            sim.vm("twin")


def test_old_tasks_are_forgotten(service):
    vm = find(service, "off")
    first = vm.PowerOnVM_Task()
    finish(first)
    for _ in range(15):
        finish(vm.PowerOffVM_Task())
        finish(vm.PowerOnVM_Task())
    assert len(vm.recentTask) == 20
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        _ = first.info
