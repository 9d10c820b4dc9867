"""Which disks of a VM can be exported, and what is said of those that cannot."""

import pytest
from pyVmomi import vim

from hyperexport.vsphere.devices import disks
from hyperexport.vsphere.names import escape, unescape

BACKINGS = vim.vm.device.VirtualDisk


def machine(backing, *, shared_bus="noSharing"):
    controller = vim.vm.device.ParaVirtualSCSIController(key=1000, busNumber=0, sharedBus=shared_bus)
    disk = vim.vm.device.VirtualDisk(
        key=2000,
        controllerKey=1000,
        unitNumber=3,
        capacityInKB=1024,
        capacityInBytes=1 << 20,
        deviceInfo=vim.Description(label="Hard disk 1", summary=""),
        backing=backing,
    )
    return [controller, disk]


def flat(**fields):
    return BACKINGS.FlatVer2BackingInfo(**{"fileName": "[ds] a/a.vmdk", "diskMode": "persistent", **fields})


def test_a_plain_disk_is_read_whole():
    (disk,) = disks(machine(flat(uuid="u", contentId="c", changeId="x/1")), used={2000: 512})
    assert disk.model_dump() == {
        "key": 2000,
        "label": "Hard disk 1",
        "capacity": 1 << 20,
        "used": 512,
        "thin": None,
        "controller": "ParaVirtualSCSIController0",
        "unit": 3,
        "backing": "FlatVer2",
        "file": "[ds] a/a.vmdk",
        "mode": "persistent",
        "backing_uuid": "u",
        "content_id": "c",
        "change_id": "x/1",
        "unexportable": None,
        "unsnapshottable": None,
        "shared": False,
        "backing_files": (),
    }


@pytest.mark.parametrize(
    ("devices", "reason"),
    [
        (machine(flat(diskMode="independent_persistent")), "independent"),
        (machine(flat(diskMode="independent_nonpersistent")), "independent"),
        (machine(flat(sharing="sharingMultiWriter")), "multi-writer"),
        (machine(flat(keyId=vim.encryption.CryptoKeyId(keyId="k"))), "encrypted"),
        (machine(flat(), shared_bus="physicalSharing"), "shares the SCSI bus"),
        (machine(BACKINGS.RawDiskMappingVer1BackingInfo(compatibilityMode="physicalMode")), "physical mode"),
        (machine(BACKINGS.RawDiskVer2BackingInfo(descriptorFileName="x")), "raw device"),
        (machine(BACKINGS.LocalPMemBackingInfo(fileName="x", diskMode="persistent")), "persistent memory"),
    ],
)
def test_a_disk_that_vsphere_cannot_export_says_why(devices, reason):
    (disk,) = disks(devices)
    assert reason in (disk.unexportable or disk.unsnapshottable or "")


def test_what_only_a_snapshot_leaves_out_is_no_obstacle_to_an_export_without_one():
    modes = ("independent_persistent", "independent_nonpersistent")
    several = [disks(machine(flat(diskMode=mode)))[0] for mode in modes]
    several += disks(machine(flat(sharing="sharingMultiWriter")))
    several += disks(machine(flat(), shared_bus="physicalSharing"))
    assert all(disk.unexportable is None and disk.unsnapshottable for disk in several)
    assert [disk.shared for disk in several] == [False, False, True, True]


@pytest.mark.parametrize(
    "backing",
    [
        BACKINGS.RawDiskMappingVer1BackingInfo(compatibilityMode="virtualMode", fileName="x", diskMode="persistent"),
        BACKINGS.SeSparseBackingInfo(fileName="x", diskMode="persistent"),
        BACKINGS.SparseVer2BackingInfo(fileName="x", diskMode="persistent"),
    ],
)
def test_other_backings_can_be_exported(backing):
    assert disks(machine(backing))[0].unexportable is None


@pytest.mark.parametrize("name", ["plain", "a/b", "50%", "back\\slash", "%2f as written", "%252f"])
def test_names_survive_being_kept_by_vsphere(name):
    assert unescape(escape(name)) == name
    assert "/" not in escape(name)
