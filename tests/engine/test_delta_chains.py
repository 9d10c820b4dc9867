"""Incremental exports keep what changed within a disk: every export equals the guest's bytes of its day, whatever
happened since, for our reader and for qemu-img, in a folder and in S3."""

import os
import random
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Generator
from datetime import timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

import pytest

import hyperexport
from hyperexport import errors
from hyperexport.base.display import pages_of
from hyperexport.base.stop import StopSignal
from hyperexport.cli.output import pair_lines
from hyperexport.formats.vmdk import GRAIN
from hyperexport.images.opening import open_disks
from hyperexport.model.manifest import ExportManifest, FileRole
from hyperexport.options.declaring import VerifyMode
from hyperexport.results import VerifiedExport
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from hyperexport.simulator.boot_sector import bootable_disk
from hyperexport.steps.verification import verify
from hyperexport.store.base import StoredExport
from hyperexport.store.local import LocalStore
from hyperexport.verify.chains import Link, open_chain
from hyperexport.verify.export import ReadFiles
from hyperexport.views import stored as list_page
from tests.chains import (
    OPTIONS,
    Place,
    differing_by_qemu,
    files_of,
    folder_place,
    guest,
    rot,
    s3_place,
    stored,
    written,
)
from tests.engine.local_exports import forge
from tests.engine.s3_exports import keys, settings
from tests.engine.s3_proxy import faulty_proxy
from tests.engine.s3_servers import S3Server
from tests.peers import require_program

MIB: Final = 1 << 20
SIZE: Final = 6 * MIB + 512 * 3
"""The last grain is not a whole one."""


@pytest.fixture
def vcenter(monkeypatch: pytest.MonkeyPatch) -> Generator[Simulator]:
    disks = (DiskSpec(SIZE, used=0.6, seed=5), DiskSpec(2 * MIB, used=0.5, seed=6))
    with Simulator([VmSpec("db01", disks=disks, firmware="bios")]) as simulator:
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        yield simulator


@pytest.fixture
def folder(tmp_path: Path) -> Place:
    return folder_place(tmp_path / "exports")


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, folder: Place) -> Place:
    if request.param == "folder":
        return folder
    server: S3Server = request.getfixturevalue("server")
    return s3_place(server, server.make_bucket(f"b{abs(hash(request.node.name)) % 10**9}"))


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


def a_chain(vcenter: Simulator, place: Place) -> StoredExport:
    """An export whose first disk has two deltas."""
    for content in (b"", b"one", b"two" * 40_000):
        change(vcenter, content)
        place.export()
    return place.newest()


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


# -- verification ------------------------------------------------------------------------------------------------------


def bytes_read(verified: list[VerifiedExport]) -> int:
    return sum(one.verification.bytes_read for one in verified)


@pytest.mark.sample("folder")
def test_verify_reads_a_file_once_however_many_exports_share_it(vcenter: Simulator, place: Place) -> None:
    a_chain(vcenter, place)
    exports = place.store.exports()
    shared = {FileRole.DISK, FileRole.BASE, FileRole.TAGS}
    files = [entry for one in exports for entry in one.manifest.files]
    once = {entry.written_as: entry.size for entry in files if entry.role in shared}
    others = sum(entry.size for entry in files if entry.role not in shared)

    found = list(hyperexport.verify_exports(**place.where, verify="deep"))

    assert bytes_read(found) == sum(once.values()) + others
    assert all(one.verification.ok for one in found)


def test_verify_asks_a_server_once_about_a_file_however_many_exports_share_it(
    vcenter: Simulator, server: S3Server, tmp_path: Path
) -> None:
    place = s3_place(server, server.make_bucket(f"b{abs(hash('asked once')) % 10**9}"))
    a_chain(vcenter, place)
    objects = {key for key in keys(server, place.store.url.split("/")[2]) if ".vmdk" in key}
    with faulty_proxy(server, tmp_path) as proxy:
        through = settings(server, endpoint_url=proxy.endpoint_url, ca_bundle=proxy.ca_file)
        found = list(hyperexport.verify_exports(**{**place.where, "s3": through}))
        asked = Counter(tuple(one.partition("?")[0].split()) for one in proxy.requests if ".vmdk" in one)
    assert all(one.verification.ok for one in found)
    heads = {target.split("/", 2)[2]: count for (method, target), count in asked.items() if method == "HEAD"}
    assert heads == dict.fromkeys(objects, 1)
    tags = {target: count for (method, target), count in asked.items() if method == "GET" and "disk-0.vmdk." in target}
    assert tags == dict.fromkeys(tags, 1)
    assert len(tags) == 6  # two kinds for each file of the chain


