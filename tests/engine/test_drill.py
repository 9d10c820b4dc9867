"""Restore drills: a guest boots from what was exported, and only what it shows of itself proves anything.

The guest is a boot sector that writes on its serial console what lies at the far end of its disk: text that is in no
file but the disk. QEMU runs with an emulated processor, as on any machine.
"""

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import hyperexport
from hyperexport.base.stop import StopSignal
from hyperexport.base.units import MIB
from hyperexport.drill.booting import Boot, boot_on_qemu
from hyperexport.drill.qemu import find_qemu
from hyperexport.drill.serial_console import Expectation
from hyperexport.errors import DrillFailed, ExportNotFound, ToolMissing, UsageError
from hyperexport.model.drill import DrillRecord, Sign
from hyperexport.model.hardware import Hardware
from hyperexport.results import DrillResult
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from hyperexport.simulator.boot_sector import bootable_disk
from hyperexport.store.local import LocalStore
from hyperexport.vsphere.endpoint import VSphereEndpoint
from tests.images import disk_of, entry_of, vmdk_of
from tests.peers import require_program

SIZE = 4 * MIB
GRAIN = 1 << 16
PROOF = f"proof={os.urandom(8).hex()}"
GIVEN: dict[str, Any] = {"timeout": timedelta(seconds=120), "emulate": True, "memory_mib": 64}


@pytest.fixture(scope="module", autouse=True)
def qemu() -> None:
    require_program("qemu-system-x86_64", "no export has been booted")


def image(raw: bytes) -> bytes:
    pieces = {start // GRAIN: raw[start : start + GRAIN] for start in range(0, len(raw), GRAIN)}
    return vmdk_of(len(raw), {number: piece for number, piece in pieces.items() if any(piece)})


def boot(raw: bytes, *, expect: str | None = PROOF, kind: str = "ParaVirtualSCSIController", wait: float = 120) -> Boot:
    """Boot a disk on a controller of this type; wait for that many seconds."""
    controller = {"_vimtype": f"vim.vm.device.{kind}", "key": 1000, "busNumber": 0}
    disk = {"_vimtype": "vim.vm.device.VirtualDisk", "key": 2000, "controllerKey": 1000, "unitNumber": 0}
    hardware = Hardware({"hardware": {"memoryMB": 128, "numCPU": 1, "device": [controller, disk]}})
    stored = image(raw)
    entry = entry_of(stored).model_copy(update={"disk_key": 2000})
    host = find_qemu()._replace(kvm=False)
    return boot_on_qemu(host, hardware, [(entry, disk_of(stored))], Expectation(expect, wait), stop=StopSignal())


@pytest.mark.parametrize(
    "kind",
    [
        "ParaVirtualSCSIController",
        "VirtualLsiLogicController",
        "VirtualLsiLogicSASController",
        "VirtualAHCIController",
        "VirtualIDEController",
        "VirtualNVMEController",
        "VirtualBusLogicController",
        "SomethingOfTomorrow",
    ],
)
def test_a_guest_boots_on_the_controller_that_it_had_or_on_a_named_substitute(kind: str) -> None:
    found = boot(bootable_disk(PROOF, size=SIZE), kind=kind)
    assert (found.sign, found.passed) == (Sign.EXPECTED_TEXT, True), found
    assert PROOF in found.console
    assert found.screenshot is not None
    assert found.screenshot.startswith(b"\x89PNG")
    substituted = kind in {"VirtualBusLogicController", "SomethingOfTomorrow"}
    assert bool(found.warnings) is substituted


@pytest.mark.parametrize("text", ["db01 login: ", "Welcome to Debian GNU/Linux 12!\n", "[  OK  ] Reached target x"])
def test_text_that_only_a_started_system_writes_is_a_sign_of_life(text: str) -> None:
    assert boot(bootable_disk(text, size=SIZE), expect=None).sign is Sign.CONSOLE


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("GRUB loading.\ngrub rescue> ", "boot loader"),
        ("Linux version 6.1\nKernel panic - not syncing: VFS: Unable to mount root fs", "panicked"),
        ("mounting /dev/sda1 failed\n(initramfs) ", "root filesystem"),
    ],
)
def test_a_system_that_has_given_up_is_dead_at_once_and_a_boot_loader_no_sign_of_life(text: str, reason: str) -> None:
    found = boot(bootable_disk(text, size=SIZE), expect=None)
    assert (found.passed, reason in found.reason) == (False, True), found


def test_a_disk_that_nothing_can_be_booted_from_fails_by_what_the_screen_says() -> None:
    found = boot(os.urandom(SIZE), expect=None)
    assert (found.sign, found.reason) == (Sign.NONE, "the firmware finds nothing to boot from")


def test_where_a_text_is_expected_nothing_else_counts() -> None:
    found = boot(bootable_disk("db01 login: ", size=SIZE), wait=4)
    assert (found.passed, found.reason) == (False, "no sign of life within 4 s")


def test_no_qemu_is_said_before_anything_is_done(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissing, match="qemu-system-x86_64, which boots the exports, is not installed"):
        hyperexport.restore_drill(vm="db01", output=str(tmp_path))


# -- drills of a store -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vcenter() -> Iterator[Simulator]:
    vms = [VmSpec(name, disks=(DiskSpec(SIZE),), powered_on=False, firmware="bios") for name in ("db01", "web01")]
    with Simulator(vms) as simulator:
        for name in ("db01", "web01"):
            disk = bootable_disk(f"{name} {PROOF}\n{name} login: ", size=SIZE)
            simulator.vm(name).guest_write(0, 0, disk)
        yield simulator


