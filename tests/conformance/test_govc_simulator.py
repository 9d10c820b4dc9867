"""govc, a client that we did not write, works with the simulator; and qemu-img reads what it exported."""

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from hyperexport.simulator import DiskSpec, Simulator, VmSpec

MIB = 1 << 20
OVF = "{http://schemas.dmtf.org/ovf/envelope/1}"
VMS = (
    VmSpec("web01", folder="production/linux", disks=(DiskSpec(96 * MIB), DiskSpec(33 * MIB + 512))),
    VmSpec("off01", powered_on=False, disks=(DiskSpec(8 * MIB),)),
)


@pytest.fixture(scope="module")
def sim():
    with Simulator(VMS) as simulator:
        yield simulator
        assert simulator.leases() == []
        assert simulator.sessions() == []


@pytest.fixture
def run(govc, sim, tmp_path):
    """Run govc with the simulator's address and CA; return what it printed."""

    def call(*arguments: str, fails: bool = False) -> str:
        environment = {
            **os.environ,
            **sim.environment(),
            "GOVC_PERSIST_SESSION": "false",
            "GOVMOMI_HOME": str(tmp_path / "govmomi"),
        }
        done = subprocess.run([govc, *arguments], env=environment, capture_output=True, text=True, timeout=150)
        assert bool(done.returncode) == fails, done.stderr
        return done.stderr if fails else done.stdout

    return call


def test_govc_tells_what_it_talks_to(run):
    assert "API version:  8.0.3.0" in run("about")


def test_govc_finds_the_inventory(run):
    assert run("ls").split() == ["/DC0/vm", "/DC0/host", "/DC0/datastore", "/DC0/network"]
    assert run("ls", "/DC0/vm").split() == ["/DC0/vm/production", "/DC0/vm/off01"]
    assert run("find", "/", "-type", "m").split() == ["/DC0/vm/production/linux/web01", "/DC0/vm/off01"]
    assert run("find", "/DC0/host", "-type", "h").split() == ["/DC0/host/DC0_C0/esx-01", "/DC0/host/DC0_C0/esx-02"]
    assert run("find", "/", "-type", "m", "-runtime.powerState", "poweredOff").split() == ["/DC0/vm/off01"]


def test_govc_shows_a_vm(run, sim):
    (vm,) = json.loads(run("vm.info", "-json", "web01"))["virtualMachines"]
    assert vm["name"] == "web01"
    assert vm["config"]["instanceUuid"] == sim.vm("web01").instance_uuid
    assert vm["runtime"]["powerState"] == "poweredOn"
    disks = [device for device in vm["config"]["hardware"]["device"] if "capacityInBytes" in device]
    assert [disk["capacityInBytes"] for disk in disks] == [96 * MIB, 33 * MIB + 512]
    assert "Guest name:   Ubuntu Linux (64-bit)" in run("vm.info", "web01")


def test_govc_takes_shows_and_removes_snapshots(run, sim):
    run("snapshot.create", "-vm", "web01", "-m=false", "-q=true", "-d", "a description", "first")
    run("snapshot.create", "-vm", "web01", "-m=false", "-q=false", "second")
    assert [each[1:3] for each in sim.vm("web01").snapshots()] == [("first", "a description"), ("second", "")]
    assert re.findall(r"first|second", run("snapshot.tree", "-vm", "web01")) == ["first", "second"]
    run("snapshot.remove", "-vm", "web01", "first")
    run("snapshot.remove", "-vm", "web01", "*")
    assert sim.vm("web01").snapshots() == []


def test_govc_exports_a_snapshot_that_qemu_reads_as_the_guest_had_it(run, sim, qemu_img, tmp_path):
    vm = sim.vm("web01")
    vm.guest_write(0, 12345, b"in the snapshot" * 10_000)
    run("snapshot.create", "-vm", "web01", "-m=false", "-q=true", "export")
    moref = vm.snapshots()[0][0]
    vm.guest_write(0, 12345, b"after the snapshot" * 10_000)
    run("export.ovf", "-sha", "256", "-vm", "web01", "-snapshot", "export", str(tmp_path / "out"))
    folder = tmp_path / "out" / "web01"
    for disk in (0, 1):
        _assert_same(qemu_img, sim, "web01", disk, folder / f"web01-disk-{disk}.vmdk", moref, tmp_path)
    run("snapshot.remove", "-vm", "web01", "export")
    descriptor = ET.parse(folder / "web01.ovf")
    names = [file.get(f"{OVF}href") for file in descriptor.iter(f"{OVF}File")]
    assert names == ["web01-disk-0.vmdk", "web01-disk-1.vmdk"]
    for line in (folder / "web01.mf").read_text().splitlines():
        match = re.fullmatch(r"SHA256\((.+)\)= ([0-9a-f]{64})", line)
        assert match
        assert hashlib.sha256((folder / match[1]).read_bytes()).hexdigest() == match[2]


def test_govc_exports_a_vm_that_is_off_and_not_one_that_runs(run, sim, qemu_img, tmp_path):
    assert "cannot be performed in the current state" in run(
        "export.ovf", "-vm", "web01", str(tmp_path / "out"), fails=True
    )
    run("export.ovf", "-vm", "off01", "-i", str(tmp_path / "out"))
    folder = tmp_path / "out" / "off01"
    assert (folder / "off01.nvram").read_bytes() == sim.vm("off01").nvram
    _assert_same(qemu_img, sim, "off01", 0, folder / "off01-disk-0.vmdk", None, tmp_path)


def test_govc_powers_a_vm(run, sim):
    run("vm.power", "-on", "off01")
    assert "poweredOn" in run("vm.info", "off01")
    run("vm.power", "-off", "-force", "off01")
    assert "poweredOff" in run("vm.info", "off01")


def test_govc_is_told_of_a_wrong_password(govc, sim, tmp_path):
    environment = {
        **os.environ,
        **sim.environment(),
        "GOVC_PASSWORD": "wrong",
        "GOVC_PERSIST_SESSION": "false",
        "GOVMOMI_HOME": str(tmp_path),
    }
    done = subprocess.run([govc, "about"], env=environment, capture_output=True, text=True, timeout=150)
    assert done.returncode == 1
    assert "incorrect user name or password" in done.stderr


def _assert_same(qemu_img, sim, vm, disk, vmdk: Path, snapshot, folder: Path) -> None:
    raw = folder / f"{vm}-{disk}.raw"
    sim.vm(vm).save_raw(disk, raw, snapshot)
    done = subprocess.run([qemu_img, "compare", "-f", "raw", "-F", "vmdk", raw, vmdk], capture_output=True, text=True)
    assert done.stdout.strip() == "Images are identical.", done.stderr
