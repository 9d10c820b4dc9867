"""Imports into the simulator with pyVmomi and urllib3 as the client: import specs, leases, the half-made VM."""

# pyVmomi's stubs give a device's backing as its base class, which lacks most of the attributes.
# pyright: reportAttributeAccessIssue=false

import re
import time

import pytest
from pyVmomi import vim, vmodl

from hyperexport.simulator import Fault, FaultKind, Simulator, UserSpec
from tests.engine.import_client import (
    VMS,
    Target,
    child,
    devices_of,
    eventually,
    export,
    named,
    restore,
    same_disks,
    send,
)
from tests.engine.simulator_client import find, finish, logged_in

MIB = 1 << 20
pytestmark = pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")


# -- what comes back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [spec.name for spec in VMS])
@pytest.mark.usefixtures("names")
def test_an_imported_vm_has_the_bytes_and_the_hardware_of_the_exported_one(sim, service, target, name):
    vm = restore(target, export(service, name), "copy")
    source = find(service, name)
    assert same_disks(sim, name, "copy")
    assert sim.vm("copy").nvram == sim.vm(name).nvram
    shapes = [
        [(type(each), each.key, each.controllerKey, each.unitNumber) for each in one.config.hardware.device]
        for one in (source, vm)
    ]
    assert sorted(shapes[0], key=lambda each: each[1]) == sorted(shapes[1], key=lambda each: each[1])
    for field in ("firmware", "guestId", "guestFullName", "version"):
        assert getattr(vm.config, field) == getattr(source.config, field)
    assert (vm.config.hardware.memoryMB, vm.config.hardware.numCPU) == (4096, 2)


@pytest.mark.usefixtures("names")
def test_what_the_guest_wrote_before_the_export_is_read_back_after_the_import(sim, service, target):
    sim.vm("src").guest_write(0, 5 * MIB - 7, b"written by the guest" * 5000)
    restore(target, export(service, "src"), "copy")
    assert same_disks(sim, "src", "copy")


@pytest.mark.usefixtures("names")
def test_what_the_client_edits_in_the_spec_is_there_from_the_first_moment(target, with_nvram):
    wanted = {"uuid": "4c4c4544-0043-4210-8056-b5c04f4d3232", "instanceUuid": "5c4c4544-0043-4210-8056-b5c04f4d3232"}

    def edit(spec):
        for key, value in wanted.items():
            setattr(spec, key, value)
        spec.annotation = "restored"
        spec.changeTrackingEnabled = True
        spec.extraConfig.append(vim.option.OptionValue(key="disk.EnableUUID", value="TRUE"))
        spec.memoryAllocation = vim.ResourceAllocationInfo(reservation=512)
        disk = next(each.device for each in spec.deviceChange if isinstance(each.device, vim.vm.device.VirtualDisk))
        disk.backing.diskMode = "independent_persistent"
        nic = next(
            each.device for each in spec.deviceChange if isinstance(each.device, vim.vm.device.VirtualEthernetCard)
        )
        nic.addressType, nic.macAddress = "manual", "00:50:56:01:02:03"
        nic.connectable.startConnected = False
        order = [
            vim.vm.BootOptions.BootableEthernetDevice(deviceKey=nic.key),
            vim.vm.BootOptions.BootableDiskDevice(deviceKey=disk.key),
        ]
        spec.bootOptions = vim.vm.BootOptions(efiSecureBootEnabled=True, bootDelay=3000, bootOrder=order)

    config = restore(target, with_nvram, "copy", edit=edit).config
    assert {key: getattr(config, key) for key in wanted} == wanted
    assert (config.annotation, config.changeTrackingEnabled) == ("restored", True)
    assert config.memoryAllocation.reservation == 512
    assert {"disk.EnableUUID": "TRUE", "nvram": "copy.nvram"}.items() <= {
        o.key: o.value for o in config.extraConfig
    }.items()
    disk, nic = (
        next(each for each in config.hardware.device if isinstance(each, kind))
        for kind in (vim.vm.device.VirtualDisk, vim.vm.device.VirtualEthernetCard)
    )
    assert disk.backing.diskMode == "independent_persistent"
    assert (nic.addressType, nic.macAddress, nic.connectable.startConnected) == ("manual", "00:50:56:01:02:03", False)
    boot = config.bootOptions
    assert (boot.efiSecureBootEnabled, boot.bootDelay) == (True, 3000)
    assert [each.deviceKey for each in boot.bootOrder] == [nic.key, disk.key]


@pytest.mark.usefixtures("names")
def test_without_an_edit_the_addresses_and_identities_are_new(service, target, package):
    vm, source = restore(target, package, "copy"), find(service, "old")
    assert vm.config.uuid != source.config.uuid
    assert vm.config.instanceUuid != source.config.instanceUuid
    macs = [devices_of(each, vim.vm.device.VirtualEthernetCard)[0].macAddress for each in (vm, source)]
    assert macs[0] != macs[1]
    assert not vm.config.changeTrackingEnabled


