"""Incremental exports keep what changed within a disk: every export equals the guest's bytes of its day, whatever
happened since, for our reader and for qemu-img, in a folder and in S3."""

import random
import shutil
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final

import pytest

import hyperexport
from hyperexport import errors
from hyperexport.base.stop import StopSignal
from hyperexport.formats.vmdk import GRAIN
from hyperexport.images import open_disks
from hyperexport.model.manifest import ExportManifest, FileRole
from hyperexport.options.groups import VerifyMode
from hyperexport.results import ExportResult
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from hyperexport.steps.verification import verify
from hyperexport.store.base import Store, StoredExport
from hyperexport.store.local import LocalStore
from tests.engine.s3_exports import open_store, settings
from tests.engine.s3_servers import S3Server, rclone_s3

MIB: Final = 1 << 20
OPTIONS: Final = {"snapshot": True, "incremental": True, "max_chain": 30}
SIZE: Final = 6 * MIB + 512 * 3
"""The last grain is not a whole one."""


@pytest.fixture
def vcenter(monkeypatch: pytest.MonkeyPatch) -> Generator[Simulator]:
    disks = (DiskSpec(SIZE, used=0.6, seed=5), DiskSpec(2 * MIB, used=0.5, seed=6))
    with Simulator([VmSpec("db01", disks=disks)]) as simulator:
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        yield simulator


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[S3Server]:
    with rclone_s3(tmp_path_factory.mktemp("rclone")) as running:
        yield running


class Place:
    """A store, and how to export into it."""

    def __init__(self, store: Store, options: dict[str, Any]) -> None:
        self.store, self.options = store, options

    def export(self, **options: Any) -> ExportResult:
        return hyperexport.export("db01", **{**OPTIONS, **self.options, **options})

    def newest(self) -> StoredExport:
        return self.store.exports()[0]


@pytest.fixture
def folder(tmp_path: Path) -> Place:
    return Place(LocalStore(tmp_path / "exports"), {"output": tmp_path / "exports"})


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, folder: Place) -> Place:
    if request.param == "folder":
        return folder
    server: S3Server = request.getfixturevalue("server")
    bucket = server.make_bucket(f"b{abs(hash(request.node.name)) % 10**9}")
    return Place(
        open_store(server, bucket, "vms"),
        {"upload": f"s3://{bucket}/vms", "keep_local": False, "s3": settings(server)},
    )


def guest(vcenter: Simulator) -> list[bytes]:
    """What the guest has on each disk now."""
    vm = vcenter.vm("db01")
    return [vm.read_disk(0, 0, SIZE), vm.read_disk(1, 0, 2 * MIB)]


def stored(store: Store, export: StoredExport) -> list[bytes]:
    """What an export has on each disk."""
    with open_disks(store, export, stop=StopSignal()) as disks:
        return [disk.read(0, disk.capacity) for disk in disks]


def seen_by_qemu(store: LocalStore, export: StoredExport, scratch: Path) -> list[bytes]:
    """The same, as qemu-img reads the chain out of the export's own folder."""
    contents: list[bytes] = []
    for entry in export.manifest.disks:
        raw = scratch / "qemu.raw"
        source = Path(store.url) / str(export) / entry.name
        subprocess.run(["qemu-img", "convert", "-f", "vmdk", "-O", "raw", source, raw], check=True)
        contents.append(raw.read_bytes()[: entry.capacity])
    return contents


def written(manifest: ExportManifest) -> int:
    """Bytes of disks that the export itself wrote."""
    own = (e for e in manifest.stored_disks if (e.written_as or "").startswith(manifest.export_id))
    return sum(entry.size for entry in own)


def one_day(vcenter: Simulator, chance: random.Random) -> None:
    """Something that guests and administrators do."""
    vm = vcenter.vm("db01")
    what = chance.choice(["write", "write", "write", "zero", "rewrite", "nothing", "edge", "same"])
    if what == "write":
        for _ in range(chance.randrange(1, 6)):
            length = chance.choice([1, 512, 5000, 70_000, 300_000])
            vm.guest_write(0, chance.randrange(SIZE - length), chance.randbytes(length))
    elif what == "zero":
        begin = chance.randrange(0, SIZE - MIB)
        vm.guest_write(0, begin, bytes(chance.randrange(1, MIB)))
    elif what == "rewrite":
        vm.guest_write(1, 0, chance.randbytes(2 * MIB))
    elif what == "edge":
        vm.guest_write(0, SIZE - 700, chance.randbytes(700))
        vm.guest_write(0, 0, chance.randbytes(3))
    elif what == "same":
        vm.guest_write(0, 0, vm.read_disk(0, 0, 3 * GRAIN))


