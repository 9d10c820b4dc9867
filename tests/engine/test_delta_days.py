"""Days of a guest and its administrators: after each, every kept export equals the guest of its own day, for our reader
and for qemu-img, and all of them verify."""

import os
import random
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Final

import pytest

from hyperexport.base.stop import StopSignal
from hyperexport.formats.vmdk import GRAIN
from hyperexport.model.manifest import FileEntry
from hyperexport.model.transport import Transport
from hyperexport.options.declaring import VerifyMode
from hyperexport.simulator import DiskSpec, Simulator, VmHandle, VmSpec
from hyperexport.steps.verification import verify
from hyperexport.store.local import LocalStore
from hyperexport.verify.export import ReadFiles
from tests.chains import Place, differing_by_qemu, folder_place, guest, s3_place, stored
from tests.engine.nbdkit_tool import install
from tests.engine.s3_servers import S3Server
from tests.peers import require_program

MIB: Final = 1 << 20
SIZE: Final = 2 * MIB + 512 * 3
"""The last grain is not a whole one."""
KEPT: Final = 7


@pytest.fixture
def powered_on() -> bool:
    """Whether the VM runs, in a test that does not say otherwise."""
    return True


@pytest.fixture
def vcenter(monkeypatch: pytest.MonkeyPatch, powered_on: bool) -> Generator[Simulator]:
    disks = (DiskSpec(SIZE, used=0.6, seed=5), DiskSpec(MIB, used=0.5, seed=6))
    with Simulator([VmSpec("db01", powered_on=powered_on, disks=disks)]) as simulator:
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        yield simulator


class Life:
    """What happens to one VM, chosen by chance; its name changes, too."""

    def __init__(self, vcenter: Simulator, chance: random.Random) -> None:
        self.vcenter, self.chance, self.name = vcenter, chance, "db01"
        self.powered_on = self.vm.state()["power"] == "poweredOn"

    @property
    def vm(self) -> VmHandle:
        return self.vcenter.vm(self.name)

    def size(self, disk: int) -> int:
        return self.vm.state()["disks"][disk]

    def write(self) -> None:
        for _ in range(self.chance.randrange(1, 6)):
            disk = self.chance.randrange(2)
            length = self.chance.choice([1, 512, 5000, 70_000, 300_000])
            self.vm.guest_write(disk, self.chance.randrange(self.size(disk) - length), self.chance.randbytes(length))

    def shrink_to_zero(self) -> None:
        begin = self.chance.randrange(self.size(0) - MIB)
        self.vm.guest_write(0, begin, bytes(self.chance.randrange(1, MIB)))

    def everything_zero(self) -> None:
        self.vm.guest_write(1, 0, bytes(self.size(1)))

    def rewrite(self) -> None:
        self.vm.guest_write(1, 0, self.chance.randbytes(self.size(1)))

    def edges(self) -> None:
        self.vm.guest_write(0, self.size(0) - 700, self.chance.randbytes(700))
        self.vm.guest_write(0, 0, self.chance.randbytes(3))

    def same_bytes_again(self) -> None:
        self.vm.guest_write(0, 0, self.vm.read_disk(0, 0, 3 * GRAIN))

    def nothing(self) -> None:
        pass

    def reset_tracking(self) -> None:
        self.write()
        self.vm.reset_change_tracking(self.chance.randrange(2))

    def revert(self) -> None:
        """Back to a snapshot of an administrator's, after writing; written to again, so that tracking may err."""
        machine = self.vm._machine  # pyright: ignore[reportPrivateUsage] - as vCenter's own client does it
        moref = self.vm.take_snapshot("before the upgrade")
        self.write()
        machine.revert(next(each for each in machine.all_snapshots() if each.moid == moref))
        self.vm.remove_snapshot(moref)
        if self.powered_on:
            self.vm.power_on()
        self.edges()

    def extend(self) -> None:
        disk = self.chance.randrange(2)
        if self.size(disk) < 6 * MIB:
            self.vm.resize_disk(disk, self.size(disk) + self.chance.choice([512, GRAIN, MIB]))
            self.vm.guest_write(disk, self.size(disk) - 300, self.chance.randbytes(300))

    def replace(self) -> None:
        """The second disk is exchanged for another one of its size at the same place."""
        machine = self.vm._machine  # pyright: ignore[reportPrivateUsage]
        old = machine.disks[1]
        other = DiskSpec(self.size(1), used=0.3, seed=self.chance.randrange(99))
        self.vm.add_disk(other)
        new = machine.disks.pop()
        old.image, old.uuid = new.image, new.uuid

    def rename(self) -> None:
        machine = self.vm._machine  # pyright: ignore[reportPrivateUsage]
        self.name = f"db-{self.chance.randrange(1000)}"
        machine.rename(self.name)

    def days(self, count: int) -> list[Callable[[], None]]:
        """What happens on each day: everything once if there is room, the common things more often."""
        rare = [self.revert, self.reset_tracking, self.everything_zero, self.extend, self.replace, self.rename]
        common = [self.write, self.shrink_to_zero, self.edges, self.rewrite, self.same_bytes_again, self.nothing]
        chosen = [*common[:3], *rare, *common[3:]][:count]
        chosen += self.chance.choices([*common, self.write, self.write, *rare], k=count - len(chosen))
        self.chance.shuffle(chosen)
        return chosen


