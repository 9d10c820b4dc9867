"""govc, which we did not write, imports our exports into the simulator; qemu-img compares the guests' disks."""

import os
import subprocess
from pathlib import Path

import pytest

import hyperexport
from hyperexport.simulator import DiskSpec, Simulator, VmSpec

MIB = 1 << 20
DISKS = (DiskSpec(96 * MIB), DiskSpec(33 * MIB, controller="sata"), DiskSpec(8 * MIB, controller="nvme"))


@pytest.fixture(scope="module")
def sim():
    with Simulator((VmSpec("db01", disks=DISKS),), boot_seconds=0.0) as simulator:
        yield simulator
        assert simulator.leases() == []
        assert simulator.sessions() == []


@pytest.fixture
def run(govc, sim, tmp_path):
    """Run govc with the simulator's address and CA; return what it printed."""

    def call(*arguments: str | Path, fails: bool = False) -> str:
        environment = {
            **os.environ,
            **sim.environment(),
            "GOVC_PERSIST_SESSION": "false",
            "GOVMOMI_HOME": str(tmp_path / "govmomi"),
        }
        done = subprocess.run([govc, *arguments], env=environment, capture_output=True, text=True, timeout=90)
        assert bool(done.returncode) == fails, done.stderr + done.stdout
        return done.stderr if fails else done.stdout

    return call


@pytest.fixture
def exported(sim, tmp_path, monkeypatch):
    """Export ``db01`` in a format while it runs; return the descriptor or archive, and the raw disks at that moment."""
    for name, value in sim.environment().items():
        monkeypatch.setenv(name, value)

    def export(form: str) -> tuple[Path, list[Path]]:
        vm = sim.vm("db01")
        vm.guest_write(0, 40 * MIB + 5, os.urandom(300_000))
        raws = [tmp_path / f"{disk}.raw" for disk in range(len(DISKS))]
        for disk, raw in enumerate(raws):
            vm.save_raw(disk, raw)
        result = hyperexport.export("db01", output=tmp_path / "exports", format=form, snapshot=True)
        return next(Path(result.locations[0]).glob(f"*.{form}")), raws

    return export


@pytest.mark.parametrize("form", ["ovf", "ova"])
def test_govc_imports_our_export_and_the_guests_disks_are_the_same(run, sim, exported, qemu_img, tmp_path, form):
    package, raws = exported(form)
    name = f"from-{form}"
    place = ("-ds", "datastore1", "-pool", "/DC0/host/DC0_C0/Resources", "-host", "/DC0/host/DC0_C0/esx-02")
    run(f"import.{form}", "-name", name, *place, package)
    copy = sim.vm(name)
    assert copy.nvram == sim.vm("db01").nvram
    for disk, raw in enumerate(raws):
        restored = tmp_path / f"restored-{disk}.raw"
        copy.save_raw(disk, restored)
        done = subprocess.run(
            [qemu_img, "compare", "-f", "raw", "-F", "raw", raw, restored], capture_output=True, text=True
        )
        assert done.stdout.strip() == "Images are identical.", done.stderr
    run("vm.power", "-on", name)
    assert "poweredOn" in run("vm.info", name)
    run("vm.destroy", name)
    assert {vm.name for vm in sim.vms()} == {"db01"}
    assert sim.detached_disks() == []


def test_govc_is_told_why_an_import_is_refused(run, sim, exported):
    package, _ = exported("ovf")
    place = ("-ds", "datastore1", "-pool", "/DC0/host/DC0_C0/Resources")
    assert "DRS" in run("import.ovf", "-name", "copy", *place, package, fails=True)
    place = (*place, "-host", "/DC0/host/DC0_C0/esx-02")
    assert "already exists" in run("import.ovf", "-name", "db01", *place, package, fails=True)
    package.write_text(package.read_text().replace("vmx-19", "vmx-99"))
    assert "No supported hardware versions" in run("import.ovf", "-name", "copy", *place, package, fails=True)
    assert {vm.name for vm in sim.vms()} == {"db01"}
