"""Whatever happens to stored bytes is found: every single flipped bit, and files that are missing, cut or exchanged.

Flips are made in memory under the code that reads and compares, for that is what they meet on a disk, too; a sample
goes through the library's own ``verify_exports`` over real files and real objects.
"""

import random
import zlib
from collections.abc import Callable, Iterable
from itertools import pairwise, product
from pathlib import Path
from typing import Any, Protocol

import pytest
from pydantic import SecretStr

import hyperexport
from hyperexport.base.stop import StopSignal
from hyperexport.base.units import KIB, SECTOR
from hyperexport.errors import VerificationFailed
from hyperexport.formats.block_tags import BlockTagger
from hyperexport.formats.grain_tags import GrainTagger
from hyperexport.formats.vmdk import Parent
from hyperexport.formats.vmdk_writer import ZERO_GRAIN, StreamWriter
from hyperexport.model.manifest import FILE_NAME, FileEntry, FileRole
from hyperexport.simulator.disks import Disk
from hyperexport.store.base import StoredExport
from hyperexport.store.local import LocalStore
from hyperexport.store.s3 import S3Location, S3Settings, S3Store
from hyperexport.verify.export import verify_export
from hyperexport.verify.reading import compare, read_content
from tests.engine.s3_servers import S3Server
from tests.engine.verifiable import DISKS, an_entry, publish, publish_ova
from tests.faults.memory import Bytes, InMemory

Record = Callable[[str, object], None]

DISK_0, DISK_1 = DISKS
TABLES = 8 * SECTOR
"""What a stream ends with: the tables of grains, their markers, the footer, the end of the stream."""
ZEROS = zlib.compress(ZERO_GRAIN)

SMALL = ("db01.ovf", "db01.mf", "db01.vm.json", "db01.nvram")
FILES = (*SMALL, *DISKS)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "exports")


@pytest.fixture
def export(store: LocalStore) -> StoredExport:
    return publish(store)


@pytest.fixture
def folder(tmp_path: Path, export: StoredExport) -> Path:
    return tmp_path / "exports" / str(export)


Made = Callable[[], tuple[FileEntry, bytearray]]


def undetected(
    entry: FileEntry, data: bytearray, flips: Iterable[tuple[int, int]]
) -> tuple[int, list[tuple[int, int]]]:
    """Flip these bits one by one, read each time as verification reads; how many there were, and which were missed."""
    missed: list[tuple[int, int]] = []
    count = 0
    for place, bit in flips:
        count += 1
        data[place] ^= 1 << bit
        reader = Bytes(data)
        content = read_content(entry, reader.chunks(), reader)
        if compare(entry, content.size, content.sha256, content.damage) is None:
            missed.append((place, bit))
        data[place] ^= 1 << bit
    return count, missed


def every_bit(size: int) -> Iterable[tuple[int, int]]:
    return product(range(size), range(8))


def small_disk() -> tuple[FileEntry, bytearray]:
    """A disk of four grains, one of them populated."""
    image = Disk(256 * KIB, seed=3, used=0.25)
    data = bytearray(b"".join(image.freeze().stream()))
    return an_entry("small.vmdk", FileRole.DISK, bytes(data)).model_copy(update={"capacity": 256 * KIB}), data


def small_delta() -> tuple[FileEntry, bytearray]:
    """A delta on that disk: a grain with data, and one that became zero."""
    writer = StreamWriter(256 * KIB, name="small.vmdk", content_id=7, parent=Parent(6, "base-2000-x.vmdk"))
    grains = (writer.precompressed(128, zlib.compress(bytes(range(256)) * 256)), writer.precompressed(256, ZEROS))
    data = bytearray(b"".join((writer.header(), *grains, writer.finish())))
    return an_entry("small.vmdk", FileRole.BASE, bytes(data)).model_copy(update={"capacity": 256 * KIB}), data


MADE = pytest.mark.parametrize("made", [small_disk, small_delta], ids=["whole", "delta"])


