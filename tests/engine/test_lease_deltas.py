"""A delta of a whole stream is made from the tags of the base's grains: the base is not read, whatever the store, and
what is wrong with tags or with change tracking never leaves out a change."""

import random
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Final

import pytest

from hyperexport.base.stop import StopSignal
from hyperexport.formats.vmdk import GRAIN
from hyperexport.options.declaring import VerifyMode
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from hyperexport.steps.verification import verify
from hyperexport.store.base import StoredExport
from hyperexport.store.local import LocalStore
from tests.chains import Place, differing_by_qemu, folder_place, guest, s3_place, stored, written
from tests.engine.s3_exports import settings
from tests.engine.s3_proxy import faulty_proxy
from tests.engine.s3_servers import S3Server

MIB: Final = 1 << 20
SIZE: Final = 3 * MIB + 512 * 3


@pytest.fixture
def vcenter(monkeypatch: pytest.MonkeyPatch) -> Generator[Simulator]:
    with Simulator([VmSpec("db01", disks=(DiskSpec(SIZE, used=0.6, seed=5),))]) as simulator:
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        yield simulator


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "folder":
        return folder_place(tmp_path / "exports")
    server: S3Server = request.getfixturevalue("server")
    return s3_place(server, server.make_bucket(f"b{abs(hash(request.node.name)) % 10**9}"))


def change(vcenter: Simulator, seed: int, at: int = 16 * GRAIN) -> None:
    vcenter.vm("db01").guest_write(0, at, random.Random(seed).randbytes(1000))


def is_right(place: Place, vcenter: Simulator, scratch: Path) -> bool:
    """Whether the newest export is the guest for our reader and for qemu-img, and verifies."""
    newest = place.newest()
    if isinstance(place.store, LocalStore):
        assert differing_by_qemu(place.store, newest, guest(vcenter), scratch) == []
    assert verify(place.store, newest, VerifyMode.DEEP, StopSignal())[1].findings == ()
    return stored(place.store, newest) == guest(vcenter)


def path_of(place: Place, export: StoredExport, name: str, server: S3Server | None) -> Path:
    """Where a file of an export lies on the disk of the store, or of its server."""
    (entry,) = [each for each in export.manifest.files if each.name == name]
    if server is None:
        return Path(place.store.url) / str(export) / name
    return server.root / place.store.url.partition("//")[2] / export.folder / (entry.written_as or "")


def test_a_delta_to_s3_downloads_nothing_of_the_disk_that_it_builds_on(
    vcenter: Simulator, server: S3Server, tmp_path: Path
) -> None:
    bucket = server.make_bucket("no-download")
    place = s3_place(server, bucket)
    for day in range(2):
        change(vcenter, day)
        place.export()
    change(vcenter, 3)
    change(vcenter, 4, at=0)
    with faulty_proxy(server, tmp_path) as proxy:
        through = settings(server, endpoint_url=proxy.endpoint_url, ca_bundle=proxy.ca_file)
        manifest = place.export(s3=through).manifest
        read = [request for request in proxy.requests if request.startswith("GET") and ".vmdk" in request]

    assert len(manifest.disks[0].chain) == 2
    assert all(".vmdk.grains" in request for request in read)
    assert len(read) == 2  # of the base and of the first delta, once each
    assert is_right(place, vcenter, tmp_path)


def test_each_manifest_of_a_chain_is_downloaded_once_to_be_read_and_once_to_be_published_upon(
    vcenter: Simulator, server: S3Server, tmp_path: Path
) -> None:
    place, days = s3_place(server, server.make_bucket("once-each")), 4
    for day in range(days):
        change(vcenter, day)
        place.export()
    change(vcenter, days)
    with faulty_proxy(server, tmp_path) as proxy:
        through = settings(server, endpoint_url=proxy.endpoint_url, ca_bundle=proxy.ca_file)
        assert len(place.export(s3=through).manifest.disks[0].chain) == days
        read = Counter(one for one in proxy.requests if one.startswith("GET") and "/export.json" in one)
    assert sorted(read.values()) == [2] * days
    assert is_right(place, vcenter, tmp_path)


