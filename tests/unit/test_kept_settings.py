"""What of an exported VM's configuration comes back, and what does not: every field of vSphere's has its answer."""

import json
from typing import Any

import pytest
from pyVmomi import vim

from hyperexport.errors import VerificationFailed
from hyperexport.vsphere import kept_settings
from hyperexport.vsphere.configuration import OMITTED
from hyperexport.vsphere.kept_config import KeptConfig, decode
from hyperexport.vsphere.kept_settings import put_back_settings

TABLES = (
    frozenset(kept_settings.PLAIN),
    kept_settings.HANDLED,
    kept_settings.NOT_SETTINGS,
    frozenset(kept_settings.LOST),
)
FIELDS = {each.name for each in vim.vm.ConfigInfo()._GetPropertyList()} - {"dynamicProperty", "dynamicType"}


def put_back(reservations: bool = True, **document: Any) -> tuple[Any, dict[str, str]]:
    """A spec with these settings put back, and what is lost."""
    spec = vim.vm.ConfigSpec()
    lost = put_back_settings(spec, KeptConfig(document), {2000: -100}, reservations=reservations)
    return spec, {each.setting: each.reason for each in lost}


@pytest.mark.parametrize("field", sorted(FIELDS))
def test_every_field_of_a_vms_configuration_is_in_exactly_one_table(field: str) -> None:
    assert sum(field in table for table in TABLES) == 1


@pytest.mark.parametrize("field", kept_settings.PLAIN)
def test_what_comes_back_as_it_is_can_be_set(field: str) -> None:
    assert hasattr(vim.vm.ConfigSpec(), field)


def test_a_setting_that_is_lost_is_told_with_its_reason_and_an_unset_one_is_not() -> None:
    _, lost = put_back(template=True, keyId=None, vcpuConfig=[], inventedByVmware="yes")
    assert lost == {
        "template": "it is restored as a VM; convert it to a template in vSphere",
        "inventedByVmware": "this version of hyperexport does not know it",
    }


@pytest.mark.parametrize(
    ("key", "comes_back"),
    [
        ("disk.EnableUUID", True),
        ("scsi0.pciSlotNumber", True),
        ("migrate.hostlog", False),
        ("sched.swap.derivedName", False),
        ("scsi0:0.ctkEnabled", False),
        ("uuid.action", False),
        ("nvram", False),
        ("encryption.bundle", False),
        ("vm.genid", False),
    ],
)
def test_advanced_settings_come_back_but_for_what_vsphere_writes_for_each_vm_anew(key: str, comes_back: bool) -> None:
    line = {"_vimtype": "vim.option.OptionValue", "key": key, "value": "x"}
    spec, _ = put_back(extraConfig=[line])
    assert (key in {option.key for option in spec.extraConfig}) is comes_back


def test_a_value_that_the_export_left_out_is_listed_and_never_set() -> None:
    spec, lost = put_back(extraConfig=[{"key": "guestinfo.token", "value": OMITTED}])
    assert spec.extraConfig == []
    assert list(lost) == ["guestinfo.token"]


def test_a_boot_order_names_the_new_devices_and_tells_which_it_lost() -> None:
    kind = "vim.vm.BootOptions.BootableDiskDevice"
    order = [{"_vimtype": kind, "deviceKey": key} for key in (2000, 2001)]
    spec, lost = put_back(bootOptions={"_vimtype": "vim.vm.BootOptions", "bootOrder": order})
    assert [each.deviceKey for each in spec.bootOptions.bootOrder] == [-100]
    assert list(lost) == ["boot order"]


def test_reservations_are_left_out_where_that_is_asked() -> None:
    allocation = {"_vimtype": "vim.ResourceAllocationInfo", "reservation": 512, "limit": -1}
    spec, lost = put_back(reservations=False, memoryAllocation=allocation, memoryReservationLockedToMax=True)
    assert spec.memoryAllocation.reservation == 0
    assert not spec.memoryReservationLockedToMax
    assert list(lost) == ["memoryAllocation.reservation"]


def test_an_export_without_a_configuration_says_that_nothing_beyond_ovf_comes_back() -> None:
    assert list(put_back()[1]) == ["everything that OVF does not carry"]


@pytest.mark.parametrize(
    "hostile",
    [
        {"_vimtype": "os.system", "command": "x"},
        {"_vimtype": "vim.VirtualMachine", "name": "x"},
        {"_vimtype": 7},
        {"_vimtype": "vim.vm.BootOptions", "bootDelay": "soon", "bootOrder": {"a": 1}},
    ],
)
def test_what_is_not_of_vspheres_types_becomes_nothing(hostile: dict[str, Any]) -> None:
    made = decode(hostile)
    assert made is None or made.bootDelay is None
    put_back(bootOptions=hostile, hardware=hostile, extraConfig=hostile, cpuAllocation=hostile, flags=[hostile])


def test_a_configuration_that_is_nested_without_end_is_refused() -> None:
    deep = "[" * 100_000
    with pytest.raises(VerificationFailed, match="is not JSON"):
        KeptConfig.parse(deep.encode(), where="db01.vm.json")
    with pytest.raises(VerificationFailed, match="not a VM's configuration"):
        KeptConfig.parse(json.dumps([1]).encode(), where="db01.vm.json")
