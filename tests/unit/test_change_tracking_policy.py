"""Change tracking is switched on only when asked, and only where it can be."""

import pytest

from hyperexport.model.vm import PowerState, VmInfo
from hyperexport.policy.change_tracking import plan_tracking
from tests.examples import VM


def a_vm(**changes: object) -> VmInfo:
    values = {
        "ref": VM,
        "power_state": PowerState.ON,
        "guest_os": "",
        "cpus": 1,
        "memory_mb": 1,
        "hardware_version": "vmx-19",
        "firmware": "efi",
        "tools_status": "",
        "provisioned": 0,
        "used": 0,
        "change_tracking": False,
        "change_tracking_supported": True,
        "consolidation_needed": False,
        "template": False,
        "encrypted": False,
        "host": None,
        "datastores": (),
        "disks": (),
        "nics": (),
        "snapshots": (),
    }
    return VmInfo.model_validate({**values, **changes})


def plan(vm: VmInfo, **changes: object):
    return plan_tracking(
        vm, **{"wanted": True, "incremental": False, "snapshots": 0, "takes_snapshot": True, **changes}
    )


def test_nobody_asked_so_nothing_is_done_or_said() -> None:
    assert plan(a_vm(), wanted=False).model_dump() == {"enable": False, "refused": False, "words": "", "missed": ""}


def test_on_already_is_not_switched_on_again() -> None:
    assert not plan(a_vm(change_tracking=True)).enable


@pytest.mark.parametrize(
    ("state", "takes_snapshot", "words"),
    [
        (PowerState.OFF, False, "takes effect at once"),
        (PowerState.ON, True, "with this export's snapshot"),
        (PowerState.SUSPENDED, False, "with the next snapshot"),
    ],
)
def test_it_says_from_when_on_it_counts(state: PowerState, takes_snapshot: bool, words: str) -> None:
    decided = plan(a_vm(power_state=state), takes_snapshot=takes_snapshot)
    assert decided.enable
    assert words in decided.words


@pytest.mark.parametrize(
    ("changes", "snapshots", "words"),
    [
        ({"change_tracking_supported": False, "hardware_version": "vmx-04"}, 0, "vmx-04"),
        ({"template": True}, 0, "template"),
        ({}, 1, "a snapshot"),
        ({}, 3, "3 snapshots"),
    ],
)
def test_it_is_refused_with_the_reason(changes: dict[str, object], snapshots: int, words: str) -> None:
    decided = plan(a_vm(**changes), snapshots=snapshots)
    assert decided.refused
    assert not decided.enable
    assert words in decided.words


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "add --enable-change-tracking once"),
        ({"change_tracking_supported": False}, "hardware version vmx-19"),
        ({"change_tracking": True}, ""),
        ({"power_state": PowerState.OFF}, ""),
        ({"power_state": PowerState.SUSPENDED}, ""),
    ],
)
def test_an_incremental_export_of_a_running_vm_says_what_it_misses_and_the_remedy(changes, said) -> None:
    missed = plan(a_vm(**changes), wanted=False, incremental=True).missed
    assert said in missed
    assert bool(said) is bool(missed)
    assert plan(a_vm(**changes), wanted=False, incremental=False).missed == ""