def run_days(vcenter: Simulator, place: Place, days: int, scratch: Path, **options: Any) -> None:
    chance = random.Random(days)
    bytes_of: dict[str, list[bytes]] = {}
    for _ in range(days):
        one_day(vcenter, chance)
        result = place.export(cleanup=True, cleanup_max_count=6, **options)
        bytes_of[result.manifest.export_id] = guest(vcenter)
        assert result.manifest.warnings == ()
    exports = place.store.exports()
    assert len(exports) == 6 or not isinstance(place.store, LocalStore)
    for export in exports:
        assert stored(place.store, export) == bytes_of[export.export_id]
        if isinstance(place.store, LocalStore):
            assert seen_by_qemu(place.store, export, scratch) == bytes_of[export.export_id]
        assert verify(place.store, export, VerifyMode.DEEP, StopSignal())[1].findings == ()


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
def test_every_kept_export_equals_the_guest_of_its_day(vcenter: Simulator, place: Place, tmp_path: Path) -> None:
    run_days(vcenter, place, 14, tmp_path, max_chain=4)


# -- what is kept, and when a disk is kept whole ----------------------------------------------------------------------


def change(vcenter: Simulator, content: bytes = b"changed", at: int = MIB) -> None:
    vcenter.vm("db01").guest_write(0, at, content)


def test_an_incremental_export_keeps_little_more_than_what_changed(vcenter: Simulator, place: Place) -> None:
    first = place.export().manifest
    change(vcenter, random.Random(1).randbytes(GRAIN), at=16 * GRAIN)
    second = place.export().manifest

    assert written(second) < 3 * GRAIN < written(first) // 8
    assert [entry.chain != () for entry in second.disks] == [True, False]
    assert second.transfer.bytes_transferred > written(first) // 2  # the whole stream was read
    assert stored(place.store, place.newest()) == guest(vcenter)


def test_a_disk_that_was_read_and_is_as_it_was_keeps_nothing_new(vcenter: Simulator, place: Place) -> None:
    place.export()
    change(vcenter)
    place.export()
    change(vcenter)  # the same bytes once more, which change tracking calls a change
    manifest = place.export().manifest

    assert written(manifest) == 0
    assert [disk.transferred for disk in manifest.disks] == [True, False]
    assert stored(place.store, place.newest()) == guest(vcenter)


def test_an_unchanged_disk_keeps_its_chain(vcenter: Simulator, place: Place) -> None:
    place.export()
    change(vcenter)
    place.export()
    vcenter.vm("db01").guest_write(1, 0, b"the other disk")
    manifest = place.export().manifest

    assert [disk.transferred for disk in manifest.disks] == [False, True]
    assert [len(disk.chain) for disk in manifest.disks] == [1, 1]
    assert stored(place.store, place.newest()) == guest(vcenter)
    change(vcenter, b"and again")
    assert [len(disk.chain) for disk in place.export().manifest.disks] == [2, 1]
    assert stored(place.store, place.newest()) == guest(vcenter)


@pytest.mark.parametrize(("most", "chains"), [(0, [0, 0, 0, 0]), (1, [0, 1, 0, 1]), (2, [0, 1, 2, 0])])
def test_a_chain_has_at_most_so_many_deltas(vcenter: Simulator, folder: Place, most: int, chains: list[int]) -> None:
    found: list[int] = []
    for day in range(4):
        change(vcenter, b"day %d" % day)
        found.append(len(folder.export(max_chain=most).manifest.disks[0].chain))
    assert found == chains


def test_a_disk_of_which_most_changed_is_kept_whole(vcenter: Simulator, folder: Place) -> None:
    folder.export()
    change(vcenter, random.Random(2).randbytes(5 * MIB), at=0)
    result = folder.export()
    assert result.manifest.disks[0].chain == ()
    assert result.plan.disks[0].storage == "stored whole: more than half of it changed"