@pytest.mark.usefixtures("names")
def test_an_instance_uuid_that_another_vm_has_is_reassigned_and_other_conflicts_are_let_in(
    sim, service, target, package
):
    source = find(service, "old").config
    (nic,) = devices_of(find(service, "old"), vim.vm.device.VirtualEthernetCard)

    def edit(spec):
        spec.uuid, spec.instanceUuid = source.uuid, source.instanceUuid
        mine = next(each.device for each in spec.deviceChange if hasattr(each.device, "macAddress"))
        mine.addressType, mine.macAddress = "manual", nic.macAddress

    vm = restore(target, package, "copy", edit=edit)
    assert vm.config.uuid == source.uuid
    assert vm.config.instanceUuid != source.instanceUuid
    assert sim.vm("copy").conflicts() == {"uuid": ["old"], nic.macAddress: ["old"]}


@pytest.mark.usefixtures("names")
def test_an_address_that_is_not_set_by_hand_is_the_servers_to_choose(target, package):
    def edit(spec):
        mine = next(each.device for each in spec.deviceChange if hasattr(each.device, "macAddress"))
        mine.addressType, mine.macAddress = "assigned", "00:50:56:01:02:04"

    (nic,) = devices_of(restore(target, package, "copy", edit=edit), vim.vm.device.VirtualEthernetCard)
    assert nic.macAddress != "00:50:56:01:02:04"


@pytest.mark.usefixtures("names")
def test_a_vm_is_put_where_the_client_wants_it(sim, service, target, package):
    target.folder = child(child(target.folder, "restored"), "linux")
    target.pool = target.pool.resourcePool[0]
    isolated = child(target.datacenter.networkFolder, "Isolated")
    mapping = [vim.OvfManager.NetworkMapping(name="VM Network", network=isolated)]
    vm = restore(target, package, "copy", networkMapping=mapping, diskProvisioning="thick")
    assert sim.vm("copy").path == "/DC0/vm/restored/linux/copy"
    assert (vm.resourcePool.name, [each.name for each in vm.network]) == ("drills", ["Isolated"])
    assert [each.name for each in isolated.vm] == ["copy"]
    (disk,) = devices_of(vm, vim.vm.device.VirtualDisk)
    assert disk.backing.thinProvisioned is False


# -- the half-made VM --------------------------------------------------------------------------------------------------


def test_the_vm_is_in_the_inventory_before_anything_arrived_and_cannot_be_used(service, begun):
    vm = find(service, "copy")
    assert begun[0].info.entity == vm
    for task in (vm.PowerOnVM_Task, vm.Destroy_Task):
        with pytest.raises(vim.fault.TaskInProgress):
            finish(task())


def test_an_aborted_import_leaves_no_vm_and_no_file(sim, begun, package):
    lease, item = begun
    assert send(lease, item, package) == 200
    lease.Abort()
    assert "copy" not in named(sim)
    assert sim.detached_disks() == []


def test_a_lease_is_not_completed_before_its_files_have_arrived(sim, begun):
    with pytest.raises(vim.fault.InvalidState, match=re.escape("/copy/VirtualLsiLogicController0:0")):
        begun[0].Complete()
    assert "copy" in named(sim)


def test_a_session_that_ends_takes_its_half_made_vm_along(sim, begun):
    sim.faults.add(Fault(FaultKind.SESSION_EXPIRED))
    assert "copy" not in named(sim)


def test_progress_keeps_an_import_alive_and_silence_removes_the_vm(package):
    with Simulator((), lease_timeout=1.0) as sim, logged_in(sim) as service:
        target = Target(service)
        lease = target.begin(target.spec(package.descriptor, "copy"))
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            lease.Progress(1)
        assert named(sim) == {"copy"}
        eventually(lambda: not named(sim))
        assert isinstance(lease.error, vim.fault.Timedout)


def test_a_name_that_is_taken_in_the_folder_is_refused(target, package):
    result = target.spec(package.descriptor, "SAS")
    with pytest.raises(vim.fault.DuplicateName) as refused:
        target.begin(result)
    assert refused.value.name == "SAS"


def test_an_import_that_names_no_host_needs_drs(package):
    for drs in (False, True):
        with Simulator((), drs=drs) as sim, logged_in(sim) as service:
            target = Target(service)
            target.host = None
            if drs:
                restore(target, package, "copy")
                continue
            with pytest.raises(vmodl.fault.InvalidArgument) as refused:
                target.begin(target.spec(package.descriptor, "copy"))
            assert refused.value.invalidProperty == "host"


