"""What a restore changes on VMs of the simulator: power, disks that change VMs, settings, attributes, tags."""

# pyVmomi's stubs give a device's backing as its base class, which lacks most of the attributes.
# pyright: reportAttributeAccessIssue=false

import base64
import json
import re
from urllib.parse import quote

import pytest
import urllib3
from pyVmomi import vim, vmodl

from hyperexport.simulator import DatastoreSpec, DiskSpec, Fault, FaultKind, Simulator, UserSpec, VmSpec
from tests.engine.import_client import (
    VMS,
    Target,
    devices_of,
    eventually,
    export,
    named,
    power_on,
    restore,
)
from tests.engine.simulator_client import cookie_of, find, finish, get, logged_in

MIB = 1 << 20
pytestmark = pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")


# -- the guest ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("names")
def test_a_restored_guest_sends_its_heartbeat_only_while_its_boot_sector_is_whole(sim, service, target, package):
    killed = restore(target, package, "killed")
    silent = restore(target, package, "silent")
    copy = restore(target, package, "copy")
    record = restore(target, package, "record")
    sim.vm("killed").guest_write(0, 0, bytes(512))
    sim.vm("record").guest_write(0, 0, b"\xeb\x58\x90".ljust(510, b"\0") + b"\x55\xaa")
    sim.faults.add(Fault(FaultKind.NO_HEARTBEAT, vm="silent"))
    assert {vm.guestHeartbeatStatus for vm in (killed, silent, copy, record)} == {"gray"}
    for vm in (killed, silent, copy, record):
        power_on(vm)
    for vm in (copy, record):  # they were powered on last
        eventually(lambda vm=vm: vm.guestHeartbeatStatus == "green")
        assert vm.guest.toolsRunningStatus == "guestToolsRunning"
    for vm in (killed, silent):
        assert (vm.guestHeartbeatStatus, vm.guest.toolsRunningStatus) == ("gray", "guestToolsNotRunning")


@pytest.mark.usefixtures("names")
def test_a_screenshot_is_a_png_in_the_vms_folder(sim, service, target, package):
    vm = restore(target, package, "copy")
    with pytest.raises(vim.fault.InvalidPowerState):
        finish(vm.CreateScreenshot_Task())
    power_on(vm)
    store, name = re.fullmatch(r"\[(.+)\] (.+)", finish(vm.CreateScreenshot_Task())).groups()
    status, _, body = get(sim, f"/folder/{quote(name)}?dcPath=DC0&dsName={store}", {"Cookie": cookie_of(service)})
    assert (status, body[:8]) == (200, b"\x89PNG\r\n\x1a\n")


@pytest.mark.usefixtures("names")
def test_a_reservation_that_no_host_can_keep_refuses_the_power_on(target, package):
    def edit(spec):
        spec.memoryAllocation = vim.ResourceAllocationInfo(reservation=1 << 20)

    vm = restore(target, package, "copy", edit=edit)
    with pytest.raises(vim.fault.InsufficientMemoryResourcesFault):
        power_on(vm)


# -- disks and VMs that change hands -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("names")
def test_a_disk_is_detached_without_losing_its_file_and_attached_to_another_vm(sim, service, target, package):
    temporary = restore(target, package, "temporary")
    (disk,) = devices_of(temporary, vim.vm.device.VirtualDisk)
    spec = vim.vm.device.VirtualDeviceSpec
    finish(temporary.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[spec(operation="remove", device=disk)])))
    finish(temporary.Destroy_Task())
    assert sim.detached_disks() == [disk.backing.fileName] == ["[datastore1] temporary/temporary.vmdk"]
    taker = restore(target, package, "taker")
    (controller,) = devices_of(taker, vim.vm.device.VirtualLsiLogicController)
    backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(fileName=disk.backing.fileName, diskMode="persistent")
    wanted = vim.vm.device.VirtualDisk(key=-1, controllerKey=controller.key, unitNumber=3, backing=backing)
    attach = vim.vm.ConfigSpec(deviceChange=[spec(operation="add", device=wanted)])
    finish(taker.ReconfigVM_Task(attach))
    assert [each.unitNumber for each in devices_of(taker, vim.vm.device.VirtualDisk)] == [0, 3]
    assert sim.vm("taker").read_disk(1, 0, 2 * MIB) == sim.vm("old").read_disk(0, 0, 2 * MIB)
    assert sim.detached_disks() == []
    for unit, fault in ((3, vim.fault.InvalidDeviceSpec), (4, vim.fault.FileLocked)):
        wanted.unitNumber = unit
        with pytest.raises(fault):
            finish(taker.ReconfigVM_Task(attach))
    backing.fileName = "[datastore1] nowhere/nothing.vmdk"
    with pytest.raises(vim.fault.FileNotFound):
        finish(taker.ReconfigVM_Task(attach))


