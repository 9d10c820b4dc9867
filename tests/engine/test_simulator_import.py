"""Imports into the simulator with pyVmomi and urllib3 as the client: import specs, leases, uploads, and guests."""

# pyVmomi's stubs give a device's backing as its base class, which lacks most of the attributes.
# pyright: reportAttributeAccessIssue=false

import base64
import hashlib
import http.client
import json
import re
import ssl
import time
from urllib.parse import quote, urlsplit

import pytest
import urllib3
from pyVmomi import vim, vmodl

from hyperexport.simulator import DatastoreSpec, DiskSpec, Fault, FaultKind, Simulator, UserSpec, VmSpec
from tests.engine.import_client import (
    Target,
    child,
    export,
    power_on,
    restore,
    same_disks,
    send,
    upload,
    url_of,
)
from tests.engine.simulator_client import cookie_of, find, finish, get, logged_in

MIB = 1 << 20
pytestmark = pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")

VMS = (
    VmSpec(
        "src",
        powered_on=False,
        disks=(DiskSpec(16 * MIB), DiskSpec(4 * MIB + 512, controller="sata"), DiskSpec(2 * MIB, controller="nvme")),
    ),
    VmSpec("old", powered_on=False, firmware="bios", nvram=False, disks=(DiskSpec(2 * MIB, controller="lsilogic"),)),
    VmSpec("sas", powered_on=False, adapter="e1000e", disks=(DiskSpec(2 * MIB, controller="lsisas"),)),
    VmSpec("ide", powered_on=False, adapter="e1000", disks=(DiskSpec(2 * MIB, controller="ide"),)),
)


@pytest.fixture(scope="module")
def shared():
    with Simulator(
        VMS,
        datastores=(DatastoreSpec("datastore1"), DatastoreSpec("tiny", 3 * MIB)),
        networks=("VM Network", "Isolated"),
        pools=("drills",),
        folders=("restored/linux",),
        boot_seconds=0.0,
    ) as simulator:
        yield simulator


@pytest.fixture
def sim(shared):
    yield shared
    shared.faults.clear()
    assert shared.leases() == []


@pytest.fixture
def service(sim):
    with logged_in(sim) as service:
        yield service


@pytest.fixture
def target(service):
    return Target(service)


@pytest.fixture(scope="module")
def package(shared):
    with logged_in(shared) as service:
        return export(service, "old")


@pytest.fixture(scope="module")
def with_nvram(shared):
    with logged_in(shared) as service:
        return export(service, "sas")


@pytest.fixture
def names(sim):
    """The VMs that a test makes are gone after it."""
    yield
    with logged_in(sim) as service:
        for vm in sim.vms():
            if vm.name not in {spec.name for spec in VMS}:
                found = find(service, vm.name)
                if found.runtime.powerState == "poweredOn":
                    finish(found.PowerOffVM_Task())
                finish(found.Destroy_Task())
        assert sim.detached_disks() == []


@pytest.fixture
def begun(sim, target, package):
    """An import of ``copy`` that waits for its only file: the lease and the file's item."""
    result = target.spec(package.descriptor, "copy")
    lease = target.begin(result)
    yield lease, result.fileItem[0]
    if any(each.moid == lease._moId for each in sim.leases()):
        lease.Abort()


def eventually(holds):
    deadline = time.monotonic() + 90
    while not holds():
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.01)


def named(sim):
    return {vm.name for vm in sim.vms()}


def devices_of(vm, kind):
    return [each for each in vm.config.hardware.device if isinstance(each, kind)]


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


# -- uploads -----------------------------------------------------------------------------------------------------------


def test_each_file_has_its_verb_and_any_other_gets_405(sim, target, with_nvram):
    result = target.spec(with_nvram.descriptor, "copy")
    lease = target.begin(result)
    disk, nvram = result.fileItem
    assert (disk.create, nvram.create) == (False, True)
    for item, verb in ((disk, "PUT"), (nvram, "POST"), (disk, "GET"), (nvram, "GET")):
        assert upload(url_of(lease, item).url, with_nvram.files[item.path], verb=verb) == 405
    assert [send(lease, item, with_nvram) for item in result.fileItem] == [200, 201]
    lease.Complete()
    finish(lease_entity(sim, target).Destroy_Task())


def lease_entity(sim, target):
    assert "copy" in named(sim)
    return find(target.service, "copy")


def test_a_file_that_is_not_a_disk_needs_the_overwrite_header(target, with_nvram):
    result = target.spec(with_nvram.descriptor, "copy")
    lease = target.begin(result)
    nvram = result.fileItem[1]
    assert upload(url_of(lease, nvram).url, b"x", verb="PUT", headers={}) == 412
    lease.Abort()


def test_nothing_is_uploaded_to_an_export(service):
    lease = find(service, "old").ExportVm()
    eventually(lambda: lease.state == "ready")
    assert upload(lease.info.deviceUrl[0].url, b"x" * 1000, verb="POST") == 405
    lease.Abort()