def test_an_import_into_a_pool_needs_a_folder(target, package):
    result = target.spec(package.descriptor, "copy")
    with pytest.raises(vmodl.fault.InvalidArgument) as refused:
        target.pool.ImportVApp(result.importSpec, None, target.host)
    assert refused.value.invalidProperty == "folder"


IMPORT = {"VApp.Import", "Datastore.AllocateSpace", "Network.Assign"}


@pytest.mark.parametrize("lacking", [None, *sorted(IMPORT)])
def test_an_import_needs_these_privileges_and_no_other(package, lacking):
    user = UserSpec("restorer", "secret", privileges=frozenset(IMPORT - {lacking}))
    with Simulator((), users=(user,)) as sim, logged_in(sim, "restorer", "secret") as service:
        target = Target(service)
        network = child(target.datacenter.networkFolder, "VM Network")
        mapping = [vim.OvfManager.NetworkMapping(name="VM Network", network=network)]
        if lacking is None:
            restore(target, package, "copy", networkMapping=mapping)
            return
        with pytest.raises(vim.fault.NoPermission) as refused:
            restore(target, package, "copy", networkMapping=mapping)
        assert refused.value.privilegeId == lacking
        assert named(sim) == set()


# -- descriptors that are not as they should be ------------------------------------------------------------------------


def changed(package, old, new):
    assert old in package.descriptor
    return package.descriptor.replace(old, new)


def test_a_malformed_descriptor_is_an_error_in_the_result(target):
    (error,) = target.spec("<Envelope>", "copy").error
    assert isinstance(error, vim.fault.OvfXmlFormat)
    (error,) = target.spec("<Envelope/>", "copy").error
    assert isinstance(error, vim.fault.OvfUnexpectedElement)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("ovf:/disk/vmdisk1", "ovf:/disk/vmdisk9", vim.fault.OvfInvalidValueReference),
        ('ovf:fileRef="file1"', 'ovf:fileRef="file9"', vim.fault.OvfInvalidValueReference),
        ("<rasd:ResourceSubType>lsilogic<", "<rasd:ResourceSubType>antique<", vim.fault.OvfUnsupportedSubType),
        ("<rasd:ResourceType>15<", "<rasd:ResourceType>21<", vim.fault.OvfUnsupportedType),
        ("<rasd:ResourceType>3<", "<rasd:ResourceType>x<", vim.fault.OvfInvalidValueFormatMalformed),
        ("byte * 2^20", "bushels", vim.fault.OvfInvalidValueFormatMalformed),
        ('ovf:id="94" ', "", vim.fault.OvfMissingAttribute),
        ("ovf:VirtualHardwareSection", "ovf:EulaSection", vim.fault.OvfMissingElement),
        ("vmx-19", "vmx-99", vim.fault.OvfNoSupportedHardwareFamily),
        ("vmx-19", "xen-3", vim.fault.OvfNoSupportedHardwareFamily),
        ("<rasd:ResourceSubType>VmXnet3<", "<rasd:ResourceSubType>token-ring<", vim.fault.OvfUnsupportedSubType),
        (
            'ovf:required="false" vmw:key="firmware"',
            'ovf:required="true" vmw:key="flags.vbsEnabled"',
            vim.fault.OvfUnsupportedElementValue,
        ),
    ],
)
def test_what_a_descriptor_has_wrong_is_an_error_of_vspheres_type(target, package, old, new, fault):
    result = target.spec(changed(package, old, new), "copy")
    assert [type(each) for each in result.error] == [fault]
    assert result.importSpec is None
    assert result.fileItem == []


def test_hardware_that_is_not_required_is_a_warning(target, package):
    item = package.descriptor.index("<ovf:Item>", package.descriptor.index("IDE Controller"))
    text = package.descriptor[:item] + '<ovf:Item ovf:required="false">' + package.descriptor[item + 10 :]
    result = target.spec(text.replace("<rasd:ResourceType>15<", "<rasd:ResourceType>21<"), "copy")
    assert [type(each) for each in result.warning] == [vim.fault.OvfUnsupportedType]
    assert not result.error
    assert result.importSpec


def test_a_network_that_is_not_mapped_is_chosen_by_the_server(target, package):
    result = target.spec(changed(package, "VM Network", "gone"), "copy")
    nic = next(each.device for each in result.importSpec.configSpec.deviceChange if hasattr(each.device, "macAddress"))
    assert (nic.backing.deviceName, result.warning, result.error) == ("VM Network", [], [])


def test_hosted_disk_formats_end_at_the_import(sim, target, package):
    result = target.spec(package.descriptor, "copy", diskProvisioning="monolithicSparse")
    with pytest.raises(vim.fault.DeviceUnsupportedForVmPlatform):
        target.begin(result)
    (error,) = target.spec(package.descriptor, "copy", diskProvisioning="fat").error
    assert isinstance(error, vim.fault.OvfUnsupportedDiskProvisioning)
    assert "copy" not in named(sim)
