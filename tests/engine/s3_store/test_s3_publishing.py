"""Exports in a bucket, on a real server: staged, published, listed, replaced and deleted."""

import pytest

from hyperexport.base.units import MIB
from hyperexport.errors import ExportNotFound, StoreUnusable, UsageError
from hyperexport.model.manifest import ExportManifest
from hyperexport.model.marks import PreservedMark
from hyperexport.store.base import Store
from hyperexport.store.s3 import S3Location, S3Store
from tests.engine.s3_exports import FOLDER, IDS, OWNER, entry, keys, make_manifest, open_store, publish, uploads
from tests.engine.s3_servers import S3Server


def test_it_is_a_store(store: S3Store) -> None:
    typed: Store = store
    assert typed.url.startswith("s3://b")
    assert typed.free_bytes() is None


@pytest.mark.parametrize(
    ("url", "bucket", "prefix"),
    [
        ("s3://b01", "b01", ""),
        ("s3://b01/", "b01", ""),
        ("s3://b01/a/b/", "b01", "a/b"),
        ("s3://b.x-y/a b", "b.x-y", "a b"),
    ],
)
def test_an_address_is_read_and_shown_without_its_last_slash(url: str, bucket: str, prefix: str) -> None:
    location = S3Location.parse(url)
    assert (location.bucket, location.prefix) == (bucket, prefix)
    assert str(location) == url.rstrip("/")


@pytest.mark.parametrize(
    "url", ["s3://", "b/p", "http://b01/p", "s3://b01/a//b", "s3://b01/../x", "s3://b01/a\n", "s3://b?x"]
)
def test_what_is_no_address_of_a_bucket_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        S3Location.parse(url)


def test_check_leaves_nothing_behind(server: S3Server, bucket: str, store: S3Store) -> None:
    store.check()
    assert keys(server, bucket) == []
    assert uploads(server, bucket) == []


def test_an_export_becomes_visible_with_its_manifest_and_not_before(
    server: S3Server, bucket: str, store: S3Store
) -> None:
    with store.stage(FOLDER, IDS[0], OWNER) as staging:
        staging.put("db01.ovf", b"<Envelope/>")
        assert store.exports() == []
        assert [left.owner for left in store.abandoned()] == [OWNER]
        published = staging.publish(make_manifest(IDS[0], entry("db01.ovf", b"<Envelope/>")))
    assert store.exports() == [published]
    assert store.exports(FOLDER) == [published]
    assert store.exports("other.00000000") == []
    assert store.abandoned() == []
    place = f"backups/vms/{FOLDER}/{IDS[0]}"
    assert keys(server, bucket) == [f"{place}/db01.ovf", f"{place}/export.json"]
    body = server.client().get_object(Bucket=bucket, Key=f"{place}/export.json")["Body"].read()
    assert ExportManifest.from_json(body, source="test") == published.manifest


def test_an_export_at_the_root_of_a_bucket_is_found(server: S3Server, bucket: str) -> None:
    store = open_store(server, bucket, prefix="")
    published = publish(store, IDS[0], {"a": b"1"})
    assert store.exports() == [published]
    assert keys(server, bucket)[0] == f"{FOLDER}/{IDS[0]}/a"


def test_leaving_without_publishing_removes_everything(server: S3Server, bucket: str, store: S3Store) -> None:
    def fail_in_the_middle_of_a_disk() -> None:
        with store.stage(FOLDER, IDS[0], OWNER) as staging:
            staging.put("db01.ovf", b"<Envelope/>")
            staging.create("db01-disk-0.vmdk").write(memoryview(bytes(40 * MIB)))
            assert uploads(server, bucket)
            raise RuntimeError("the disk broke")

    with pytest.raises(RuntimeError, match="the disk broke"):
        fail_in_the_middle_of_a_disk()
    assert keys(server, bucket) == []
    assert uploads(server, bucket) == []


def test_a_place_that_is_taken_is_not_staged_again(store: S3Store) -> None:
    publish(store, IDS[0], {"a": b"1"})
    with pytest.raises(StoreUnusable, match="belongs to another export"), store.stage(FOLDER, IDS[0], OWNER):
        pytest.fail("staged")
    assert [export.export_id for export in store.exports()] == [IDS[0]], "the refusal must not remove it"