def test_an_unregistered_vm_leaves_its_disks(package):
    with Simulator(()) as sim, logged_in(sim) as service:
        vm = restore(Target(service), package, "copy")
        vm.UnregisterVM()
        assert named(sim) == set()
        assert sim.detached_disks() == ["[datastore1] copy/copy.vmdk"]


@pytest.mark.usefixtures("names")
def test_a_vm_is_made_without_an_import(sim, target, package):
    config = target.spec(package.descriptor, "made").importSpec.configSpec
    config.changeTrackingEnabled = True
    vm = finish(target.folder.CreateVM_Task(config, target.pool, target.host))
    assert [each.capacityInBytes for each in devices_of(vm, vim.vm.device.VirtualDisk)] == [2 * MIB]
    assert vm.config.changeTrackingEnabled
    with pytest.raises(vim.fault.DuplicateName):
        target.folder.CreateVM_Task(config, target.pool, target.host)


# -- reconfiguring, and what OVF does not carry ------------------------------------------------------------------------


@pytest.mark.usefixtures("names")
def test_every_setting_that_ovf_loses_can_be_put_back_afterwards(target, with_nvram):
    vm = restore(target, with_nvram, "copy")
    (nic,) = devices_of(vm, vim.vm.device.VirtualEthernetCard)
    (disk,) = devices_of(vm, vim.vm.device.VirtualDisk)
    nic.macAddress, nic.addressType = "00:50:56:0a:0b:0c", "manual"
    disk.backing.diskMode = "independent_nonpersistent"
    spec = vim.vm.device.VirtualDeviceSpec
    fields = {
        "name": "renamed",
        "uuid": "4c4c4544-0043-4210-8056-b5c04f4d3233",
        "instanceUuid": "5c4c4544-0043-4210-8056-b5c04f4d3233",
        "locationId": "564d0000-0000-0000-0000-000000000000",
        "guestId": "debian12_64Guest",
        "numCPUs": 4,
        "numCoresPerSocket": 2,
        "memoryMB": 2048,
        "cpuHotAddEnabled": True,
        "memoryHotAddEnabled": True,
        "nestedHVEnabled": True,
        "vPMCEnabled": True,
        "swapPlacement": "hostLocal",
        "memoryReservationLockedToMax": True,
        "latencySensitivity": vim.LatencySensitivity(level="high"),
        "cpuAllocation": vim.ResourceAllocationInfo(reservation=100, limit=2000),
        "managedBy": vim.ext.ManagedByInfo(extensionKey="com.example", type="vm"),
        "bootOptions": vim.vm.BootOptions(efiSecureBootEnabled=True, bootRetryEnabled=True, networkBootProtocol="ipv4"),
        "extraConfig": [vim.option.OptionValue(key="answer", value="42")],
        "deviceChange": [spec(operation="edit", device=nic), spec(operation="edit", device=disk)],
    }
    finish(vm.ReconfigVM_Task(vim.vm.ConfigSpec(**fields)))
    config = vm.config
    for name in ("uuid", "instanceUuid", "locationId", "guestId", "cpuHotAddEnabled", "swapPlacement", "vPMCEnabled"):
        assert getattr(config, name) == fields[name]
    assert (vm.name, config.hardware.numCPU, config.hardware.numCoresPerSocket) == ("renamed", 4, 2)
    assert (config.cpuAllocation.reservation, config.managedBy.extensionKey) == (100, "com.example")
    assert (config.bootOptions.efiSecureBootEnabled, config.bootOptions.bootDelay) == (True, 0)
    assert "answer" in {each.key for each in config.extraConfig}
    assert devices_of(vm, vim.vm.device.VirtualEthernetCard)[0].macAddress == "00:50:56:0a:0b:0c"
    assert devices_of(vm, vim.vm.device.VirtualDisk)[0].backing.diskMode == "independent_nonpersistent"