def test_an_ova_holds_whole_disks_also_of_a_chain(vcenter: Simulator, folder: Place) -> None:
    folder.export()
    change(vcenter)
    folder.export()
    for content in (b"", b"changed anew"):
        change(vcenter, content)
        manifest = folder.export(format="ova").manifest
        assert [disk.chain for disk in manifest.disks] == [(), ()]
        assert stored(folder.store, folder.newest()) == guest(vcenter)
    change(vcenter, b"back to folders")
    assert folder.export().manifest.disks[0].chain == ()


def test_both_stores_get_the_chain_even_one_that_begins_now(vcenter: Simulator, folder: Place, place: Place) -> None:
    folder.export()
    change(vcenter)
    folder.export()
    both = {**place.options, **folder.options, "keep_local": True}
    change(vcenter, b"in both")
    hyperexport.export("db01", **{**OPTIONS, **both})
    for store in {folder.store.url: folder.store, place.store.url: place.store}.values():
        newest = store.exports()[0]
        assert len(newest.manifest.disks[0].chain) == 2
        assert stored(store, newest) == guest(vcenter)
        assert verify(store, newest, VerifyMode.DEEP, StopSignal())[1].findings == ()


def test_a_renamed_vm_goes_on_with_its_chain(vcenter: Simulator, folder: Place) -> None:
    folder.export()
    change(vcenter)
    folder.export()
    change(vcenter, b"renamed")
    vcenter.vm("db01")._machine.rename("web-7")  # pyright: ignore[reportPrivateUsage] - as vCenter's own client does it
    manifest = hyperexport.export("web-7", **{**OPTIONS, **folder.options}).manifest
    assert len(manifest.disks[0].chain) == 2
    vm = vcenter.vm("web-7")
    assert stored(folder.store, folder.newest())[0] == vm.read_disk(0, 0, SIZE)


# -- what reads a chain -----------------------------------------------------------------------------------------------


def a_chain(vcenter: Simulator, place: Place) -> StoredExport:
    """An export whose first disk has two deltas."""
    for content in (b"", b"one", b"two" * 40_000):
        change(vcenter, content)
        place.export()
    return place.newest()


def test_a_chain_is_converted_to_images_and_to_a_package_of_whole_disks(
    vcenter: Simulator, place: Place, tmp_path: Path
) -> None:
    export = a_chain(vcenter, place)
    where = {key: value for key, value in place.options.items() if key in {"output", "upload", "keep_local", "s3"}}

    hyperexport.convert_export(export.export_id, to="raw", into=tmp_path / "raw", **where)
    assert [path.read_bytes() for path in sorted((tmp_path / "raw").glob("*.raw"))] == guest(vcenter)

    hyperexport.convert_export(export.export_id, to="ovf", into=tmp_path / "ovf", **where)
    text = (tmp_path / "ovf" / "db01.ovf").read_text()
    assert "parentRef" not in text
    assert "base-" not in text
    assert sorted(path.name for path in (tmp_path / "ovf").glob("*.vmdk")) == ["db01-disk-0.vmdk", "db01-disk-1.vmdk"]
    for number, content in enumerate(guest(vcenter)):
        disk, raw = tmp_path / "ovf" / f"db01-disk-{number}.vmdk", tmp_path / f"{number}.raw"
        assert f'"{disk.stat().st_size}"' in text
        subprocess.run(["qemu-img", "convert", "-f", "vmdk", "-O", "raw", disk, raw], check=True)
        assert raw.read_bytes()[: len(content)] == content
    sums = (tmp_path / "ovf" / "db01.mf").read_text()
    assert "base-" not in sums


def test_a_chain_is_restored(vcenter: Simulator, place: Place) -> None:
    export = a_chain(vcenter, place)
    expected = guest(vcenter)
    with place.store.open(export, "db01.ovf") as reader:
        stored_ovf = reader.read_at(0, reader.size)
    assert b"ChangedBlocksSection" in stored_ovf
    where = {key: value for key, value in place.options.items() if key in {"output", "upload", "keep_local", "s3"}}

    hyperexport.restore(export.export_id, name="back", **where)

    vm = vcenter.vm("back")
    assert [vm.read_disk(0, 0, SIZE), vm.read_disk(1, 0, 2 * MIB)] == expected


# -- damage -----------------------------------------------------------------------------------------------------------


