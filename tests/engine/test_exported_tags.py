"""Exports leave a tag for each block of their disks, so that any part of a disk is proved without reading the rest; and
whatever rots, a disk or its tags, no reader ever hands out a wrong byte."""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

import pytest

import hyperexport
from hyperexport.base.stop import StopSignal
from hyperexport.errors import VerificationFailed
from hyperexport.formats.block_tags import BlockTagger, BlockTags
from hyperexport.formats.grain_tags import GrainTagger, GrainTags
from hyperexport.images.layer import Layer
from hyperexport.images.opening import open_disks
from hyperexport.model.content import stored_bytes
from hyperexport.model.manifest import ExportManifest, FileEntry, FileRole
from hyperexport.options.declaring import VerifyMode
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from hyperexport.steps.verification import verify
from hyperexport.store.base import RangeReader, Store, StoredExport
from hyperexport.store.local import LocalStore
from tests.engine import verifiable
from tests.engine.s3_exports import open_store, settings
from tests.engine.s3_servers import S3Server
from tests.images import StoredFile

MIB: Final = 1 << 20
SIZES: Final = (3 * MIB // 2, MIB // 2)
FORMS: Final = {
    "full": [{}],
    "ova": [{"format": "ova"}],
    "reused": [{}, {"incremental": True}],
    "the same bytes again": [{}, {"incremental": True, "snapshot": False}],
    "ova of reused disks": [{}, {"incremental": True, "format": "ova"}],
    "folder of an ova's disks": [{"format": "ova"}, {"incremental": True}],
    "delta": [{}, {"incremental": True, "max_chain": 3, "changed": True}],
    "delta kept": [{}, {"incremental": True, "max_chain": 3, "changed": True}, {"incremental": True, "max_chain": 3}],
}
"""The exports that lead to each form of export."""


@pytest.fixture(scope="module")
def vcenter() -> Generator[Simulator]:
    disks = tuple(DiskSpec(size, used=0.6, seed=number) for number, size in enumerate(SIZES))
    with Simulator([VmSpec("db01", disks=disks)]) as simulator, pytest.MonkeyPatch.context() as patch:
        for name, value in simulator.environment().items():
            patch.setenv(name, value)
        yield simulator


class Made:
    """A store whose newest export is of one form, and where its files lie on disk."""

    def __init__(self, store: Store, folder: Path, guest: list[bytes], where: dict[str, Any]) -> None:
        self.store, self.guest, self.where = store, guest, where
        self.export: Final = store.exports()[0]
        self.folder: Final = folder

    @property
    def manifest(self) -> ExportManifest:
        return self.export.manifest

    def path(self, entry: FileEntry) -> Path:
        """The file that an entry's bytes lie in."""
        return self.folder / (entry.stored_in or self.export.export_id) / (entry.member_of or entry.name)

    def read(self) -> list[bytes]:
        with open_disks(self.store, self.export, stop=StopSignal()) as disks:
            return [disk.read(0, disk.capacity) for disk in disks]


def make(vcenter: Simulator, server: S3Server, form: str, kind: str, scratch: Path) -> Made:
    where: dict[str, Any] = {"output": scratch / "exports"}
    bucket = ""
    if kind == "s3":
        bucket = server.make_bucket("b" + hashlib.sha256(str(scratch).encode()).hexdigest()[:12])
        where |= {"upload": f"s3://{bucket}/vms", "s3": settings(server)}  # and the folder: an OVA needs one
    for wanted in FORMS[form]:
        options = {"snapshot": True, **wanted}
        if options.pop("changed", False):
            vcenter.vm("db01").guest_write(0, MIB, hashlib.sha256(form.encode()).digest() * 3000)
        if not options["snapshot"]:
            vcenter.vm("db01").power_off()
        try:
            assert hyperexport.export("db01", **where, **options).warnings == ()
        finally:
            if not options["snapshot"]:
                vcenter.vm("db01").power_on()
    store: Store = LocalStore(scratch / "exports") if kind == "folder" else open_store(server, bucket, "vms")
    root = scratch / "exports" if kind == "folder" else server.root / bucket / "vms"
    (folder,) = (path for path in root.iterdir() if path.name.startswith("db01"))
    guest = [vcenter.vm("db01").read_disk(number, 0, size) for number, size in enumerate(SIZES)]
    return Made(store, folder, guest, where)


@pytest.fixture(scope="module")
def made(request: pytest.FixtureRequest, vcenter: Simulator, server: S3Server) -> Generator[Made]:
    form, kind = request.param
    with tempfile.TemporaryDirectory() as scratch:
        yield make(vcenter, server, form, kind, Path(scratch))


every_form = pytest.mark.parametrize(
    "made",
    [(form, kind) for form in FORMS for kind in ("folder", "s3")],
    indirect=True,
    ids=lambda each: f"{each[0]} in {each[1]}",
)
in_folders = pytest.mark.parametrize(
    "made",
    [(form, "folder") for form in ("full", "ova", "delta")],
    indirect=True,
    ids=lambda each: cast("str", each[0]),
)


class InRanges:
    """A store that refuses to read a disk from beginning to end."""

    def __init__(self, store: Store) -> None:
        self._store, self.url, self.refers = store, store.url, store.refers

    @contextmanager
    def open(self, export: StoredExport, name: str) -> Iterator[RangeReader]:
        with self._store.open(export, name) as reader:
            reader.chunks = lambda _=0: pytest.fail(f"{name} is read whole")  # pyright: ignore[reportAttributeAccessIssue]
            yield reader


@pytest.mark.sample("* in folder", "full in s3", "delta in s3")
@every_form
def test_every_form_of_export_has_the_tags_of_each_file_of_its_disks(made: Made) -> None:
    disks = made.manifest.stored_disks
    expected = {f"{entry.name}{suffix}" for entry in disks for suffix in (".tags", ".grains")}
    assert {entry.name for entry in made.manifest.tags} == expected
    for entry in disks:
        with (
            made.store.open(made.export, entry.name) as reader,
            made.store.open(made.export, f"{entry.name}.grains") as stored,
        ):
            found, held = GrainTags.unpack(stored.read_at(0, stored.size)), Layer(reader, entry.name)
            assert dict(found.items()) == {
                number: found.tag(number, held.compressed(number, sector)) for number, sector in held.entries()
            }
        tags = made.manifest.file(f"{entry.name}.tags")
        assert tags is not None
        assert tags.member_of is None
        with made.store.open(made.export, entry.name) as reader, made.store.open(made.export, tags.name) as stored:
            data, found = reader.read_at(0, entry.size), BlockTags.unpack(stored.read_at(0, tags.size))
        assert all(found.matches(at >> 18, data[at : at + (1 << 18)]) for at in range(0, entry.size, 1 << 18))
    _, verification = verify(made.store, made.export, VerifyMode.DEEP, StopSignal())
    assert verification.findings == ()


@pytest.mark.sample("* in folder", "full in s3", "delta in s3")
@every_form
def test_no_disk_of_any_export_is_read_whole_to_read_a_part_of_it(made: Made) -> None:
    ranges = cast("Store", InRanges(made.store))
    with open_disks(ranges, made.export, stop=StopSignal()) as disks:
        assert [disk.read(0, disk.capacity) for disk in disks] == made.guest


@pytest.mark.parametrize(
    "made", [("reused", "folder"), ("reused", "s3"), ("the same bytes again", "folder")], indirect=True
)
def test_unchanged_disks_keep_their_tags_once(made: Made) -> None:
    newest, base = (export.manifest for export in made.store.exports())
    assert [entry.written_as for entry in newest.tags] == [entry.written_as for entry in base.tags]
    once = sum(entry.size for entry in (*base.files, *newest.files) if entry.role is not FileRole.DISK)
    once += sum(entry.size for entry in base.disks) - sum(entry.size for entry in base.tags)
    assert stored_bytes([("f", base), ("f", newest)]) == once
    if isinstance(made.store, LocalStore):
        assert all(made.path(entry).stat().st_nlink == 2 for entry in newest.tags)


# -- damage: each reader of a disk, and each way to read it -----------------------------------------------------------


def read_by_convert(made: Made) -> list[bytes]:
    with tempfile.TemporaryDirectory() as into:
        hyperexport.convert_export(made.export.export_id, to="raw", into=into, **made.where)
        return [path.read_bytes() for path in sorted(Path(into).glob("*.raw"))]


def read_by_restore(made: Made) -> list[bytes]:
    disks = tuple(DiskSpec(MIB) for _ in SIZES)
    with Simulator([VmSpec("other", disks=disks)]) as target, pytest.MonkeyPatch.context() as patch:
        for name, value in target.environment().items():
            patch.setenv(name, value)
        places = {"folder": "/DC0/vm", "identity": "new"}
        hyperexport.restore(made.export.export_id, name="back", **made.where, **places)
        return [target.vm("back").read_disk(number, 0, size) for number, size in enumerate(SIZES)]


def read_in_parts(made: Made) -> list[bytes]:
    with open_disks(made.store, made.export, stop=StopSignal()) as disks:
        return [b"".join(disk.read(at, 9999) for at in range(0, disk.capacity, 9999)) for disk in disks]


READERS: Final[dict[str, Callable[[Made], list[bytes]]]] = {
    "at random": read_in_parts,
    "whole, at random": Made.read,
    "convert": read_by_convert,
    "restore": read_by_restore,
}


CHANGES: Final = ("a tag", "the key", "the head", "cut", "longer", "missing", "another disk's")
"""What becomes of a disk's tags. A restore reads none, so one of them is enough for it."""


@contextmanager
def changed(path: Path, change: Callable[[bytearray], object]) -> Iterator[None]:
    """Change the bytes of a file, of every name of it, while the block runs."""
    before = path.read_bytes()
    data = bytearray(before)
    change(data)
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(before)


def flip(at: int) -> Callable[[bytearray], object]:
    def change(data: bytearray) -> None:
        data[at] ^= 1

    return change


@in_folders
@pytest.mark.parametrize("reader", READERS)
def test_a_flipped_byte_of_a_disk_is_an_error_of_every_reader(made: Made, reader: str) -> None:
    for entry in made.manifest.stored_disks:
        for part in (0.1, 0.5, 0.9):
            with (
                changed(made.path(entry), flip((entry.offset or 0) + int(entry.size * part))),
                pytest.raises(VerificationFailed, match=entry.name),
            ):
                READERS[reader](made)
            if reader == "restore":
                break  # it costs a vCenter each time


@in_folders
@pytest.mark.parametrize(
    ("reader", "change"),
    [(reader, change) for reader in READERS for change in CHANGES if reader != "restore" or change == "a tag"],
)
def test_damaged_tags_never_let_a_reader_hand_out_a_wrong_byte(made: Made, reader: str, change: str) -> None:
    first, second = made.manifest.tags[:2]
    path = made.path(first)
    changes: dict[str, Callable[[bytearray], object]] = {
        "a tag": flip(-1),
        "the key": flip(24),
        "the head": flip(0),
        "cut": lambda data: data.__delitem__(slice(-16, None)),
        "longer": lambda data: data.extend(bytes(16)),
        "missing": lambda _: None,
        "another disk's": lambda data: data.__setitem__(slice(None), made.path(second).read_bytes()),
    }
    with changed(path, changes[change]):
        if change == "missing":
            path.unlink()
        assert READERS[reader](made) == made.guest
        # A wrong byte of the disk is found, too, while its tags are wrong.
        entry = made.manifest.stored_disks[0]
        with (
            changed(made.path(entry), flip((entry.offset or 0) + entry.size // 2)),
            pytest.raises(VerificationFailed, match=entry.name),
        ):
            READERS[reader](made)
        _, verification = verify(made.store, made.export, VerifyMode.ON, StopSignal())
        assert [finding.file for finding in verification.findings] == [first.name]
        assert made.store.exports()[0].manifest.damage == ()  # the disks are sound: a restore may use them


def test_tags_that_are_of_other_bytes_than_the_disk_are_found_by_verify(tmp_path: Path) -> None:
    """As a fault of the program that wrote them would leave them: they are what the manifest says."""
    store, name = LocalStore(tmp_path), next(iter(verifiable.DISKS))
    tagger = BlockTagger()
    tagger.write(verifiable.DISKS[name][:-1] + b"\xff")
    with store.stage(verifiable.FOLDER, verifiable.EXPORT_ID, verifiable.OWNER) as staging:
        entries = [verifiable.put(staging, each, *content) for each, content in verifiable.contents().items()]
        entries.append(verifiable.put(staging, f"{name}.tags", FileRole.TAGS, tagger.finish().pack()))
        export = staging.publish(verifiable.manifest(*entries))

    _, verification = verify(store, export, VerifyMode.ON, StopSignal())

    assert [finding.file for finding in verification.findings] == [f"{name}.tags"]
    assert "is not that of its bytes" in verification.findings[0].problem


def test_grain_tags_that_are_of_other_grains_than_the_disk_are_found_by_verify(tmp_path: Path) -> None:
    store, name = LocalStore(tmp_path), next(iter(verifiable.DISKS))
    data = verifiable.DISKS[name]
    tagger, blocks = GrainTagger(), BlockTagger()
    blocks.write(data)
    at = next(Layer(StoredFile(data), name).entries())[1] * 512 + 20
    tagger.write(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    tags = tagger.finish()
    assert tags is not None
    with store.stage(verifiable.FOLDER, verifiable.EXPORT_ID, verifiable.OWNER) as staging:
        entries = [verifiable.put(staging, each, *content) for each, content in verifiable.contents().items()]
        capacity = Layer(StoredFile(data), name).header.capacity_bytes
        entries = [
            entry.model_copy(update={"capacity": capacity}) if entry.name == name else entry for entry in entries
        ]
        entries.append(verifiable.put(staging, f"{name}.tags", FileRole.TAGS, blocks.finish().pack()))
        entries.append(verifiable.put(staging, f"{name}.grains", FileRole.TAGS, tags.pack()))
        export = staging.publish(verifiable.manifest(*entries))

    _, verification = verify(store, export, VerifyMode.ON, StopSignal())

    assert [finding.file for finding in verification.findings] == [f"{name}.grains"]
    assert "is not that of its bytes" in verification.findings[0].problem


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_cleanup_frees_the_tags_with_their_disk_but_not_those_that_a_later_export_uses(
    vcenter: Simulator, server: S3Server, tmp_path: Path, kind: str
) -> None:
    made = make(vcenter, server, "reused", kind, tmp_path)
    newest, base = made.store.exports()

    hyperexport.cleanup_exports(cleanup_max_count=1, **made.where)

    assert made.read() == made.guest
    if kind == "folder":
        assert [str(export) for export in made.store.exports()] == [str(newest)]
        shutil.rmtree(made.folder / newest.export_id)
        assert list(made.folder.glob("*/*.tags")) == []
    else:  # the newest export refers to the base's files, its tags too
        assert {str(export) for export in made.store.exports()} == {str(newest), str(base)}
