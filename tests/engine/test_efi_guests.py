"""A VM that boots by EFI comes up again: from its store, and as the domain that a conversion describes for libvirt.

The guest is an EFI program of a few bytes, so it starts within seconds on an emulated processor.
``test_real_guests.py`` does the same with Linux.
"""

import os
from collections.abc import Generator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import hyperexport
from hyperexport.base.units import MIB
from hyperexport.drill.qemu import find_firmware
from hyperexport.errors import ToolMissing
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from tests.efi_guest import efi_disk
from tests.guest_os import number_shown_by_domain
from tests.peers import MISSING, require_program

SIZE = 4 * MIB


@pytest.fixture(scope="module", autouse=True)
def firmware() -> None:
    require_program("qemu-system-x86_64", "no guest has been started by EFI")
    try:
        find_firmware()
    except ToolMissing as error:
        if "CI" in os.environ:
            raise
        pytest.skip(f"{MISSING}{error}")


@pytest.fixture(scope="module")
def vcenter() -> Generator[Simulator]:
    vms = [VmSpec("efi01", disks=(DiskSpec(SIZE, used=0.0),), firmware="efi", powered_on=False)]
    with Simulator(vms) as simulator, pytest.MonkeyPatch.context() as patch:
        for name, value in simulator.environment().items():
            patch.setenv(name, value)
        yield simulator


@pytest.fixture
def number(vcenter: Simulator) -> str:
    """What the guest shows now."""
    number = os.urandom(8).hex()
    vcenter.vm("efi01").guest_write(0, 0, efi_disk(f"proof={number}\n", size=SIZE))
    return number


def export(store: Path, **given: Any) -> str:
    """Export the VM; returns the export's id."""
    made = hyperexport.export("efi01", output=store, **given).manifest
    assert made
    return made.export_id


def test_a_guest_that_boots_by_efi_comes_up_straight_from_its_store(
    vcenter: Simulator, number: str, tmp_path: Path
) -> None:
    made = export(tmp_path)
    wait = timedelta(seconds=170)

    (drilled,) = hyperexport.restore_drill(made, output=tmp_path, expect=f"proof={number}", timeout=wait, emulate=True)

    record = drilled.record
    assert record is not None
    assert (record.passed, record.sign, f"proof={number}" in record.console) == (True, "expected-text", True)
    (controller,) = [words for words in record.warnings if "SATA" in words]
    assert "no driver for vmpvscsi" in controller
    assert [words for words in record.warnings if "standard path of EFI" in words]


def test_a_domain_for_libvirt_of_an_efi_vm_boots_from_the_controller_that_it_names(
    vcenter: Simulator, number: str, tmp_path: Path
) -> None:
    made = export(tmp_path / "store", format="ova")

    converted = hyperexport.convert_export(
        made, to="qcow2", into=tmp_path / "kvm", libvirt=True, output=tmp_path / "store"
    )

    assert any("SATA" in words for words in converted.warnings)
    (definition,) = (tmp_path / "kvm").rglob("*.xml")
    assert number_shown_by_domain(definition.read_text(), tmp_path) == number