def test_an_upload_without_its_length_is_refused(begun):
    lease, item = begun
    parts = urlsplit(url_of(lease, item).url)
    connection = http.client.HTTPSConnection(
        parts.hostname, parts.port, context=ssl._create_unverified_context(), timeout=20
    )
    connection.request("POST", parts.path, body=iter([b"some", b"chunks"]), encode_chunked=True)
    assert connection.getresponse().status == 411
    connection.close()


@pytest.mark.usefixtures("names")
def test_a_damaged_disk_is_refused_and_may_be_sent_again(sim, begun, package):
    lease, item = begun
    whole = package.files[item.path]
    url = url_of(lease, item).url
    grain = whole.index(b"\x78\x01", 64 * 1024)
    damaged = whole[: grain + 600] + bytes([whole[grain + 600] ^ 0xFF]) + whole[grain + 601 :]
    for body in (whole[:-512], whole[: len(whole) // 2], damaged, b"not a disk" * 1000, whole + b"\0" * 512, b""):
        assert upload(url, body, verb="POST") == 500
        assert lease.GetManifest() == []
    with pytest.raises(vim.fault.InvalidState):
        lease.Complete()
    assert send(lease, item, package) == 200
    lease.Complete()
    assert same_disks(sim, "old", "copy")


def test_a_disk_of_another_capacity_is_refused(begun, with_nvram, service):
    lease, item = begun
    other = export(service, "src").files["disk-0.vmdk"]
    assert upload(url_of(lease, item).url, other, verb="POST") == 500


@pytest.mark.usefixtures("names")
def test_the_manifest_has_the_checksums_of_what_arrived(sim, target, with_nvram):
    result = target.spec(with_nvram.descriptor, "copy")
    lease = target.begin(result)
    keys = {item.path: url_of(lease, item).key for item in result.fileItem}
    lease.SetManifestChecksumType([vim.KeyValue(key=keys["disk-0.vmdk"], value="sha256")])
    sim.faults.add(Fault(FaultKind.MANIFEST_WRONG, vm="copy", disk=0))
    for item in result.fileItem:
        send(lease, item, with_nvram)
    wrong, right = lease.GetManifest(), lease.GetManifest()
    for path, body in with_nvram.files.items():
        entry = next(each for each in right if each.key == keys[path])
        assert (entry.size, entry.sha1) == (len(body), hashlib.sha1(body, usedforsecurity=False).hexdigest())
        assert entry.disk == path.endswith(".vmdk")
    disk = {each.key: each for each in right}[keys["disk-0.vmdk"]]
    assert (disk.checksumType, disk.checksum) == ("sha256", hashlib.sha256(with_nvram.files["disk-0.vmdk"]).hexdigest())
    assert {each.key: each for each in wrong}[disk.key].checksum != disk.checksum
    lease.Complete()


def test_an_upload_is_cut_on_demand_and_does_not_count(sim, begun, package):
    lease, item = begun
    sim.faults.add(Fault(FaultKind.UPLOAD_CUT, vm="copy", disk=0, at_byte=100_000))
    with pytest.raises(urllib3.exceptions.HTTPError):
        send(lease, item, package)
    assert lease.GetManifest() == []
    assert send(lease, item, package) == 200


def test_an_upload_answers_a_status_on_demand(sim, begun, package):
    sim.faults.add(Fault(FaultKind.HTTP_STATUS, vm="copy", status=503))
    lease, item = begun
    assert send(lease, item, package) == 503
    assert send(lease, item, package) == 200


def test_a_lease_that_ends_in_an_error_takes_the_vm_along(sim, target, package):
    sim.faults.add(Fault(FaultKind.LEASE_ERROR, vm="copy"))
    with pytest.raises(vim.fault.FileFault):
        target.begin(target.spec(package.descriptor, "copy"))
    assert "copy" not in named(sim)


def test_a_datastore_that_fills_up_fails_the_upload_and_the_lease(sim, begun, package):
    lease, item = begun
    sim.faults.add(Fault(FaultKind.DATASTORE_FULL, vm="copy", at_byte=50_000))
    assert send(lease, item, package) == 500
    assert isinstance(lease.error, vim.fault.NoDiskSpace)
    assert "copy" not in named(sim)


@pytest.mark.parametrize("provisioning", ["thin", "thick"])
def test_a_disk_that_does_not_fit_fails_without_a_fault_on_demand(sim, service, provisioning):
    sim.vm("src").guest_write(0, 8 * MIB, bytes(range(1, 256)) * 16384)
    package = export(service, "src")
    target = Target(service, datastore="tiny")
    result = target.spec(package.descriptor, "copy", diskProvisioning=provisioning)
    if provisioning == "thick":
        with pytest.raises(vim.fault.NoDiskSpace):
            target.begin(result)
    else:
        lease = target.begin(result)
        assert send(lease, result.fileItem[0], package) == 500
        assert isinstance(lease.error, vim.fault.NoDiskSpace)
    assert "copy" not in named(sim)
    assert target.store.summary.freeSpace == 3 * MIB


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
