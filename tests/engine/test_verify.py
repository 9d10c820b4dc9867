"""Whatever happens to a stored export, verification finds it, and names the file and the place."""

import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hyperexport.base.stop import StopSignal
from hyperexport.base.units import SECTOR
from hyperexport.errors import Interrupted, ManifestInvalid
from hyperexport.model.manifest import FILE_NAME, FileRole
from hyperexport.model.marks import VerifiedMark
from hyperexport.model.progress import Progress, Stage, subscribed
from hyperexport.options.declaring import VerifyMode
from hyperexport.steps import verification as steps
from hyperexport.store.base import StoredExport
from hyperexport.store.local import LocalStore
from hyperexport.verify.export import verify_export
from hyperexport.verify.findings import Finding, Verification
from tests.engine.local_exports import forge
from tests.engine.verifiable import DISKS, contents, descriptor, publish, publish_ova

DISK_0, DISK_1 = DISKS
SIZES = {name: len(data) for name, data in DISKS.items()}


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "exports")


@pytest.fixture
def export(store: LocalStore) -> StoredExport:
    return publish(store)


@pytest.fixture
def folder(tmp_path: Path, export: StoredExport) -> Path:
    return tmp_path / "exports" / export.folder / export.export_id


def verify(store: LocalStore, export: StoredExport) -> Verification:
    return verify_export(store, export, deep=True, stop=StopSignal())


def findings(store: LocalStore, export: StoredExport) -> dict[str, Finding]:
    return {finding.file: finding for finding in verify(store, export).findings}


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.name != FILE_NAME)


def test_a_sound_export_is_proved_and_each_of_its_bytes_read_once(
    store: LocalStore, export: StoredExport, folder: Path
) -> None:
    result = verify(store, export)
    assert result.ok, result.findings
    assert result.files == 7
    assert result.bytes_read == size_of(folder)
    assert "every byte" in result.protection


def test_who_listens_is_told_how_far_the_reading_of_each_disk_is(store: LocalStore, export: StoredExport) -> None:
    told: list[Progress] = []
    with subscribed(told.append):
        steps.verify(store, export, VerifyMode.ON, StopSignal())
    last = {progress.item: progress for progress in told}
    assert {item: (progress.moved, progress.done) for item, progress in last.items()} == {
        f"{export.export_id}/{name}": (size, True) for name, size in SIZES.items()
    }
    assert {progress.of.stage for progress in told} == {Stage.VERIFY}


def test_a_sound_ova_is_proved(store: LocalStore, tmp_path: Path) -> None:
    export = publish_ova(store)
    result = verify(store, export)
    assert result.ok, result.findings
    assert result.files == 8
    assert result.bytes_read == size_of(tmp_path / "exports" / export.folder / export.export_id)


def flips(path: Path, *, most: int) -> list[int]:
    """Places in a file, all of them if it is small."""
    size = path.stat().st_size
    return sorted(random.Random(path.name).sample(range(size), min(size, most)))


def assert_flips_are_found(check: Callable[[], Verification], path: Path, *, most: int, named: str) -> None:
    """Each place in turn, one bit of it; the finding must name the file."""
    data = path.read_bytes()
    with path.open("r+b", buffering=0) as file:
        for place in flips(path, most=most):
            file.seek(place)
            file.write(bytes([data[place] ^ 1 << place % 8]))
            found = check().findings
            assert any(finding.file == named for finding in found), (place, found)
            file.seek(place)
            file.write(data[place : place + 1])
    assert check().ok


@pytest.mark.parametrize("name", [FILE_NAME, "db01.ovf", "db01.mf", DISK_0, DISK_1, "db01.nvram", "db01.vm.json"])
def test_a_flipped_bit_in_any_file_is_found(store: LocalStore, export: StoredExport, folder: Path, name: str) -> None:
    assert_flips_are_found(lambda: verify(store, export), folder / name, most=60, named=name)


def test_a_flipped_bit_anywhere_in_an_ova_is_found(store: LocalStore, tmp_path: Path) -> None:
    export = publish_ova(store)
    path = tmp_path / "exports" / export.folder / export.export_id / "db01.ova"
    assert_flips_are_found(lambda: verify(store, export), path, most=120, named="db01.ova")


def test_damage_inside_a_disk_is_named_with_its_offset(store: LocalStore, export: StoredExport, folder: Path) -> None:
    grain = 128 * SECTOR
    data = bytearray((folder / DISK_1).read_bytes())
    data[grain + 700] ^= 1
    (folder / DISK_1).write_bytes(data)
    (finding,) = verify(store, export).findings
    assert finding.file == DISK_1
    assert finding.offset == grain
    assert f"damaged at byte {grain}:" in str(finding)
    assert "SHA-256" in str(finding)


