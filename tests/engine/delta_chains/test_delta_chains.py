"""Incremental exports keep what changed within a disk: every export equals the guest's bytes of its day, whatever
happened since, for our reader and for qemu-img, in a folder and in S3."""

import os
import random
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

import hyperexport
from hyperexport import errors
from hyperexport.base.display import pages_of
from hyperexport.base.stop import StopSignal
from hyperexport.cli.output import pair_lines
from hyperexport.formats.vmdk import GRAIN
from hyperexport.model.manifest import ExportManifest, FileRole
from hyperexport.options.declaring import VerifyMode
from hyperexport.simulator import Simulator
from hyperexport.simulator.boot_sector import bootable_disk
from hyperexport.steps.verification import verify
from hyperexport.store.local import LocalStore
from hyperexport.views import stored as list_page
from tests.chains import (
    OPTIONS,
    Place,
    differing_by_qemu,
    files_of,
    guest,
    rot,
    stored,
    written,
)
from tests.engine.delta_vm import MIB, SIZE, a_chain, change
from tests.peers import require_program

# -- what is kept, and when a disk is kept whole ----------------------------------------------------------------------


def test_an_incremental_export_keeps_little_more_than_what_changed(vcenter: Simulator, place: Place) -> None:
    first = place.export().manifest
    change(vcenter, random.Random(1).randbytes(GRAIN), at=16 * GRAIN)
    second = place.export().manifest

    assert written(second) < 3 * GRAIN < written(first) // 8
    assert [entry.chain != () for entry in second.disks] == [True, False]
    assert second.transfer.bytes_transferred > written(first) // 2  # the whole stream was read
    assert stored(place.store, place.newest()) == guest(vcenter)


@pytest.mark.sample("folder")
def test_a_disk_that_was_read_and_is_as_it_was_keeps_nothing_new(vcenter: Simulator, place: Place) -> None:
    place.export()
    change(vcenter)
    place.export()
    change(vcenter)  # the same bytes once more, which change tracking calls a change
    manifest = place.export().manifest

    assert written(manifest) == 0
    assert [disk.transferred for disk in manifest.disks] == [True, False]
    assert stored(place.store, place.newest()) == guest(vcenter)


@pytest.mark.sample("folder")
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


@pytest.mark.sample("folder")
def test_a_chain_is_converted_to_images_and_to_a_package_of_whole_disks(
    vcenter: Simulator, place: Place, tmp_path: Path
) -> None:
    export = a_chain(vcenter, place)

    hyperexport.convert_export(export.export_id, to="raw", into=tmp_path / "raw", **place.where)
    assert [path.read_bytes() for path in sorted((tmp_path / "raw").glob("*.raw"))] == guest(vcenter)

    hyperexport.convert_export(export.export_id, to="ovf", into=tmp_path / "ovf", **place.where)
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


@pytest.mark.sample("folder")
def test_a_chain_is_served_over_nbd(vcenter: Simulator, place: Place, tmp_path: Path) -> None:
    export = a_chain(vcenter, place)
    with hyperexport.serve_disks(export.export_id, **place.where) as served:
        for disk, content in zip(served.disks, guest(vcenter), strict=True):
            raw = tmp_path / "guest.raw"
            raw.write_bytes(content)
            subprocess.run(["qemu-img", "compare", "-f", "raw", "-F", "raw", raw, disk.uri], check=True)


@pytest.mark.sample("folder")
def test_files_of_the_guest_come_out_of_a_chain(
    vcenter: Simulator, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin:/sbin")
    require_program("mke2fs", "no filesystem of a guest is made with it")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "large.bin").write_bytes(random.Random(8).randbytes(MIB))
    for content in (b"as it was", b"as it is now"):
        (tmp_path / "tree" / "file.txt").write_bytes(content)
        image = tmp_path / "guest.ext4"
        made = [
            "mke2fs",
            "-q",
            "-t",
            "ext4",
            "-O",
            "^has_journal",
            "-U",
            str(UUID(int=7)),
            "-d",
            tmp_path / "tree",
            image,
            "2M",
        ]
        subprocess.run(made, check=True)
        vm, now = vcenter.vm("db01"), image.read_bytes()
        for at in range(0, len(now), GRAIN):
            if vm.read_disk(1, at, GRAIN) != now[at : at + GRAIN]:
                vm.guest_write(1, at, now[at : at + GRAIN])
        place.export()
        image.unlink()
    export = place.newest()
    assert export.manifest.disks[1].chain
    hyperexport.extract_files("/disk1/file.txt", export=export.export_id, into=tmp_path / "out", **place.where)
    assert (tmp_path / "out" / "file.txt").read_bytes() == b"as it is now"


