"""A restore into VMware's vcsim: what it makes of our import spec, and the hashes of what it received."""

from pathlib import Path

import pytest

import hyperexport
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from tests.conformance.keeping_proxy import keeping_uploads
from tests.conformance.test_qemu_formats import assert_same
from tests.conformance.vcsim import Vcsim, running_vcsim
from tests.engine.restores import disk, extra, nic
from tests.engine.simulator_client import find, finish, logged_in

MIB = 1 << 20
DB01 = VmSpec(
    "db01",
    powered_on=False,
    disks=(DiskSpec(4 * MIB), DiskSpec(2 * MIB, mode="independent_persistent")),
    macs=("00:50:56:00:00:01",),
    boot_delay=1500,
    annotation="ask the database team",
    extra_config=(("disk.EnableUUID", "TRUE"),),
    memory_reservation=128,
)

DB02 = VmSpec("db02", powered_on=False, disks=(DiskSpec(MIB),))

pytestmark = pytest.mark.conformance


def guest_bytes(folder: Path, number: int) -> Path:
    """Where the fixture keeps what db01's guest had on a disk."""
    return folder.parent / f"db01-{number}.raw"


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with exports of our simulator's db01 and db02."""
    folder = tmp_path_factory.mktemp("exports")
    with Simulator((DB01, DB02)) as sim, pytest.MonkeyPatch.context() as patch:
        for number in (0, 1):
            sim.vm("db01").save_raw(number, guest_bytes(folder, number))
        for name, value in sim.environment().items():
            patch.setenv(name, value)
        hyperexport.export("db01", output=folder)
        hyperexport.export("db02", output=folder)
    return folder


def test_vcsim_has_the_vm_with_the_bytes_that_were_sent_and_the_settings_that_ovf_loses(
    vcsim: Vcsim, exports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in vcsim.environment.items():
        monkeypatch.setenv(name, value)
    result = hyperexport.restore(
        vm="db01", output=exports, folder="/DC0/vm", resource_pool="DC0_H0", datastore="LocalDS_0", identity="keep"
    )
    assert result.verified is True, result.warnings  # vcsim hashes what arrives, and each hash was compared
    with logged_in(vcsim) as service:  # pyright: ignore[reportArgumentType] - it has what a Simulator has
        vm = find(service, "db01")
        config = vm.config
        finish(vm.Destroy_Task())
    assert config.annotation == "ask the database team"
    assert nic(config, 0).macAddress == "00:50:56:00:00:01"
    assert config.bootOptions.bootDelay == 1500
    assert config.memoryAllocation.reservation == 128
    assert extra(config)["disk.EnableUUID"] == "TRUE"
    assert [disk(config, number).backing.diskMode for number in (0, 1)] == ["persistent", "independent_persistent"]
    assert [disk(config, number).capacityInBytes for number in (0, 1)] == [4 * MIB, 2 * MIB]
    assert any("nvram" in each.setting for each in result.plan.lost)  # facts: vcsim asks for no nvram


def test_the_bytes_that_vcsim_was_sent_are_the_guests(
    go_peers: Path, qemu_img: Path, exports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, kept = tmp_path / "home", tmp_path / "kept"
    home.mkdir()
    kept.mkdir()
    with running_vcsim(go_peers, home) as vcsim, keeping_uploads(vcsim, kept) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        restored = hyperexport.restore(
            vm="db01", output=exports, folder="/DC0/vm", resource_pool="DC0_H0", datastore="LocalDS_0"
        )
    assert restored.verified is True
    uploads = sorted(kept.glob("*.vmdk"))
    assert len(uploads) == 2
    for number, upload in enumerate(uploads):
        assert_same(qemu_img, upload, guest_bytes(exports, number))


@pytest.mark.parametrize("flags", [(), ("-esx",)], ids=["vCenter", "ESXi host"])
def test_a_vm_without_notes_is_its_users_for_good_on_a_vcenter_and_on_a_single_host(
    flags: tuple[str, ...], go_peers: Path, exports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vcsim takes empty notes for no change, so the owner tag stayed, and the next restore destroyed the VM."""
    place = {} if flags else {"folder": "/DC0/vm", "resource_pool": "DC0_H0", "datastore": "LocalDS_0"}
    with running_vcsim(go_peers, tmp_path, *flags) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        for name in ("first", "second"):
            restored = hyperexport.restore(vm="db02", output=exports, name=name, **place)
            assert restored.verified
            assert not [words for words in restored.warnings if "half made" in words]
        found = {line.rpartition("/")[2] for line in server.govc("find", "/", "-type", "m").split()}
        assert {"first", "second"} <= found