def rot(path: Path, at: int | None = None) -> None:
    """Flip a bit of a file, in place: every name of it sees that."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 1
    with path.open("r+b") as file:
        file.write(data)


def files_of(store: Store, export: StoredExport) -> list[Path]:
    parts = export.manifest.parts(export.manifest.disks[0])
    return [Path(store.url) / str(export) / part.name for part in parts]


@pytest.mark.parametrize("link", [0, 1, 2])
def test_nothing_is_built_on_a_chain_with_a_damaged_link(vcenter: Simulator, folder: Place, link: int) -> None:
    export = a_chain(vcenter, folder)
    rot(files_of(folder.store, export)[link])
    change(vcenter, b"after the damage")

    result = folder.export(verify=True)

    assert result.manifest.disks[0].chain == ()
    assert any("is stored whole, not as a delta" in words for words in result.manifest.warnings)
    assert stored(folder.store, folder.newest()) == guest(vcenter)
    names = {path.name for path in (Path(folder.store.url) / str(folder.newest())).iterdir()}
    assert not any(name.startswith("base-2000") for name in names)
    for one in folder.store.exports()[1:]:
        assert verify(folder.store, one, VerifyMode.ON, StopSignal())[1].findings or link > len(
            one.manifest.disks[0].chain
        )


@pytest.mark.parametrize("link", [0, 1, 2])
def test_a_missing_link_is_a_full_export(vcenter: Simulator, folder: Place, link: int) -> None:
    export = a_chain(vcenter, folder)
    files_of(folder.store, export)[link].unlink()
    change(vcenter, b"after the loss")
    result = folder.export()
    assert "lacks" in result.plan.reason
    assert stored(folder.store, folder.newest()) == guest(vcenter)


def test_every_flipped_bit_of_a_delta_is_found(vcenter: Simulator, folder: Place) -> None:
    export = a_chain(vcenter, folder)
    path = files_of(folder.store, export)[-1]
    chance = random.Random(9)
    size = path.stat().st_size
    for at in (0, 40, 512, 600, size - 1, size - 1000, size - 1500, *(chance.randrange(size) for _ in range(12))):
        rot(path, at)
        _, found = verify(folder.store, export, VerifyMode.ON, StopSignal())
        assert path.name in {finding.file for finding in found.findings}
        rot(path, at)


def test_a_delta_on_another_base_is_found_although_every_checksum_is_right(vcenter: Simulator, folder: Place) -> None:
    """As after somebody put the files of two exports together, with manifests to match."""
    export = a_chain(vcenter, folder)
    manifest = export.manifest
    base, middle, top = manifest.parts(manifest.disks[0])
    swapped = manifest.disks[0].model_copy(update={"chain": (middle.name, base.name)})
    files = tuple(swapped if entry == top else entry for entry in manifest.files)
    wrong = folder.store.replace_manifest(export, manifest.model_copy(update={"files": files}))

    _, found = verify(folder.store, wrong, VerifyMode.ON, StopSignal())

    assert any("builds on" in finding.problem for finding in found.findings)
    with (
        pytest.raises(errors.VerificationFailed, match="builds on"),
        open_disks(folder.store, wrong, stop=StopSignal()),
    ):
        pass
    assert folder.export().manifest.disks[0].chain == ()


# -- deletion ---------------------------------------------------------------------------------------------------------


def test_deleting_any_export_leaves_the_others_whole(vcenter: Simulator, place: Place) -> None:
    chance, bytes_of = random.Random(3), dict[str, list[bytes]]()
    for day in range(5):
        change(vcenter, b"day %d" % day, at=day * 3 * GRAIN)
        bytes_of[place.export().manifest.export_id] = guest(vcenter)
    keep_all = {"cleanup_max_age": "0", "cleanup": True}
    for limits in ({"cleanup_max_count": 4}, {"cleanup_max_count": 2}, {"cleanup_max_count": 1}):
        hyperexport.cleanup_exports(**dict(place.options.items()), **{**keep_all, **limits})
        left = place.store.exports()
        for export in left:
            assert stored(place.store, export) == bytes_of[export.export_id]
    change(vcenter, chance.randbytes(10))
    place.export()
    assert stored(place.store, place.newest()) == guest(vcenter)


def test_a_manifest_whose_chain_is_not_among_its_files_is_damaged(vcenter: Simulator, folder: Place) -> None:
    manifest = a_chain(vcenter, folder).manifest
    without = tuple(entry for entry in manifest.files if entry.role is not FileRole.BASE)
    with pytest.raises(errors.ManifestInvalid, match="builds on"):
        ExportManifest.from_json(manifest.model_copy(update={"files": without}).to_json(), source="export.json")