def live(
    vcenter: Simulator, place: Place, days: int, scratch: Path, *, seed: str, max_chain: int = 4
) -> list[FileEntry]:
    """Let days pass; returns every disk of every export."""
    life = Life(vcenter, random.Random(seed))
    bytes_of: dict[str, list[bytes]] = {}
    made: list[FileEntry] = []
    for day, event in enumerate(life.days(days)):
        event()
        synthetic = life.chance.random() < 0.1
        kept = {"cleanup": True, "cleanup_max_count": KEPT}
        result = place.export(life.name, max_chain=max_chain, synthetic_full=synthetic, **kept)
        what = f"day {day}: {event.__name__}"
        assert result.manifest.warnings == (), what
        bytes_of[result.manifest.export_id] = guest(vcenter, life.name)
        made += result.manifest.disks
        read = ReadFiles()
        for export in place.store.exports():
            assert stored(place.store, export) == bytes_of[export.export_id], what
            if isinstance(place.store, LocalStore) and export.manifest.format == "ovf":
                assert differing_by_qemu(place.store, export, bytes_of[export.export_id], scratch) == [], what
            assert verify(place.store, export, VerifyMode.DEEP, StopSignal(), read=read)[1].findings == (), what
    assert max(len(disk.chain) for disk in made) >= min(max_chain, 2)
    if isinstance(place.store, LocalStore):
        assert len(place.store.exports()) == min(days, KEPT)
    return made


def read_in_ranges(made: list[FileEntry], transport: Transport) -> None:
    """Deltas, unless only whole disks were wanted, and synthetic fulls were made of what a transport read in ranges."""
    ranged = [disk for disk in made if disk.transport is transport]
    assert any(disk.chain for disk in ranged) == any(disk.chain for disk in made)
    assert any(disk.synthetic for disk in ranged)


def test_six_days_in_a_folder(vcenter: Simulator, tmp_path: Path) -> None:
    require_program("qemu-img", "nothing else reads the chains")
    live(vcenter, folder_place(tmp_path / "exports"), 6, tmp_path, seed="1")


def test_six_days_in_ranges_from_the_datastore(vcenter: Simulator, tmp_path: Path) -> None:
    require_program("qemu-img", "nothing else reads the chains")
    vcenter.folder.serves_frozen = True
    place = folder_place(tmp_path / "exports")
    place.options["transport_sample"] = 100  # a false alarm would be a warning
    read_in_ranges(live(vcenter, place, 6, tmp_path, seed="2", max_chain=1), Transport.DATASTORE)


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("powered_on", [False])
@pytest.mark.parametrize("package", ["ovf", "ova"])
def test_forty_days_of_whole_disks_of_which_only_the_changes_are_read(
    vcenter: Simulator, tmp_path: Path, seed: str, package: str
) -> None:
    place = folder_place(tmp_path / "exports")
    place.options["format"] = package
    read_in_ranges(live(vcenter, place, 40, tmp_path, seed=seed, max_chain=0), Transport.DATASTORE)


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    require_program("qemu-img", "nothing else reads the chains")
    if request.param == "folder":
        return folder_place(tmp_path / "exports")
    server: S3Server = request.getfixturevalue("server")
    return s3_place(server, server.make_bucket(f"days-{abs(hash(request.node.name)) % 10**9}"))


@pytest.fixture
def seed() -> str:
    return os.environ.get("HYPEREXPORT_FAULT_SEED", "2026")


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_forty_days(vcenter: Simulator, place: Place, tmp_path: Path, seed: str) -> None:
    live(vcenter, place, 40, tmp_path, seed=seed)


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("powered_on", [False])
def test_forty_days_in_ranges_from_the_datastore_of_a_vm_that_is_off(
    vcenter: Simulator, place: Place, tmp_path: Path, seed: str
) -> None:
    read_in_ranges(live(vcenter, place, 40, tmp_path, seed=seed, max_chain=2), Transport.DATASTORE)


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_forty_days_in_ranges_by_nbdkit(
    vcenter: Simulator, place: Place, tmp_path: Path, seed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbdkit = install(tmp_path / "nbdkit", vcenter, monkeypatch)
    place.options["nbdkit_plugin"] = "vddk"
    read_in_ranges(live(vcenter, place, 40, tmp_path, seed=seed, max_chain=2), Transport.NBDKIT)
    assert nbdkit.alive == []