@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="qemu is not installed: no chain is booted")
def test_a_chain_boots(vcenter: Simulator, folder: Place) -> None:
    """The boot sector is in the base, the text that it has to show in the delta."""
    for text in ("not this", "proof of the delta\nlogin: "):
        disk = bootable_disk(text, size=SIZE)
        vcenter.vm("db01").guest_write(0, 0, disk[:512])
        vcenter.vm("db01").guest_write(0, SIZE - 512, disk[-512:])
        folder.export()
    assert folder.newest().manifest.disks[0].chain
    (drilled,) = hyperexport.restore_drill(
        vm="db01",
        expect="proof of the delta",
        timeout=timedelta(seconds=120),
        emulate=True,
        memory_mib=64,
        output=folder.store.url,
    )
    assert drilled.record is not None
    assert drilled.record.passed


def test_the_list_and_the_report_say_how_many_deltas_an_export_has(vcenter: Simulator, folder: Place) -> None:
    a_chain(vcenter, folder)
    contents = hyperexport.list_exports(folder.store.url)
    _ = list_page  # its import registers the page
    rows = pages_of(contents)[0].tables[0].rows
    for words, row in zip(("incremental + 2 deltas", "incremental + 1 delta", "full"), rows, strict=True):
        assert words in row
    assert "deltas=2" in pair_lines(contents)


@pytest.mark.sample("s3")
def test_a_chain_is_restored(vcenter: Simulator, place: Place) -> None:
    export = a_chain(vcenter, place)
    expected = guest(vcenter)
    with place.store.open(export, "db01.ovf") as reader:
        stored_ovf = reader.read_at(0, reader.size)
    assert b"ChangedBlocksSection" in stored_ovf

    hyperexport.restore(export.export_id, name="back", **place.where)

    vm = vcenter.vm("back")
    assert [vm.read_disk(0, 0, SIZE), vm.read_disk(1, 0, 2 * MIB)] == expected


# -- synthetic fulls ---------------------------------------------------------------------------------------------------


@pytest.mark.sample("folder")
def test_a_synthetic_full_is_whole_and_reads_no_unchanged_disk_from_vsphere(vcenter: Simulator, place: Place) -> None:
    a_chain(vcenter, place)
    vcenter.vm("db01").guest_write(1, 0, b"the other disk changed")

    result = place.export(synthetic_full=True)

    manifest = result.manifest
    assert [disk.chain for disk in manifest.disks] == [(), ()]
    assert [disk.transferred for disk in manifest.disks] == [False, True]
    assert [disk.stored_in for disk in manifest.disks] == [None, None]
    assert "written whole from the store's own grains" in result.plan.disks[0].storage
    newest = place.newest()
    assert stored(place.store, newest) == guest(vcenter)
    assert verify(place.store, newest, VerifyMode.DEEP, StopSignal())[1].findings == ()

    change(vcenter, b"the next delta builds on it")
    assert [len(disk.chain) for disk in place.export().manifest.disks] == [1, 0]
    assert stored(place.store, place.newest()) == guest(vcenter)


def test_a_synthetic_full_leaves_out_grains_that_became_zero(vcenter: Simulator, folder: Place, tmp_path: Path) -> None:
    folder.export()
    change(vcenter, bytes(MIB), at=0)
    folder.export()
    manifest = folder.export(synthetic_full=True).manifest
    assert [disk.chain for disk in manifest.disks] == [(), ()]
    assert stored(folder.store, folder.newest()) == guest(vcenter)
    assert isinstance(folder.store, LocalStore)
    assert differing_by_qemu(folder.store, folder.newest(), guest(vcenter), tmp_path) == []
    assert written(manifest) < SIZE // 2


@pytest.mark.sample("2")
@pytest.mark.parametrize("link", [0, 2])
def test_a_synthetic_full_of_a_damaged_chain_is_transferred(vcenter: Simulator, folder: Place, link: int) -> None:
    rot(files_of(folder.store, a_chain(vcenter, folder))[link])
    result = folder.export(synthetic_full=True)
    assert [disk.transferred for disk in result.manifest.disks] == [True, False]
    assert any("unchanged, and was transferred anyway" in words for words in result.manifest.warnings)
    assert stored(folder.store, folder.newest()) == guest(vcenter)


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
