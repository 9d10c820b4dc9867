"""A rotten manifest in a store of real exports, and every job that comes after it: whole jobs, a real guest's bytes.

The bytes of a new export are compared with the disks of the simulated machine. What a cleanup may delete is worked out
from the order in which the exports were made. Single decisions, byte by byte, are in ``test_rotten_manifest.py``.
"""

import json
import re
import secrets
import shutil
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest

import hyperexport
from hyperexport.errors import ExportNotFound, ManifestInvalid, VerificationFailed
from hyperexport.model.manifest import FILE_NAME, ExportManifest
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from hyperexport.steps.preservation import preserve
from hyperexport.store.cached_store import CachedStore
from hyperexport.views.survey import survey
from hyperexport.vsphere.endpoint import VSphereEndpoint
from tests.engine.s3_servers import S3Server, rclone_s3

MIB = 1 << 20
NEWEST, MIDDLE, OLDEST = 2, 1, 0
LIMITS: tuple[dict[str, Any], ...] = (
    {"cleanup_max_count": 1},
    {"cleanup_max_age": "1s"},
    {"cleanup_max_size": 1},
    {"cleanup_min_free": 1 << 60},
)
MAIN = (
    "export_id", "base", "last_full", "moref", "instance_uuid", "vcenter", "vcenter_uuid", "started", "server_time",
    "predecessors", "name", "size", "sha256", "capacity", "disk_key", "backing_uuid", "content_id", "change_id",
    "stored_in", "written_as", "etag", "checksum", "seconds", "seal",
)  # fmt: skip
"""Fields that something could be decided by; tried in every export of every store."""
WORDS = {"preserve": b"true", "kind": b'"full"', "damage": b'["rotten"]', "verified": b'"2026-11-28T00:00:00Z"'}
"""Fields that somebody edits."""


def fields_of(schema: Any) -> list[str]:
    """Every field that a manifest may have, at any depth, by its published schema."""
    match schema:
        case dict():
            parts = cast("dict[str, Any]", schema)
            return [*parts.get("properties", ()), *(name for part in parts.values() for name in fields_of(part))]
        case list():
            return [name for part in cast("list[Any]", schema) for name in fields_of(part)]
        case _:
            return []


REST = sorted({*fields_of(ExportManifest.model_json_schema())} - {*MAIN, *WORDS})
"""All others; each is tried in one export of every kind of store."""
SAMPLES = [("local", NEWEST, "change_id"), ("local", MIDDLE, "started"), ("local", OLDEST, "size")]
SAMPLES += [("s3", NEWEST, "change_id")]
EVERY = [
    pytest.param(kind, place, field, marks=() if (kind, place, field) in SAMPLES else pytest.mark.faults)
    for kind in ("local", "s3")
    for place in (NEWEST, MIDDLE, OLDEST)
    for field in (*MAIN, *WORDS)
]
EVERY += [
    pytest.param(kind, number % 3, field, marks=pytest.mark.faults)
    for kind in ("local", "s3")
    for number, field in enumerate(REST, start=kind == "s3")
]


class Folder(NamedTuple):
    """The files of a store, past the code under test."""

    root: Path

    def names(self) -> list[str]:
        return [str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file()]

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        (self.root / name).write_bytes(data)


class Bucket(NamedTuple):
    """The objects of a store, past the code under test."""

    client: Any
    bucket: str
    prefix: str = "vms/"

    def names(self) -> list[str]:
        found = self.client.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix).get("Contents", [])
        return [item["Key"].removeprefix(self.prefix) for item in found]

    def read(self, name: str) -> bytes:
        return self.client.get_object(Bucket=self.bucket, Key=self.prefix + name)["Body"].read()

    def write(self, name: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=self.prefix + name, Body=data)


Made = dict[str, tuple[Folder | Bucket, tuple[str, ...]]]
"""For each kind of store the files of the exports, never touched, and what the exports are called."""


