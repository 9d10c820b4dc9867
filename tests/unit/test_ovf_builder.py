"""The descriptor that is built here for servers that make none."""

from xml.etree import ElementTree as ET

from pyVmomi import vim

from hyperexport.vsphere.ovf_builder import OvfFileSpec, build_descriptor

OVF = "{http://schemas.dmtf.org/ovf/envelope/1}"
RASD = "{http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData}"

device = vim.vm.device


def labelled(label):
    return vim.Description(label=label, summary="")


def config(*extra):
    devices = [
        device.ParaVirtualSCSIController(key=1000, busNumber=0, sharedBus="noSharing", deviceInfo=labelled("SCSI 0")),
        device.VirtualDisk(key=2000, controllerKey=1000, unitNumber=0, capacityInKB=1, deviceInfo=labelled("Disk 1")),
        device.VirtualDisk(key=2001, controllerKey=1000, unitNumber=1, capacityInKB=1, deviceInfo=labelled("Disk 2")),
        device.VirtualVmxnet3(
            key=4000,
            unitNumber=7,
            deviceInfo=labelled("NIC 1"),
            backing=device.VirtualEthernetCard.DistributedVirtualPortBackingInfo(
                port=vim.dvs.PortConnection(switchUuid="s", portgroupKey="dvportgroup-9")
            ),
        ),
        *extra,
    ]
    return vim.vm.ConfigInfo(
        version="vmx-19",
        guestId="ubuntu64Guest",
        guestFullName="Ubuntu",
        firmware="efi",
        hardware=vim.vm.VirtualHardware(numCPU=4, memoryMB=2048, device=devices),
    )


FILES = [
    OvfFileSpec(device_key="a", name="db-disk-0.vmdk", size=777, capacity=1 << 30, populated=4096, disk_key=2000),
    OvfFileSpec(device_key="n", name="db.nvram", size=99),
]


def build(name="db", files=FILES):
    return ET.fromstring(build_descriptor(name, config(), files, networks={"dvportgroup-9": "Prod & Test"}))


def items(root, resource_type):
    return [item for item in root.iter(f"{OVF}Item") if item.findtext(f"{RASD}ResourceType") == str(resource_type)]


def test_files_bear_the_sizes_that_were_received_and_disks_refer_to_them():
    root = build()
    files = {file.get(f"{OVF}id"): file for file in root.iter(f"{OVF}File")}
    (disk,) = root.iter(f"{OVF}Disk")
    assert {file.get(f"{OVF}href"): file.get(f"{OVF}size") for file in files.values()} == {
        "db-disk-0.vmdk": "777",
        "db.nvram": "99",
    }
    assert files[disk.get(f"{OVF}fileRef")].get(f"{OVF}href") == "db-disk-0.vmdk"
    assert disk.get(f"{OVF}capacity") == str(1 << 30)
    assert disk.get(f"{OVF}capacityAllocationUnits") == "byte"
    assert disk.get(f"{OVF}populatedSize") == "4096"


def test_a_disk_hangs_on_its_controller_and_a_skipped_one_is_not_there():
    root = build()
    (controller,), (disk,) = items(root, 6), items(root, 17)
    assert disk.findtext(f"{RASD}Parent") == controller.findtext(f"{RASD}InstanceID")
    assert disk.findtext(f"{RASD}HostResource") == "ovf:/disk/vmdisk2000"
    assert controller.findtext(f"{RASD}ResourceSubType") == "VirtualSCSI"


def test_cpu_memory_and_network_are_those_of_the_vm():
    root = build()
    assert items(root, 3)[0].findtext(f"{RASD}VirtualQuantity") == "4"
    assert items(root, 4)[0].findtext(f"{RASD}VirtualQuantity") == "2048"
    assert items(root, 10)[0].findtext(f"{RASD}Connection") == "Prod & Test"
    assert [network.get(f"{OVF}name") for network in root.iter(f"{OVF}Network")] == ["Prod & Test"]


def test_names_that_are_hostile_to_xml_come_out_as_they_went_in():
    root = build(name='<db> & "co" ]]>')
    assert root.findtext(f"{OVF}VirtualSystem/{OVF}Name") == '<db> & "co" ]]>'


def test_a_control_character_in_a_name_does_not_break_the_document():
    assert build(name="db\x00\x1b01").findtext(f"{OVF}VirtualSystem/{OVF}Name") == "db01"


def test_the_fields_of_every_item_are_in_the_order_that_the_schema_wants():
    for item in build().iter(f"{OVF}Item"):
        names = [field.tag for field in item]
        assert names == sorted(names)


def test_instance_numbers_are_unique():
    numbers = [item.findtext(f"{RASD}InstanceID") for item in build().iter(f"{OVF}Item")]
    assert len(numbers) == len(set(numbers)) == 5