@pytest.mark.parametrize("name", SMALL)
def test_every_bit_of_the_small_files_counts(
    export: StoredExport, folder: Path, name: str, record_property: Record
) -> None:
    entry = export.manifest.file(name)
    assert entry
    data = bytearray((folder / name).read_bytes())
    count, missed = undetected(entry, data, every_bit(len(data)))
    assert missed == []
    assert count == 8 * entry.size
    record_property("flipped bits found", count)


def test_every_bit_of_the_checks_beside_a_delta_counts(record_property: Record) -> None:
    _, delta = small_delta()
    blocks, grains = BlockTagger(), GrainTagger()
    blocks.write(bytes(delta))
    grains.write(bytes(delta))
    of_grains = grains.finish()
    assert of_grains
    count = 0
    for packed in (blocks.finish().pack(), of_grains.pack()):
        data = bytearray(packed)
        flips, missed = undetected(an_entry("small.vmdk.tags", FileRole.TAGS, packed), data, every_bit(len(data)))
        assert missed == []
        count += flips
    assert count > 8 * 32
    record_property("flipped bits found", count)


@MADE
def test_a_sample_of_the_bits_of_a_disk_counts(made: Made, seed: str, record_property: Record) -> None:
    entry, data = made()
    chance = random.Random(seed)
    places = {*range(SECTOR), *chance.sample(range(len(data)), 500)}
    count, missed = undetected(entry, data, [(place, chance.randrange(8)) for place in sorted(places)])
    assert missed == []
    record_property("flipped bits found", count)


@pytest.mark.faults
@pytest.mark.timeout(3600)
@MADE
def test_every_byte_of_a_disk_and_every_bit_of_its_structure_counts(
    made: Made, seed: str, record_property: Record
) -> None:
    entry, data = made()
    chance = random.Random(seed)
    structure = {*range(2 * SECTOR), *range(len(data) - TABLES, len(data))}
    flips = [
        (place, bit)
        for place in range(len(data))
        for bit in (range(8) if place in structure else [chance.randrange(8)])
    ]
    count, missed = undetected(entry, data, flips)
    assert missed == []
    record_property("flipped bits found", count)


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_a_sample_of_the_bytes_of_an_ova_and_of_its_own_structure_counts(
    store: LocalStore, tmp_path: Path, seed: str, record_property: Record
) -> None:
    export = publish_ova(store)
    held = InMemory(store, tmp_path / "exports" / str(export))
    size = len(held.data["db01.ova"])
    inside = {
        place
        for entry in export.manifest.files
        if entry.member_of
        for place in range(entry.offset or 0, (entry.offset or 0) + entry.size)
    }
    chance = random.Random(seed)
    structure = sorted(set(range(size)) - inside)
    places = [*chance.sample(structure, min(len(structure), 1500)), *chance.sample(sorted(inside), 500)]
    for place in places:
        with held.flipped("db01.ova", place, chance.randrange(8)):
            assert not verify_export(held, export, deep=True, stop=StopSignal()).ok, place  # type: ignore[arg-type]
    assert verify_export(held, export, deep=True, stop=StopSignal()).ok  # type: ignore[arg-type]
    record_property("flipped bits found", len(places))


class Files(Protocol):
    """Damage to the files of an export, and how it is undone."""

    def read(self, name: str) -> bytes: ...
    def write(self, name: str, data: bytes) -> None: ...
    def remove(self, name: str) -> None: ...


class OnDisk:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        (self._folder / name).write_bytes(data)

    def remove(self, name: str) -> None:
        (self._folder / name).unlink()


class InBucket:
    def __init__(self, server: S3Server, bucket: str, prefix: str) -> None:
        self._client, self._bucket, self._prefix = server.client(), bucket, prefix

    def read(self, name: str) -> bytes:
        return self._client.get_object(Bucket=self._bucket, Key=f"{self._prefix}/{name}")["Body"].read()

    def write(self, name: str, data: bytes) -> None:
        self._client.put_object(Bucket=self._bucket, Key=f"{self._prefix}/{name}", Body=data)

    def remove(self, name: str) -> None:
        self._client.delete_object(Bucket=self._bucket, Key=f"{self._prefix}/{name}")