def test_a_manifest_that_was_written_anew_is_read_anew(vcenter: Simulator, server: S3Server) -> None:
    place, bucket = s3_place(server, server.make_bucket("anew")), "anew"
    place.export()
    key = f"vms/{place.newest()}/export.json"
    client = server.client()
    data = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    client.put_object(Bucket=bucket, Key=key, Body=data[: len(data) // 2])
    listing = place.store.listing()
    assert (listing.exports, len(listing.damaged)) == ((), 1)
    client.put_object(Bucket=bucket, Key=key, Body=data)
    assert len(place.store.exports()) == 1
    client.delete_object(Bucket=bucket, Key=key)
    assert place.store.exports() == []


def test_a_disk_that_turns_out_as_it_was_downloads_nothing_either(
    vcenter: Simulator, server: S3Server, tmp_path: Path
) -> None:
    place = s3_place(server, server.make_bucket("as-it-was"))
    change(vcenter, 1)
    place.export()
    change(vcenter, 1)
    with faulty_proxy(server, tmp_path) as proxy:
        through = settings(server, endpoint_url=proxy.endpoint_url, ca_bundle=proxy.ca_file)
        manifest = place.export(s3=through).manifest
        read = [request for request in proxy.requests if request.startswith("GET") and ".vmdk" in request]

    assert written(manifest) == 0
    assert manifest.disks[0].transferred
    assert all(".vmdk.grains" in request for request in read)
    assert is_right(place, vcenter, tmp_path)


@pytest.mark.sample("folder-*", "s3-a bit")
@pytest.mark.parametrize("damage", ["a bit", "cut", "missing", "another file's"])
def test_damaged_tags_of_grains_never_leave_out_a_change(
    vcenter: Simulator, place: Place, damage: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    server = None if isinstance(place.store, LocalStore) else request.getfixturevalue("server")
    for day in range(2):
        change(vcenter, day)
        place.export()
    base = place.newest()
    names = [entry.name for entry in base.manifest.tags if entry.name.endswith(".grains")]
    path, other = (path_of(place, base, name, server) for name in names)
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(data[:-16])
    elif damage == "another file's":
        path.write_bytes(other.read_bytes())
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    change(vcenter, 9)

    result = place.export()

    assert any("tags of the grains" in warning or ".grains" in warning for warning in result.manifest.warnings)
    assert len(result.manifest.disks[0].chain) == (2 if isinstance(place.store, LocalStore) else 0)
    assert stored(place.store, place.newest()) == guest(vcenter)


def without_grain_tags(place: Place, server: S3Server | None) -> None:
    """Make the newest export one of a version that left no tags of grains."""
    export = place.newest()
    gone = [entry for entry in export.manifest.tags if entry.name.endswith(".grains")]
    for entry in gone:
        path_of(place, export, entry.name, server).unlink()
    files = tuple(entry for entry in export.manifest.files if entry not in gone)
    root = Path(place.store.url) if server is None else server.root / place.store.url.partition("//")[2]
    manifest = export.manifest.model_copy(update={"files": files})
    (root / str(export) / "export.json").write_bytes(manifest.to_json())


def test_on_an_export_without_tags_of_grains_a_delta_compares_bytes_in_a_folder_and_s3_gets_the_whole_disk_once(
    vcenter: Simulator, place: Place, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    server = None if isinstance(place.store, LocalStore) else request.getfixturevalue("server")
    place.export()
    without_grain_tags(place, server)
    change(vcenter, 1)

    first = place.export()
    assert is_right(place, vcenter, tmp_path)
    change(vcenter, 2)
    second = place.export()

    assert is_right(place, vcenter, tmp_path)
    if server is None:
        assert [len(each.manifest.disks[0].chain) for each in (first, second)] == [1, 2]
    else:
        assert [len(each.manifest.disks[0].chain) for each in (first, second)] == [0, 1]
        assert "was made by an earlier version, which left no tags" in first.plan.disks[0].storage


# -- change tracking that lies ----------------------------------------------------------------------------------------


def write_untracked(vcenter: Simulator, at: int, content: bytes) -> None:
    """The guest writes, and the host's change tracking does not notice."""
    image = vcenter.vm("db01")._machine.disks[0].image  # pyright: ignore[reportPrivateUsage]
    tracker, image._tracker = image._tracker, None  # pyright: ignore[reportPrivateUsage]
    vcenter.vm("db01").guest_write(0, at, content)
    image._tracker = tracker  # pyright: ignore[reportPrivateUsage]


@pytest.mark.sample("s3-data", "folder-zeros")
@pytest.mark.parametrize("content", [b"unnoticed", bytes(GRAIN)], ids=["data", "zeros"])
def test_change_tracking_that_left_out_a_change_is_found_and_not_trusted_until_it_begins_anew(
    vcenter: Simulator, place: Place, content: bytes, tmp_path: Path
) -> None:
    read = vcenter.vm("db01").read_disk
    first, second = [n for n in range(16) if any(read(0, n * GRAIN, GRAIN))][:2]
    place.export()
    change(vcenter, 1)
    write_untracked(vcenter, first * GRAIN, content)

    found = place.export().manifest

    assert found.disks[0].chain == ()
    assert found.disks[0].distrusted
    where = f"change tracking of Hard disk 1 is wrong: bytes {first * GRAIN} to {(first + 1) * GRAIN}"
    assert any(where in words for words in found.warnings)
    assert is_right(place, vcenter, tmp_path)

    write_untracked(vcenter, second * GRAIN, content)  # nothing else: change tracking calls the disk unchanged
    after = place.export()

    assert "left out changes of this disk before" in after.plan.disks[0].reason
    assert (len(after.manifest.disks[0].chain), after.manifest.warnings) == (1, ())
    assert after.manifest.disks[0].distrusted == found.disks[0].distrusted
    assert is_right(place, vcenter, tmp_path)

    vcenter.vm("db01").reset_change_tracking(0)
    assert place.export().manifest.disks[0].distrusted is None
    assert place.export().manifest.disks[0].transferred is False  # it is proof again
    assert is_right(place, vcenter, tmp_path)