def test_of_two_runs_with_one_id_only_one_publishes(store: S3Store) -> None:
    with store.stage(FOLDER, IDS[0], OWNER) as staging:
        staging.put("a", b"1")
        key = f"backups/vms/{FOLDER}/{IDS[0]}/export.json"
        other = make_manifest(IDS[0], entry("a", b"1"), run="another")
        store._bucket.replace(key, other.to_json())
        with pytest.raises(StoreUnusable, match="another run"):
            staging.publish(make_manifest(IDS[0], entry("a", b"1")))
    assert [export.manifest.run for export in store.exports()] == ["another"]


def test_exports_are_listed_newest_first(store: S3Store) -> None:
    for export_id in (IDS[1], IDS[3], IDS[0], IDS[2]):
        publish(store, export_id, {"a": b"1"})
    assert [export.export_id for export in store.exports()] == [IDS[3], IDS[2], IDS[1], IDS[0]]


def test_what_is_not_ours_is_invisible(server: S3Server, bucket: str, store: S3Store) -> None:
    for key in (
        "readme.txt",
        "backups/vms/notes/x",
        f"backups/vms/{FOLDER}/holiday/photo.jpg",
        f"{FOLDER}/{IDS[0]}/export.json",
    ):
        server.client().put_object(Bucket=bucket, Key=key, Body=b"mine")
    assert store.exports() == []
    assert store.abandoned() == []
    assert store.listing().damaged == ()


@pytest.mark.parametrize("content", [b"", b"{", b'{"tool": "other"}'])
def test_a_damaged_manifest_is_reported_and_not_listed(
    server: S3Server, bucket: str, store: S3Store, content: bytes
) -> None:
    good = publish(store, IDS[0], {"a": b"1"})
    place = f"backups/vms/{FOLDER}/{IDS[1]}/export.json"
    server.client().put_object(Bucket=bucket, Key=place, Body=content)
    assert store.exports() == [good]
    assert [str(one) for one in store.listing().damaged] == [f"{FOLDER}/{IDS[1]}"]
    assert store.abandoned() == []


def test_a_manifest_in_the_wrong_place_is_damaged(server: S3Server, bucket: str, store: S3Store) -> None:
    place = f"backups/vms/{FOLDER}/{IDS[1]}/export.json"
    server.client().put_object(Bucket=bucket, Key=place, Body=make_manifest(IDS[0], entry("a", b"1")).to_json())
    assert store.exports() == []
    assert [str(one) for one in store.listing().damaged] == [f"{FOLDER}/{IDS[1]}"]


def test_a_listing_that_fails_raises(server: S3Server, bucket: str) -> None:
    with pytest.raises(StoreUnusable, match="NoSuchBucket"):
        open_store(server, "missing-bucket").exports()
    with pytest.raises(StoreUnusable):
        open_store(server, "missing-bucket").abandoned()


def test_deleting_removes_one_export_and_tells_the_bytes(server: S3Server, bucket: str, store: S3Store) -> None:
    kept = publish(store, IDS[0], {"a": b"1"})
    gone = publish(store, IDS[1], {"a": b"22", "b": b"333"})
    freed = store.delete(gone)
    assert freed == 5 + len(gone.manifest.to_json())
    assert store.exports() == [kept]
    assert [key for key in keys(server, bucket) if IDS[1] in key] == []


def test_a_mark_is_what_is_listed_and_revives_nothing(store: S3Store) -> None:
    export = publish(store, IDS[0], {"a": b"1"})
    changed = store.write_mark(export, PreservedMark(export_id=export.export_id, preserve=True))
    assert store.exports() == [changed]
    store.delete(changed)
    with pytest.raises(ExportNotFound):
        store.write_mark(changed, PreservedMark(export_id=changed.export_id, preserve=False))
    assert store.exports() == []


def test_a_mark_changes_with_the_manifest_and_only_then(store: S3Store) -> None:
    first = publish(store, IDS[0], {"a.vmdk": b"a"})
    publish(store, IDS[1], {"b.vmdk": b"b"})
    before = store.manifest_versions()
    assert set(before) == {(FOLDER, IDS[0]), (FOLDER, IDS[1])}
    store.write_mark(first, PreservedMark(export_id=first.export_id, preserve=True))
    after = store.manifest_versions()
    assert after[FOLDER, IDS[0]] != before[FOLDER, IDS[0]]
    assert after[FOLDER, IDS[1]] == before[FOLDER, IDS[1]]