def damages(files: Files, names: tuple[str, ...], disks: tuple[str, ...]) -> Iterable[str]:
    """Do each damage to whole files, say it in words, and undo it once it has been looked for."""
    for name in names:
        data = files.read(name)
        for words, damaged in (
            ("flipped", bytes([data[0] ^ 1]) + data[1:]),
            ("flipped at its end", data[:-1] + bytes([data[-1] ^ 0x80])),
            ("cut by a byte", data[:-1]),
            ("cut in half", data[: len(data) // 2]),
            ("emptied", b""),
            ("longer by a byte", data + b"\0"),
        ):
            files.write(name, damaged)
            yield f"{name} {words}"
        files.remove(name)
        yield f"{name} missing"
        files.write(name, data)
    for one, other in pairwise(disks):
        first, second = files.read(one), files.read(other)
        files.write(one, second)
        files.write(other, first)
        yield f"{one} and {other} exchanged"
        files.write(one, first)
        files.write(other, second)
    files.write("stranger.vmdk", b"KDMV")
    yield "a stranger among the files"
    files.remove("stranger.vmdk")


def assert_each_is_found(
    verify: Callable[[], Any], files: Files, names: tuple[str, ...], disks: tuple[str, ...]
) -> int:
    """Each damage in turn makes verification fail; afterwards the export is sound again."""
    found = 0
    for words in damages(files, names, disks):
        with pytest.raises(VerificationFailed):
            pytest.fail(f"not found: {words}: {verify()}")
        found += 1
    verify()
    return found


def test_files_that_are_missing_cut_exchanged_or_extra_are_found(
    store: LocalStore, export: StoredExport, folder: Path, record_property: Record
) -> None:
    def verify() -> object:
        # What a verification notes in the manifest must not be what the next one sees.
        manifest = (folder / FILE_NAME).read_bytes()
        try:
            return hyperexport.verify_exports(output=store.url)
        finally:
            (folder / FILE_NAME).write_bytes(manifest)

    record_property("damaged files found", assert_each_is_found(verify, OnDisk(folder), FILES, tuple(DISKS)))


@pytest.mark.faults
def test_damage_to_a_manifest_is_found_by_the_library(
    store: LocalStore, export: StoredExport, folder: Path, seed: str, record_property: Record
) -> None:
    data = (folder / FILE_NAME).read_bytes()
    chance = random.Random(seed)
    for place in chance.sample(range(len(data)), 150):
        (folder / FILE_NAME).write_bytes(
            data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]
        )
        with pytest.raises(VerificationFailed):
            pytest.fail(f"not found at {place}: {hyperexport.verify_exports(output=store.url)}")
        (folder / FILE_NAME).write_bytes(data)
    hyperexport.verify_exports(output=store.url)
    record_property("flipped bits found", 150)


@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("form", ["ovf", "ova"])
def test_damage_in_a_bucket_is_found(s3: S3Server, tmp_path: Path, form: str, record_property: Record) -> None:
    bucket = s3.make_bucket(f"damage-{form}")
    settings = S3Settings(
        endpoint_url=s3.endpoint_url,
        ca_bundle=s3.ca_file,
        access_key=SecretStr(s3.access_key),
        secret_key=SecretStr(s3.secret_key),
    )
    store = S3Store(S3Location(bucket=bucket, prefix="vms"), settings, stop=StopSignal())
    export = publish(store) if form == "ovf" else publish_ova(LocalStore(tmp_path / "local"), store)
    files = InBucket(s3, bucket, f"vms/{export}")
    manifest = files.read(FILE_NAME)

    def verify() -> object:
        try:
            return hyperexport.verify_exports(
                keep_local=False, upload=store.url, s3_endpoint=s3.endpoint_url, s3=settings, verify="deep"
            )
        finally:
            files.write(FILE_NAME, manifest)

    names = FILES if form == "ovf" else ("db01.ova", "db01.vm.json")
    disks = tuple(DISKS) if form == "ovf" else ()
    record_property("damaged files found", assert_each_is_found(verify, files, names, disks))