def test_a_chain_whose_files_do_not_fit_is_found_also_where_another_export_proved_its_beginning(
    vcenter: Simulator, folder: Place
) -> None:
    export = a_chain(vcenter, folder)
    sound = set[Link]()
    parts = export.manifest.parts(export.manifest.disks[0])
    before = folder.store.exports()[1]
    open_chain(folder.store, before, before.manifest.parts(before.manifest.disks[0]), sound)
    assert len(sound) == 2
    open_chain(folder.store, export, parts, sound)
    for wrong in (
        (parts[1], parts[2]),
        (parts[0], parts[2]),
        (parts[0], parts[1], parts[2].model_copy(update={"cid": "00000001"})),
        (parts[0].model_copy(update={"cid": "00000001"}), *parts[1:]),
    ):
        with pytest.raises(errors.VerificationFailed):
            open_chain(folder.store, export, wrong, sound)


def test_an_empty_store_beside_another_proves_nothing_and_the_other_is_verified(
    vcenter: Simulator, folder: Place, server: S3Server
) -> None:
    a_chain(vcenter, folder)
    bucket = server.make_bucket(f"b{abs(hash('empty beside another')) % 10**9}")
    misspelt = s3_place(server, bucket)
    with pytest.raises(errors.VerificationFailed, match=f"s3://{bucket}/vms, so nothing was verified there") as failed:
        hyperexport.verify_exports(**{**misspelt.where, **folder.where, "keep_local": True})
    assert all(one.verification.ok for one in failed.value.exports)
    assert all(export.manifest.verified for export in folder.store.exports())


def test_the_folder_that_nobody_named_may_be_empty_beside_a_bucket(
    vcenter: Simulator, server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = s3_place(server, server.make_bucket(f"b{abs(hash('nobody named')) % 10**9}"))
    place.export()
    assert [one.verification.ok for one in hyperexport.verify_exports(**{**place.where, "keep_local": True})] == [True]


def test_verify_names_every_export_that_builds_on_a_damaged_file(vcenter: Simulator, folder: Place) -> None:
    export = a_chain(vcenter, folder)
    rot(files_of(folder.store, export)[1])
    with pytest.raises(errors.VerificationFailed) as failed:
        hyperexport.verify_exports(**folder.where)
    oldest, *dependent = reversed(folder.store.exports())
    wrong = {one.location.rpartition("/")[2] for one in failed.value.exports if not one.verification.ok}
    assert wrong == {one.export_id for one in dependent}
    assert oldest.manifest.damage == ()


def test_a_file_that_is_written_to_while_verify_runs_is_read_again(vcenter: Simulator, folder: Place) -> None:
    """The manifests record the damage, and a second run finds none of it remembered."""
    export = a_chain(vcenter, folder)
    read = ReadFiles()
    assert verify(folder.store, export, VerifyMode.ON, StopSignal(), read=read)[1].ok
    rot(files_of(folder.store, export)[0])
    assert not verify(folder.store, export, VerifyMode.ON, StopSignal(), read=read)[1].ok


# -- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.sample("1")
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


@pytest.mark.sample("1")
@pytest.mark.parametrize("link", [0, 1, 2])
def test_a_missing_link_is_a_full_export(vcenter: Simulator, folder: Place, link: int) -> None:
    export = a_chain(vcenter, folder)
    files_of(folder.store, export)[link].unlink()
    change(vcenter, b"after the loss")
    result = folder.export()
    assert "lacks" in result.plan.reason
    assert stored(folder.store, folder.newest()) == guest(vcenter)


def _unlinked(path: Path) -> None:
    path.unlink()


def _a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _a_link(path: Path) -> None:
    elsewhere = path.rename(path.parents[3] / "elsewhere.vmdk")
    path.symlink_to(elsewhere)


def _shorter(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 512)


@pytest.mark.parametrize("harm", [_unlinked, _a_folder, _a_link, _shorter, rot])
def test_a_restore_of_a_chain_whose_link_cannot_be_used_names_the_file_and_says_what_to_do(
    vcenter: Simulator, folder: Place, harm: Callable[[Path], None]
) -> None:
    export = a_chain(vcenter, folder)
    path = files_of(folder.store, export)[1]
    harm(path)
    with pytest.raises(errors.HyperExportError, match=path.name) as failed:
        hyperexport.restore(export.export_id, name="db01-back", **folder.where)
    assert failed.value.fix == errors.USE_ANOTHER_EXPORT


def test_a_sound_disk_is_restored_of_an_export_whose_other_disk_is_damaged(vcenter: Simulator, folder: Place) -> None:
    """The base of a chain rotted, so every export of the VM is damaged, in the same disk."""
    export = a_chain(vcenter, folder)
    rot(files_of(folder.store, export)[0])
    with pytest.raises(errors.VerificationFailed):
        hyperexport.verify_exports(**folder.where)

    hyperexport.restore(export.export_id, name="db01-back", disks=[1], **folder.where)

    assert guest(vcenter, "db01-back") == guest(vcenter)[1:]
    for disks in ((), (0,), (0, 1)):
        with pytest.raises(errors.VerificationFailed, match="is damaged: base-2000") as failed:
            hyperexport.restore(export.export_id, name="db01-again", disks=disks, **folder.where)
        assert "--disk" in (failed.value.fix or "")


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
    wrong = forge(folder.store, export, files=files)

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
