"""Conversions of stored exports: what is written is the guest's disk, or nothing is."""

import os
import tarfile
import threading
from pathlib import Path

import pytest

from hyperexport.base.stop import StopSignal
from hyperexport.base.units import MIB, SECTOR
from hyperexport.convert import conversion, output_files
from hyperexport.convert.conversion import convert_export
from hyperexport.convert.package import merge, resized
from hyperexport.convert.raw import write_raw
from hyperexport.convert.values import Target
from hyperexport.errors import (
    ConversionFailed,
    DiskFull,
    HyperExportError,
    Interrupted,
    TargetExists,
    ToolMissing,
    UsageError,
    VerificationFailed,
)
from hyperexport.formats.vmdk import GRAIN
from hyperexport.images.disk import Disk
from hyperexport.images.layer import Layer
from hyperexport.images.stream import StreamedDisk, StreamedPart
from hyperexport.store.local import LocalStore
from tests.engine import stored_images, verifiable
from tests.images import StoredFile, disk_of, entry_of, vmdk_of


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def everything(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("form", stored_images.FORMS)
def test_a_raw_image_is_the_guests_disk_and_sparse(form: str, store: LocalStore, tmp_path: Path) -> None:
    export = stored_images.publish(form, store, tmp_path)

    made = convert_export(store, export, to=Target.RAW, into=tmp_path / "out", stop=StopSignal())

    assert [file.path.name for file in made.files] == ["db01-disk-0.raw", "db01-disk-1.raw"]
    assert [file.path.read_bytes() for file in made.files] == stored_images.GUEST
    assert all(file.allocated < file.size for file in made.files)
    assert everything(tmp_path / "out") == ["db01-disk-0.raw", "db01-disk-1.raw"]


def test_a_chain_of_a_base_and_deltas_is_written_as_the_newest_sees_it(tmp_path: Path) -> None:
    capacity = 40 * MIB + SECTOR
    files = [
        vmdk_of(capacity, {0: b"base", 5: b"base" * 999, 600: b"base", 640: b"end"}),
        vmdk_of(capacity, {5: b"", 7: b"one"}, delta=True),
        vmdk_of(capacity, {7: b"two", 640: b"new end"}, delta=True),
    ]
    stored = [StoredFile(data) for data in files]
    parts = [StreamedPart(Layer(file, "X"), file, entry_of(file.data)) for file in stored]
    expected = bytearray(capacity)
    for number, content in ((0, b"base"), (600, b"base"), (7, b"two"), (640, b"new end")):
        expected[number * GRAIN : number * GRAIN + len(content)] = content

    with Disk([part.layer for part in parts]) as disk, (tmp_path / "raw").open("wb") as raw:
        write_raw(StreamedDisk(disk, parts, StopSignal()), raw.fileno())
    with disk_of(*files) as chain:
        merged = b"".join(piece for piece, _ in merge(chain, "whole.vmdk"))

    assert (tmp_path / "raw").read_bytes() == expected
    with disk_of(merged) as whole:
        assert whole.read(0, capacity) == expected
        assert [number for number, _ in whole.places()] == [0, 7, 600, 640]


def test_a_package_is_the_exports_own_files_byte_for_byte(store: LocalStore, tmp_path: Path) -> None:
    export = stored_images.publish("reused", store, tmp_path)
    files = {name: data for name, (_, data) in verifiable.contents().items() if not name.endswith(".json")}

    convert_export(store, export, to=Target.OVF, into=tmp_path / "ovf", stop=StopSignal())
    convert_export(store, export, to=Target.OVA, into=tmp_path / "ova", stop=StopSignal())

    assert {path.name: path.read_bytes() for path in (tmp_path / "ovf").iterdir()} == files
    with tarfile.open(tmp_path / "ova" / "db01.ova") as packed:
        assert packed.getnames()[0] == "db01.ovf"
        assert {name: packed.extractfile(name).read() for name in packed.getnames()} == files  # type: ignore[union-attr]


def test_a_package_out_of_an_ova_is_the_same_folder(store: LocalStore, tmp_path: Path) -> None:
    export = stored_images.publish("ova", store, tmp_path)

    convert_export(store, export, to=Target.OVF, into=tmp_path / "ovf", stop=StopSignal())

    assert (tmp_path / "ovf" / "db01-disk-1.vmdk").read_bytes() == verifiable.DISKS["db01-disk-1.vmdk"]


def test_a_merged_disks_size_is_changed_in_the_descriptor_and_nothing_else() -> None:
    text = verifiable.descriptor({"a.vmdk": 10, "b.vmdk": 20}).encode()
    changed = resized(text, "b.vmdk", size=12345, populated=99)
    assert changed == text.replace(b'ovf:size="20"', b'ovf:size="12345"')
    with pytest.raises(ConversionFailed, match=r"does not name c\.vmdk"):
        resized(text, "c.vmdk", size=1, populated=1)


# -- failures leave nothing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", [Target.RAW, Target.QCOW2, Target.OVF, Target.OVA])
@pytest.mark.parametrize("form", ["ovf", "ova"])
def test_a_damaged_disk_is_an_error_that_names_it_and_leaves_nothing(
    to: Target, form: str, store: LocalStore, tmp_path: Path, qemu_img: Path
) -> None:
    export = stored_images.publish(form, store, tmp_path)
    name = export.manifest.disks[1].name
    for offset in (0, 600, len(verifiable.DISKS[name]) // 2, len(verifiable.DISKS[name]) - 1):
        with (
            stored_images.rotten_byte(store, export, name, offset),
            pytest.raises(VerificationFailed, match=rf"{name} of {export}"),
        ):
            convert_export(store, export, to=to, into=tmp_path / "out", stop=StopSignal())
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", [Target.RAW, Target.OVF])
def test_a_file_of_that_name_is_never_overwritten(to: Target, store: LocalStore, tmp_path: Path) -> None:
    export = stored_images.publish("ovf", store, tmp_path)
    there = tmp_path / "out" / {Target.RAW: "db01-disk-1.raw", Target.OVF: "db01.mf"}[to]
    there.parent.mkdir()
    there.write_text("mine")

    with pytest.raises(TargetExists, match="already exists"):
        convert_export(store, export, to=to, into=tmp_path / "out", stop=StopSignal())

    assert everything(tmp_path / "out") == [there.name]
    assert there.read_text() == "mine"


def test_a_file_that_comes_meanwhile_is_not_overwritten_either(store: LocalStore, tmp_path: Path) -> None:
    export = stored_images.publish("ovf", store, tmp_path)
    there = tmp_path / "out" / "db01-disk-1.raw"

    with pytest.raises(TargetExists):
        convert_export(
            store,
            export,
            to=Target.RAW,
            into=tmp_path / "out",
            stop=StopSignal(),
            progress=lambda *_: there.write_text("mine") and None,
        )

    assert everything(tmp_path / "out") == [there.name]
    assert there.read_text() == "mine"


def test_no_room_is_told_before_anything_is_written(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = stored_images.publish("ovf", store, tmp_path)
    monkeypatch.setattr(
        output_files.shutil, "disk_usage", lambda _: os.terminal_size((1, 1)) and type("U", (), {"free": 9})
    )

    for to in (Target.RAW, Target.VHDX, Target.OVA):
        with pytest.raises(DiskFull, match="has 9 B free, the conversion needs"):
            convert_export(store, export, to=to, into=tmp_path / "out", stop=StopSignal())
    assert not (tmp_path / "out").exists()


def test_a_stopped_conversion_leaves_nothing(store: LocalStore, tmp_path: Path) -> None:
    export = stored_images.publish("ovf", store, tmp_path)
    for to in (Target.RAW, Target.OVA, Target.QCOW2):
        stop = StopSignal()
        with pytest.raises(Interrupted):
            convert_export(
                store, export, to=to, into=tmp_path / "out", stop=stop, progress=lambda *_, stop=stop: stop.set()
            )
        assert not (tmp_path / "out").exists()


def test_what_a_killed_conversion_left_is_overwritten_and_a_living_ones_file_is_not(
    store: LocalStore, tmp_path: Path
) -> None:
    export = stored_images.publish("ovf", store, tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    (out / "db01-disk-0.raw.partial").write_bytes(b"half" * 9_999_999)
    failed: list[HyperExportError] = []

    def convert_again(*_: object) -> None:
        def other() -> None:
            try:
                convert_export(store, export, to=Target.RAW, into=out, disks=[0], stop=StopSignal())
            except HyperExportError as error:
                failed.append(error)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    made = convert_export(store, export, to=Target.RAW, into=out, disks=[0], stop=StopSignal(), progress=convert_again)

    assert made.files[0].path.read_bytes() == stored_images.GUEST[0]
    assert everything(out) == ["db01-disk-0.raw"]
    assert isinstance(failed[0], ConversionFailed)


def test_without_qemu_img_it_is_named_and_raw_still_works(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = stored_images.publish("ovf", store, tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ToolMissing, match="qemu-img is not installed"):
        convert_export(store, export, to=Target.QCOW2, into=tmp_path / "out", stop=StopSignal())
    assert not (tmp_path / "out").exists()
    assert convert_export(store, export, to=Target.RAW, into=tmp_path / "out", stop=StopSignal()).files


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"to": Target.RAW, "disks": [2]}, "has no disk 2"),
        ({"to": Target.OVA, "disks": [0]}, "has all disks"),
        ({"to": Target.OVF, "libvirt": True}, "libvirt does not take ovf"),
        ({"to": Target.RAW, "libvirt": True, "disks": [0]}, "a domain has all disks"),
    ],
)
def test_arguments_that_do_not_fit_together_are_refused(
    arguments: dict[str, object], message: str, store: LocalStore, tmp_path: Path
) -> None:
    export = stored_images.publish("ovf", store, tmp_path)
    with pytest.raises(UsageError, match=message):
        convert_export(store, export, into=tmp_path / "out", stop=StopSignal(), **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_progress_ends_at_the_whole(store: LocalStore, tmp_path: Path) -> None:
    export = stored_images.publish("ovf", store, tmp_path)
    for to in (Target.RAW, Target.OVF, Target.QCOW2):
        told: list[tuple[str, int, int]] = []
        conversion.convert_export(
            store,
            export,
            to=to,
            into=tmp_path / to.value,
            stop=StopSignal(),
            progress=lambda *now, told=told: told.append(now),
        )
        assert all(0 <= done <= total for _, done, total in told)
        assert told[-1][1] == told[-1][2]