@pytest.fixture
def place(vcenter: Simulator, tmp_path: Path) -> Path:
    """A store with an export of each VM."""
    for name in ("db01", "web01"):
        hyperexport.export(name, vsphere=endpoint(vcenter), output=str(tmp_path / "store"))
    return tmp_path / "store"


def endpoint(vcenter: Simulator) -> VSphereEndpoint:
    return VSphereEndpoint(
        url=vcenter.url, username=vcenter.username, password=vcenter.password, thumbprint=vcenter.thumbprint
    )


def drill(place: Path, **given: Any) -> list[DrillResult]:
    return list(hyperexport.restore_drill(output=str(place), **{**GIVEN, **given}))


def test_a_drill_boots_the_newest_export_and_leaves_a_sealed_record_beside_it(place: Path) -> None:
    (export,) = [one for one in LocalStore(place).exports() if one.manifest.vm.name == "db01"]
    before = {path.name: path.read_bytes() for path in (place / str(export)).iterdir()}

    (result,) = drill(place, vm="db01", expect=f"db01 {PROOF}")

    assert result.record is not None
    assert (result.record.passed, result.record.export_id) == (True, export.export_id)
    after = {path.name: path.read_bytes() for path in (place / str(export)).iterdir()}
    record = json.loads(after.pop(result.record.file_name))
    assert record["sign"] == "expected-text"
    assert hashlib.sha256(after.pop(record["screenshot"])).hexdigest() == record["screenshot_sha256"]
    assert after == before
    assert [one.verification.ok for one in hyperexport.verify_exports(output=str(place))] == [True, True]


def test_a_drill_takes_the_vm_whose_proof_is_oldest_and_then_none(place: Path) -> None:
    turns = [drill(place, within=timedelta(days=30), most=1) for _ in range(3)]
    assert [[one.vm.name for one in turn] for turn in turns] == [["db01"], ["web01"], []]


@pytest.mark.parametrize("spoil", ["flip", "other export", "failed"])
def test_a_record_that_is_not_proved_or_did_not_pass_is_no_proof(place: Path, spoil: str) -> None:
    (result,) = drill(place, vm="db01")
    assert result.record is not None
    (path,) = place.rglob("drill-*.json")
    if spoil == "flip":
        data = bytearray(path.read_bytes())
        at = data.index(b'"started": "20') + len('"started": "20')
        data[at] ^= 1
        path.write_bytes(data)
    elif spoil == "other export":
        (other,) = [one for one in LocalStore(place).exports() if one.manifest.vm.name == "web01"]
        path.rename(place / str(other) / path.name)
    else:
        failed = result.record.model_copy(update={"passed": False})
        path.write_bytes(failed.to_json())
    (again,) = drill(place, within=timedelta(days=30), most=1)
    assert again.vm.name == "db01"


def test_a_failed_drill_is_recorded_and_fails_the_run_after_the_others_had_their_turn(
    vcenter: Simulator, place: Path
) -> None:
    vm = vcenter.vm("db01")
    boot_sector = vm.read_disk(0, 0, 512)
    vm.guest_write(0, 0, bytes(512))
    hyperexport.export("db01", vsphere=endpoint(vcenter), output=str(place))
    vm.guest_write(0, 0, boot_sector)
    with pytest.raises(DrillFailed, match=r"1 of 2 did not come up: .*db01") as caught:
        drill(place, most=2)
    verdicts = [(one.vm.name, one.record.passed) for one in caught.value.drills]
    assert verdicts == [("db01", False), ("web01", True)]
    assert len(list(place.rglob("drill-*.json"))) == 2


def test_a_damaged_export_fails_its_drill_and_nothing_is_booted_from_it(place: Path) -> None:
    (disk,) = place.glob("db01.*/*/*.vmdk")
    data = bytearray(disk.read_bytes())
    data[len(data) // 2] ^= 1
    disk.write_bytes(data)
    with pytest.raises(DrillFailed, match=r"the export is damaged: .*vmdk"):
        drill(place, vm="db01")
    (path,) = place.rglob("drill-*.json")
    assert DrillRecord.from_json(path.read_bytes(), export_id=path.parent.name) is not None
    assert json.loads(path.read_bytes())["passed"] is False


def test_a_dry_run_starts_nothing_and_a_cleanup_takes_the_records_along(place: Path) -> None:
    (planned,) = drill(place, vm="db01", dry_run=True)
    assert "would be started on QEMU" in planned.words
    assert not list(place.rglob("drill-*"))
    drill(place, vm="db01")
    (export,) = [one for one in LocalStore(place).exports() if one.manifest.vm.name == "db01"]
    LocalStore(place).delete(export)
    assert not list(place.rglob("drill-*"))
    assert not (place / str(export)).exists()


def test_what_makes_no_sense_is_refused(place: Path) -> None:
    with pytest.raises(UsageError, match="no export is chosen"):
        drill(place)
    with pytest.raises(UsageError, match="most"):
        drill(place, most=0)
    with pytest.raises(ExportNotFound):
        drill(place, vm="db99")


def test_no_machine_outlives_its_drill(place: Path) -> None:
    drill(place, vm="db01")
    ours = ["pgrep", "-P", str(os.getpid()), "-af", "qemu-system"]
    running = subprocess.run(ours, capture_output=True, text=True, check=False)
    assert running.stdout == ""