@pytest.mark.usefixtures("names")
def test_a_change_that_is_refused_changes_nothing(sim, target, with_nvram):
    vm = restore(target, with_nvram, "copy")
    made = vim.vm.device.VirtualDisk(
        key=-1, capacityInKB=1024, backing=vim.vm.device.VirtualDisk.FlatVer2BackingInfo(fileName="")
    )
    spec = vim.vm.device.VirtualDeviceSpec
    for wrong in (
        {"bootOptions": vim.vm.BootOptions(bootOrder=[vim.vm.BootOptions.BootableDiskDevice(deviceKey=77)])},
        {"firmware": "bios", "bootOptions": vim.vm.BootOptions(efiSecureBootEnabled=True)},
        {"name": "old"},
    ):
        before = vm.config.changeVersion
        change = [spec(operation="add", fileOperation="create", device=made)]
        with pytest.raises(vmodl.MethodFault):
            finish(vm.ReconfigVM_Task(vim.vm.ConfigSpec(numCPUs=8, deviceChange=change, **wrong)))
        assert (vm.config.changeVersion, vm.config.hardware.numCPU, vm.name) == (before, 2, "copy")
        assert len(devices_of(vm, vim.vm.device.VirtualDisk)) == 1


CHANGES = {
    "VirtualMachine.Config.Rename": {"name": "renamed"},
    "VirtualMachine.Config.Settings": {"uuid": "4c4c4544-0043-4210-8056-b5c04f4d3233"},
    "VirtualMachine.Config.AdvancedConfig": {"extraConfig": [vim.option.OptionValue(key="answer", value="42")]},
    "VirtualMachine.Config.Resource": {"cpuAllocation": vim.ResourceAllocationInfo(reservation=100)},
    "VirtualMachine.Config.CPUCount": {"numCPUs": 3},
    "VirtualMachine.Config.Annotation": {"annotation": "x"},
}


@pytest.mark.parametrize("privilege", CHANGES)
def test_each_changed_setting_needs_its_privilege_and_no_other(privilege):
    users = (
        UserSpec("with", "secret", privileges=frozenset({privilege})),
        UserSpec("without", "secret", privileges=frozenset(CHANGES.keys() - {privilege})),
    )
    with Simulator(VMS, users=users) as sim:
        with logged_in(sim, "without", "secret") as service, pytest.raises(vim.fault.NoPermission) as refused:
            finish(find(service, "old").ReconfigVM_Task(vim.vm.ConfigSpec(**CHANGES[privilege])))
        assert refused.value.privilegeId == privilege
        with logged_in(sim, "with", "secret") as service:
            finish(find(service, "old").ReconfigVM_Task(vim.vm.ConfigSpec(**CHANGES[privilege])))


def test_custom_attributes_are_read_defined_and_set():
    vms = (VmSpec("one", custom_attributes=(("owner", "ada"), ("cost centre", "7"))), VmSpec("two"))
    with Simulator(vms) as sim, logged_in(sim) as service:
        one, two = find(service, "one"), find(service, "two")
        fields = service.content.customFieldsManager
        names = {each.key: each.name for each in one.availableField}
        assert {names[each.key]: each.value for each in one.customValue} == {"owner": "ada", "cost centre": "7"}
        two.setCustomValue("owner", "grace")
        made = fields.AddFieldDefinition("tier", vim.VirtualMachine, None, None)
        fields.SetField(two, made.key, "gold")
        assert sim.vm("two").custom_attributes() == {"owner": "grace", "tier": "gold"}
        with pytest.raises(vmodl.fault.InvalidArgument):
            two.setCustomValue("unknown", "x")
        with pytest.raises(vim.fault.DuplicateName):
            fields.AddFieldDefinition("tier", vim.VirtualMachine, None, None)