def test_damage_inside_a_disk_in_an_ova_names_the_disk_and_its_offset(store: LocalStore, tmp_path: Path) -> None:
    export = publish_ova(store)
    path = tmp_path / "exports" / export.folder / export.export_id / "db01.ova"
    entry = export.manifest.file(DISK_1)
    assert entry
    assert entry.offset
    data = bytearray(path.read_bytes())
    data[entry.offset + 128 * SECTOR + 700] ^= 1
    path.write_bytes(data)
    found = findings(store, export)
    assert found.keys() == {DISK_1, "db01.ova"}
    assert found[DISK_1].offset == 128 * SECTOR


@pytest.mark.parametrize("name", ["db01.ovf", "db01.mf", DISK_0, "db01.nvram", "db01.vm.json"])
def test_a_missing_file_is_found(store: LocalStore, export: StoredExport, folder: Path, name: str) -> None:
    (folder / name).unlink()
    found = verify(store, export).findings
    assert [(finding.file, finding.problem) for finding in found] == [(name, "it is missing")]


def test_a_truncated_disk_is_found_with_the_place_where_it_ends(
    store: LocalStore, export: StoredExport, folder: Path
) -> None:
    for size in (0, 100, 128 * SECTOR + 5, SIZES[DISK_0] - 1):
        (folder / DISK_0).write_bytes(DISKS[DISK_0][:size])
        (finding,) = verify(store, export).findings
        assert finding.file == DISK_0
        assert f"it has {size} bytes, the manifest says {SIZES[DISK_0]}" in finding.problem
        assert finding.offset is not None


def test_a_longer_file_is_found(store: LocalStore, export: StoredExport, folder: Path) -> None:
    with (folder / "db01.nvram").open("ab") as file:
        file.write(b"\0")
    (finding,) = verify(store, export).findings
    assert (finding.file, finding.offset) == ("db01.nvram", 250)


def test_two_disks_that_changed_places_are_found(store: LocalStore, export: StoredExport, folder: Path) -> None:
    (folder / DISK_0).rename(folder / "x")
    (folder / DISK_1).rename(folder / DISK_0)
    (folder / "x").rename(folder / DISK_1)
    assert findings(store, export).keys() == {DISK_0, DISK_1}


def test_a_file_too_many_is_found(store: LocalStore, export: StoredExport, folder: Path) -> None:
    (folder / "db01-disk-2.vmdk").write_bytes(b"x")
    (folder / "more").mkdir()
    (folder / ".owner.json").write_bytes(b"{}")  # a store's own mark that it could not remove
    assert findings(store, export).keys() == {"db01-disk-2.vmdk", "more"}


def test_a_link_in_a_files_place_is_found(store: LocalStore, export: StoredExport, folder: Path) -> None:
    (folder / DISK_0).rename(folder.parent / "elsewhere")
    (folder / DISK_0).symlink_to(folder.parent / "elsewhere")
    assert findings(store, export).keys() == {DISK_0}


def test_a_missing_and_an_unreadable_manifest_are_found(store: LocalStore, export: StoredExport, folder: Path) -> None:
    (folder / FILE_NAME).write_bytes(b"{}")
    assert "cannot be read" in findings(store, export)[FILE_NAME].problem
    (folder / FILE_NAME).unlink()
    assert "export.json is missing" in findings(store, export)[FILE_NAME].problem


def test_the_manifest_in_the_store_counts_not_the_one_in_hand(store: LocalStore, export: StoredExport) -> None:
    forge(store, export, verified=datetime.now(UTC))
    assert verify(store, export).ok
    wrong = [entry.model_copy(update={"sha256": "0" * 64}) for entry in export.manifest.files[:1]]
    forge(store, export, files=(*wrong, *export.manifest.files[1:]))
    assert findings(store, export)["db01.ovf"].problem == "its SHA-256 is not the one in the manifest"


def test_a_changed_manifest_is_found_and_never_written_again(
    store: LocalStore, export: StoredExport, folder: Path
) -> None:
    text = (folder / FILE_NAME).read_text()
    (folder / FILE_NAME).write_text(text.replace("the guest was not quiesced", "the guest was now quiesced"))
    assert "has a broken seal" in findings(store, export)[FILE_NAME].problem
    with pytest.raises(ManifestInvalid, match="has a broken seal"):
        store.write_mark(export, VerifiedMark(export_id=export.export_id, verified=datetime.now(UTC), seconds=1))
    assert "has a broken seal" in findings(store, export)[FILE_NAME].problem


# -- a package that was wrong when it was stored -----------------------------------------------------------------------


def sums(**changes: str) -> str:
    _, data = contents()["db01.mf"]
    lines = dict(line.split("= ") for line in data.decode().splitlines())
    lines = {**lines, **{f"SHA256({name})": value for name, value in changes.items()}}
    return "".join(f"{name}= {value}\n" for name, value in lines.items() if value)