class Place(NamedTuple):
    """A store of three exports of db01: how jobs reach it, its files, the exports' names, oldest first."""

    kind: str
    url: str
    options: dict[str, Any]
    names: tuple[str, ...]
    files: "Folder | Bucket"

    def manifest(self, name: str) -> bytes:
        return self.files.read(f"{name}/{FILE_NAME}")

    def left(self) -> set[str]:
        return {file.removesuffix(f"/{FILE_NAME}") for file in self.files.names() if file.endswith(FILE_NAME)}

    def store(self) -> Any:
        return hyperexport.open_store(self.url, s3=self.s3)

    @property
    def s3(self) -> hyperexport.S3Settings | None:
        endpoint = self.options.get("s3_endpoint")
        return hyperexport.S3Settings(endpoint_url=endpoint) if endpoint else None


@pytest.fixture(scope="module")
def vcenter() -> Generator[Simulator]:
    """A running VM of two disks, whose changes are tracked."""
    with Simulator([VmSpec("db01", disks=(DiskSpec(2 * MIB), DiskSpec(1 * MIB)))]) as simulator:
        yield simulator


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Generator[S3Server]:
    with pytest.MonkeyPatch.context() as patch, rclone_s3(tmp_path_factory.mktemp("rclone")) as running:
        patch.setenv("AWS_ACCESS_KEY_ID", running.access_key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", running.secret_key)
        patch.setenv("AWS_CA_BUNDLE", str(running.ca_file))
        yield running


def login(simulator: Simulator) -> VSphereEndpoint:
    return VSphereEndpoint(
        url=simulator.url, username=simulator.username, password=simulator.password, ca_file=str(simulator.ca_file)
    )


def export(simulator: Simulator, options: dict[str, Any], **more: Any) -> Any:
    return hyperexport.export("db01", vsphere=login(simulator), snapshot=True, incremental=True, **options, **more)


def make_three(simulator: Simulator, options: dict[str, Any]) -> list[str]:
    """Three exports. The first disk changes before each, and after the last one; the second never does."""
    names: list[str] = []
    for _ in range(3):
        names.append("/".join(export(simulator, options).locations[0].split("/")[-2:]))
        simulator.vm("db01").guest_write(0, secrets.randbelow(3000) * 512, secrets.token_bytes(4096))
    return names


@pytest.fixture(scope="module")
def made(vcenter: Simulator, s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    bucket = s3.make_bucket("made")
    in_s3 = {"upload": f"s3://{bucket}/vms", "keep_local": False, "s3_endpoint": s3.endpoint_url}
    return {
        "local": (Folder(folder), tuple(make_three(vcenter, {"output": folder}))),
        "s3": (Bucket(s3.client(), bucket), tuple(make_three(vcenter, in_s3))),
    }


def copy_of(kind: str, made: Made, s3: S3Server, tmp_path: Path) -> Place:
    """The three exports once more, to be spoilt."""
    source, names = made[kind]
    if isinstance(source, Folder):
        shutil.copytree(source.root, tmp_path / "store")
        store = tmp_path / "store"
        return Place(kind, str(store), {"output": store}, names, Folder(store))
    copy = Bucket(source.client, s3.make_bucket(f"b{secrets.token_hex(8)}"))
    for name in source.names():
        copy.write(name, source.read(name))
    url = f"s3://{copy.bucket}/vms"
    return Place(kind, url, {"upload": url, "keep_local": False, "s3_endpoint": s3.endpoint_url}, names, copy)


def spoil(data: bytes, field: str) -> bytes:
    """Have the first such field say something else: by one flipped bit where its value has one to flip, or edited."""
    if field in WORDS:
        spoilt = re.sub(rb'("%s": )(\[[^\]]*\]|[^,\n]*)' % field.encode(), rb"\g<1>" + WORDS[field], data, count=1)
    else:
        found = re.search(rb'"%s": ' % field.encode(), data)
        if found is None:
            pytest.skip(f"this manifest has no {field}")
        at = found.end()
        literal = re.compile(rb"true|false|null|\[\]|\{\}").match(data, at)
        other = {b"true": b"false", b"false": b"true", b"null": b"0", b"[]": b"[0]", b"{}": b'{"a": 0}'}
        scalar = re.compile(rb'(?:\[\s*)?"?[^",\n\]{]*?([0-9])|"[^"\n]*?([A-Za-z])').match(data, at)
        if literal:
            spoilt = data[:at] + other[literal[0]] + data[literal.end() :]
        else:  # of a list or an object of more, its name
            at = scalar.start(scalar.lastindex or 0) if scalar else found.start() + 1
            spoilt = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    json.loads(spoilt)
    if spoilt == data:
        pytest.skip(f"{field} says so already")
    return spoilt


def refers_to(place: Place, name: str, other: str) -> bool:
    """Whether an export's own manifest says that another one holds some of its bytes."""
    files = json.loads(place.manifest(name))["files"]
    return other.split("/")[1] in {file.get("stored_in") for file in files}


def disks_of(place: Place, name: str) -> list[bytes]:
    """What the disks of an export hold, read from the store."""
    with hyperexport.open_export(name, **place.options) as opened:
        return [disk.read(0, disk.capacity) for disk in opened.disks]


def guest(simulator: Simulator, folder: Path) -> list[bytes]:
    """What the machine's disks hold now."""
    paths = [folder / f"disk-{number}.raw" for number in (0, 1)]
    for number, path in enumerate(paths):
        simulator.vm("db01").save_raw(number, path)
    return [path.read_bytes() for path in paths]


@pytest.mark.parametrize(("kind", "place", "field"), EVERY)
def test_no_job_after_it_believes_a_manifest_with_one_wrong_value(
    vcenter: Simulator,
    s3: S3Server,
    made: Made,
    tmp_path: Path,
    kind: str,
    place: int,
    field: str,
) -> None:
    store = copy_of(kind, made, s3, tmp_path)
    rotten, sound = store.names[place], [name for index, name in enumerate(store.names) if index != place]
    spoilt = spoil(store.manifest(rotten), field)
    store.files.write(f"{rotten}/{FILE_NAME}", spoilt)
    # In S3 the exports after it use its bytes, and nobody can prove which.
    uses_it = {name for name in sound if kind == "s3" and refers_to(store, name, rotten)}
    whole = [name for name in sound if name not in uses_it]

    listing = store.store().listing()
    assert {str(one) for one in listing.exports} == set(whole)
    assert {str(one) for one in listing.damaged} == {rotten, *uses_it}
    (vm,) = survey(CachedStore(store.store())).vms
    assert [export.export_id for export in vm.exports] == [name.split("/")[1] for name in reversed(whole)]
    assert set(vm.damaged) == {name.split("/")[1] for name in (rotten, *uses_it)}
    assert any(rotten.split("/")[1] in words for words in vm.missing(datetime.now(UTC), timedelta(hours=1)))

    with pytest.raises(VerificationFailed) as failed:
        hyperexport.verify_exports(**store.options)
    bad = {item.location.removeprefix(f"{store.url}/") for item in failed.value.exports if not item.verification.ok}
    assert bad == {rotten, *uses_it}
    with pytest.raises(ExportNotFound), hyperexport.open_export(rotten, **store.options):
        pass
    with pytest.raises(ExportNotFound):
        hyperexport.convert_export(rotten, to="raw", into=tmp_path / "raw", **store.options)
    with pytest.raises(ManifestInvalid):
        preserve([store.store()], [rotten], on=True)
    if whole:
        with hyperexport.open_export(vm="db01", **store.options) as opened:
            assert str(opened.export) == whole[-1]

    new = export(vcenter, store.options, verify=True)
    name = "/".join(new.locations[0].split("/")[-2:])
    assert disks_of(store, name) == guest(vcenter, tmp_path)
    assert new.manifest.base == (whole[-1].split("/")[1] if whole else None)
    assert any(rotten in warning for warning in new.warnings)
    assert new.verified

    first = (place + len(field)) % len(LIMITS)
    for limit in (*LIMITS[first:], *LIMITS[:first]):
        (done,) = hyperexport.cleanup_exports(cleanup=True, **limit, **store.options)
        assert rotten in {str(one) for one in done.plan.damaged}
        if kind == "s3":
            assert done.deleted == ()  # the damaged one may use any of them
    assert store.left() == ({*store.names, name} if kind == "s3" else {rotten, name})
    assert store.manifest(rotten) == spoilt
    assert disks_of(store, name) == guest(vcenter, tmp_path)