def test_a_tag_is_attached_to_a_vm_and_detached_over_rest():
    with Simulator((VmSpec("one", tags=("env:prod",)), VmSpec("two"))) as sim:
        login = {"Authorization": "Basic " + base64.b64encode(f"{sim.username}:{sim.password}".encode()).decode()}
        with urllib3.PoolManager(ca_certs=str(sim.ca_file), retries=False, timeout=20) as pool:

            def call(place, document=None, headers=None):
                url = f"https://{sim.host}:{sim.port}/api/{place}"
                answer = pool.request("POST", url, body=json.dumps(document), headers=headers)
                return answer.status, json.loads(answer.data or b"null")

            token = {"vmware-api-session-id": call("session", headers=login)[1]}
            asked = {"object_id": {"id": sim.vm("one").moref, "type": "VirtualMachine"}}
            other = {"object_id": {"id": sim.vm("two").moref, "type": "VirtualMachine"}}
            listed = "cis/tagging/tag-association?action=list-attached-tags"
            (tag,) = call(listed, asked, token)[1]
            assert call(f"cis/tagging/tag-association/{tag}?action=attach", other, token) == (204, None)
            assert call(listed, other, token) == (200, [tag])
            assert call(f"cis/tagging/tag-association/{tag}?action=detach", asked, token) == (204, None)
            assert call(listed, asked, token) == (200, [])
            assert call("cis/tagging/tag-association/unknown?action=attach", other, token)[0] == 404


def test_a_vm_of_a_spec_has_the_settings_of_the_spec():
    spec = VmSpec(
        "all",
        powered_on=False,
        disks=(DiskSpec(MIB), DiskSpec(MIB, thin=False, eager=True, sharing="sharingMultiWriter")),
        datastore="fast",
        pool="drills",
        networks=("front", "back"),
        macs=("00:50:56:00:00:01",),
        secure_boot=True,
        boot_order=(1, "nic1", "cdrom"),
        boot_delay=5,
        annotation="notes",
        extra_config=(("key", "value"),),
        cpu_reservation=200,
        memory_reservation=300,
        cores_per_socket=2,
    )
    stores = (DatastoreSpec("slow"), DatastoreSpec("fast"))
    places = {"datastores": stores, "networks": ("back", "front"), "pools": ("drills",)}
    with Simulator((spec,), **places) as sim, logged_in(sim) as service:
        vm = find(service, "all")
        config = vm.config
        assert config.files.vmPathName == "[fast] all/all.vmx"
        nics = devices_of(vm, vim.vm.device.VirtualEthernetCard)
        assert [each.backing.deviceName for each in nics] == ["front", "back"]
        assert (nics[0].macAddress, nics[0].addressType, nics[1].addressType) == (
            "00:50:56:00:00:01",
            "manual",
            "assigned",
        )
        order = config.bootOptions.bootOrder
        assert [getattr(each, "deviceKey", None) for each in order] == [2001, nics[1].key, None]
        assert (config.bootOptions.efiSecureBootEnabled, config.bootOptions.bootDelay) == (True, 5)
        assert (config.annotation, config.hardware.numCoresPerSocket) == ("notes", 2)
        assert (config.cpuAllocation.reservation, config.memoryAllocation.reservation) == (200, 300)
        disk = devices_of(vm, vim.vm.device.VirtualDisk)[1].backing
        assert (disk.eagerlyScrub, disk.thinProvisioned, disk.sharing) == (True, False, "sharingMultiWriter")
        package = export(service, "all")
        assert [name for name in ("front", "back") if f"<rasd:Connection>{name}<" in package.descriptor]