@pytest.mark.parametrize(
    ("mf", "problem"),
    [
        (sums(**{DISK_0: ""}), f"it does not name {DISK_0}"),
        (sums(**{DISK_0: "0" * 64}), f"its SHA-256 of {DISK_0} is not the one in the manifest"),
        (sums(**{"other.vmdk": "0" * 64}), "it names other.vmdk, which is not in the manifest"),
        (sums() + "SHA1(db01.ovf)= 00\n", "line 5 is not a checksum"),
        (sums() + sums().splitlines()[1] + "\n", f"line 5 names {DISK_0} again"),
    ],
)
def test_checksums_that_disagree_with_the_manifest_are_found(store: LocalStore, mf: str, problem: str) -> None:
    export = publish(store, contents(mf=mf))
    assert (problem, "db01.mf") in [(finding.problem, finding.file) for finding in verify(store, export).findings]


OVF = descriptor({**SIZES, "db01.nvram": 250})
BOMB = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>' + OVF.partition("\n")[2]


@pytest.mark.parametrize(
    ("ovf", "problem"),
    [
        (OVF[:-20], "it is not well-formed"),
        ("\udcff" + OVF, "it is not UTF-8 at byte 0"),
        (BOMB, "it has a document type"),
        (OVF.replace("envelope/1", "envelope/2"), "not an OVF 1.1 envelope"),
        (OVF.replace("<Info>A VM</Info>", "", 1).replace("<Info>Disks</Info>", ""), "its DiskSection has no Info"),
        (OVF.replace("VirtualSystem", "Machine"), "it describes 0 virtual systems"),
        (OVF.replace(' ovf:id="db01"', ""), "its virtual system has no id"),
        (OVF.replace("<References>", "<Other/><References>"), "it does not begin with its References"),
        (OVF.replace(f'"{DISK_0}"', '"other.vmdk"'), "it refers to 'other.vmdk', which is not in the export"),
        (OVF.replace(f'"{DISK_0}"', '"other.vmdk"'), f"it does not refer to {DISK_0}"),
        (OVF.replace(f'"{DISK_0}"', f'"{DISK_1}"'), f"it refers to {DISK_1} 2 times"),
        (OVF.replace(f'size="{SIZES[DISK_0]}"', 'size="1"'), f"it says that {DISK_0} has 1 bytes"),
        (OVF.replace('ovf:id="file1"', 'ovf:id="file0"'), "2 of its files have the id 'file0'"),
        (OVF.replace('capacity="2"', 'capacity="3"'), f"it says that {DISK_0} has a capacity of 3145728 bytes"),
        (OVF.replace("byte * 2^20", "furlong"), f"it gives {DISK_0} the capacity '2' in units of 'furlong'"),
        (OVF.replace('fileRef="file0"', 'fileRef="file9"'), "its disk 'd0' refers to 'file9'"),
        (OVF.replace('fileRef="file0"', 'fileRef="file1"'), f"it describes {DISK_1} 2 times"),
        (OVF.replace('fileRef="file0"', 'fileRef="file2"'), "which is not a disk of the export"),
    ],
)
def test_a_descriptor_that_is_no_ovf_or_not_this_exports_is_found(store: LocalStore, ovf: str, problem: str) -> None:
    export = publish(store, contents(ovf=ovf))
    found = verify(store, export).findings
    assert any(problem in finding.problem and finding.file == "db01.ovf" for finding in found), found


def test_a_disk_of_another_capacity_than_the_manifests_is_found(store: LocalStore) -> None:
    export = publish(store)
    files = tuple(
        entry.model_copy(update={"capacity": 1}) if entry.name == DISK_0 else entry for entry in export.manifest.files
    )
    forge(store, export, files=files)
    assert "its disk has 2097152 bytes, the manifest says 1" in findings(store, export)[DISK_0].problem


def test_a_package_without_descriptor_or_checksums_is_found(store: LocalStore) -> None:
    files = {name: content for name, content in contents().items() if content[0] is FileRole.DISK}
    problems = [finding.problem for finding in verify(store, publish(store, files)).findings]
    assert problems == ["it names 0 files in the role of checksums", "it names 0 files in the role of descriptor"]


# -- while it goes on --------------------------------------------------------------------------------------------------


def test_progress_is_told_for_each_file_to_its_end(store: LocalStore, export: StoredExport) -> None:
    told: dict[str, tuple[int, int]] = {}
    verify_export(
        store,
        export,
        deep=True,
        stop=StopSignal(),
        progress=lambda name, position, size: told.__setitem__(name, (position, size)),
    )
    assert told == {entry.name: (entry.size, entry.size) for entry in export.manifest.files}


def test_a_stop_ends_the_reading(store: LocalStore, export: StoredExport) -> None:
    stop = StopSignal()
    with pytest.raises(Interrupted):
        verify_export(store, export, deep=True, stop=stop, progress=lambda *_: stop.set())
