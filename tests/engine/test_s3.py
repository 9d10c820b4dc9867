"""Exports in a bucket, on a real server: staged, published, listed, referred to, read and deleted."""

import hashlib
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from pydantic import SecretStr

from hyperexport.errors import ExportNotFound, StoreUnreachable, StoreUnusable, UsageError
from hyperexport.manifest import (
    ExportKind,
    ExportManifest,
    FileEntry,
    FileRole,
    TransferStatistics,
)
from hyperexport.ownership import Owner
from hyperexport.stop import StopSignal
from hyperexport.store import s3_settings
from hyperexport.store.base import Store, StoredExport
from hyperexport.store.s3 import S3Location, S3Settings, S3Store
from hyperexport.units import MIB
from hyperexport.vm import VmRef
from tests.engine.s3_servers import S3Server, rclone_s3

FOLDER = "db01.0a1b2c3d"
IDS = [f"2026112{day}T065304Z-00a{day}" for day in range(1, 8)]
VM = VmRef(moref="vm-42", name="db01", path="/DC0/vm/db01", instance_uuid="0a1b2c3d-0000-0000-0000-000000000000")
OWNER = Owner.of_this_process(run="run-1", vcenter="vc.example", vm=VM.instance_uuid)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[S3Server]:
    with rclone_s3(tmp_path_factory.mktemp("rclone")) as running:
        yield running


@pytest.fixture
def bucket(server: S3Server, request: pytest.FixtureRequest) -> str:
    return server.make_bucket("b" + hashlib.sha256(request.node.name.encode()).hexdigest()[:12])


def settings(server: S3Server, **changes: Any) -> S3Settings:
    return S3Settings(
        **{
            "endpoint_url": server.endpoint_url,
            "ca_bundle": server.ca_file,
            "access_key": SecretStr(server.access_key),
            "secret_key": SecretStr(server.secret_key),
            **changes,
        }
    )


def open_store(server: S3Server, bucket: str, prefix: str = "backups/vms", **changes: Any) -> S3Store:
    return S3Store(S3Location(bucket=bucket, prefix=prefix), settings(server, **changes), stop=StopSignal())


@pytest.fixture
def store(server: S3Server, bucket: str) -> S3Store:
    return open_store(server, bucket)


def entry(name: str, data: bytes, **more: Any) -> FileEntry:
    return FileEntry(name=name, role=FileRole.DISK, size=len(data), sha256=hashlib.sha256(data).hexdigest(), **more)


def make_manifest(export_id: str, *files: FileEntry, **more: Any) -> ExportManifest:
    started = datetime.strptime(export_id[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return ExportManifest(
        **{
            "tool_version": "0",
            "export_id": export_id,
            "kind": ExportKind.FULL,
            "reason": "first",
            "last_full": export_id,
            "vm": VM,
            "vcenter": "vc.example",
            "run": "run-1",
            "started": started,
            "finished": started + timedelta(minutes=5),
            "options": {},
            "snapshot": None,
            "format": "ovf",
            "files": files,
            "transfer": TransferStatistics(seconds=1, bytes_transferred=1),
            **more,
        }
    )


def publish(store: S3Store, export_id: str, files: dict[str, bytes], **more: Any) -> StoredExport:
    """An export of these files, as the steps make one."""
    with store.stage(FOLDER, export_id, OWNER) as staging:
        entries = []
        for name, data in files.items():
            stored = staging.put(name, data)
            entries.append(entry(name, data, etag=stored.etag, checksum=stored.checksum, protection=stored.protection))
        return staging.publish(make_manifest(export_id, *entries, **more))


def keys(server: S3Server, bucket: str) -> list[str]:
    return sorted(item["Key"] for item in server.client().list_objects_v2(Bucket=bucket).get("Contents", []))


def uploads(server: S3Server, bucket: str) -> list[str]:
    return [item["Key"] for item in server.client().list_multipart_uploads(Bucket=bucket).get("Uploads", [])]


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
    with pytest.raises(StoreUnusable, match="taken"), store.stage(FOLDER, IDS[0], OWNER):
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
    assert store.damaged() == []


@pytest.mark.parametrize("content", [b"", b"{", b'{"tool": "other"}'])
def test_a_damaged_manifest_is_reported_and_not_listed(
    server: S3Server, bucket: str, store: S3Store, content: bytes
) -> None:
    good = publish(store, IDS[0], {"a": b"1"})
    place = f"backups/vms/{FOLDER}/{IDS[1]}/export.json"
    server.client().put_object(Bucket=bucket, Key=place, Body=content)
    assert store.exports() == [good]
    assert store.damaged() == [f"{FOLDER}/{IDS[1]}"]
    assert store.abandoned() == []


def test_a_manifest_in_the_wrong_place_is_damaged(server: S3Server, bucket: str, store: S3Store) -> None:
    place = f"backups/vms/{FOLDER}/{IDS[1]}/export.json"
    server.client().put_object(Bucket=bucket, Key=place, Body=make_manifest(IDS[0], entry("a", b"1")).to_json())
    assert store.exports() == []
    assert store.damaged() == [f"{FOLDER}/{IDS[1]}"]


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


def test_the_manifest_is_replaced_in_one_step_and_never_revived(store: S3Store) -> None:
    export = publish(store, IDS[0], {"a": b"1"})
    changed = store.replace_manifest(export, export.manifest.model_copy(update={"preserve": True}))
    assert store.exports() == [changed]
    store.delete(changed)
    with pytest.raises(ExportNotFound):
        store.replace_manifest(changed, changed.manifest)
    assert store.exports() == []


def test_an_unchanged_file_is_referred_to_through_any_number_of_exports(
    server: S3Server, bucket: str, store: S3Store
) -> None:
    data = b"disk" * 1000
    base = publish(store, IDS[0], {"db01-disk-0.vmdk": data})
    for export_id in IDS[1:4]:
        with store.stage(FOLDER, export_id, OWNER) as staging:
            found = base.manifest.files[0]
            reused = staging.reuse(base, found, f"renamed-{export_id}.vmdk")
            assert reused is not None
            assert (reused.stored_in, reused.transferred, reused.size) == (IDS[0], False, len(data))
            base = staging.publish(make_manifest(export_id, reused))
    name = base.manifest.files[0].name
    with store.open(base, name) as reader:
        assert b"".join(reader.chunks()) == data
    assert store.checksum(base, name) == base.manifest.files[0].checksum
    assert sum(key.endswith(".vmdk") for key in keys(server, bucket)) == 1


def test_a_file_that_was_sent_again_gives_way_to_the_earlier_one(server: S3Server, bucket: str, store: S3Store) -> None:
    base = publish(store, IDS[0], {"disk": b"same"})
    with store.stage(FOLDER, IDS[1], OWNER) as staging:
        staging.put("disk", b"same")
        assert staging.reuse(base, base.manifest.files[0], "disk") is not None
        assert f"backups/vms/{FOLDER}/{IDS[1]}/disk" not in keys(server, bucket)


@pytest.mark.parametrize("damage", ["gone", "shorter", "rewritten"])
def test_a_file_that_is_not_as_it_was_written_is_not_reused(
    server: S3Server, bucket: str, store: S3Store, damage: str
) -> None:
    base = publish(store, IDS[0], {"disk": b"12345"})
    key = f"backups/vms/{FOLDER}/{IDS[0]}/disk"
    if damage == "gone":
        server.client().delete_object(Bucket=bucket, Key=key)
    else:
        server.client().put_object(Bucket=bucket, Key=key, Body=b"1234" if damage == "shorter" else b"54321")
    with store.stage(FOLDER, IDS[1], OWNER) as staging:
        staging.put("disk", b"12345")
        assert staging.reuse(base, base.manifest.files[0], "disk") is None
        assert f"backups/vms/{FOLDER}/{IDS[1]}/disk" in keys(server, bucket), "the fresh copy stays"


def test_bytes_are_read_at_any_place_and_inside_an_ova(store: S3Store) -> None:
    ova = bytes(range(256)) * 40
    member = ova[512:5120]
    with store.stage(FOLDER, IDS[0], OWNER) as staging:
        staging.put("db01.ova", ova)
        outer = entry("db01.ova", ova).model_copy(update={"role": FileRole.OVA})
        inner = entry("disk", member, member_of="db01.ova", offset=512)
        export = staging.publish(make_manifest(IDS[0], outer, inner))
    with store.open(export, "disk") as reader:
        assert reader.size == len(member)
        assert reader.read_at(0, 10) == member[:10]
        assert reader.read_at(4600, 100) == member[4600:]
        assert reader.read_at(9999, 10) == b""
        assert b"".join(reader.chunks(1000)) == member
    assert store.checksum(export, "disk") is None
    assert store.checksum(export, "db01.ova") is not None
    with store.stage(FOLDER, IDS[1], OWNER) as staging:
        reused = staging.reuse(export, inner, "disk")
        assert reused is not None
        assert (reused.stored_in, reused.member_of) == (IDS[0], None)
        second = staging.publish(make_manifest(IDS[1], reused))
    with store.open(second, "disk") as reader:
        assert b"".join(reader.chunks()) == member


def test_an_empty_file_is_a_file(store: S3Store) -> None:
    export = publish(store, IDS[0], {"empty": b""})
    with store.open(export, "empty") as reader:
        assert (reader.size, list(reader.chunks()), reader.read_at(0, 5)) == (0, [], b"")


def test_a_file_that_is_not_there_is_an_error_that_names_it(server: S3Server, bucket: str, store: S3Store) -> None:
    export = publish(store, IDS[0], {"a": b"1"})
    with pytest.raises(ExportNotFound, match="no file b"):
        store.open(export, "b")
    server.client().delete_object(Bucket=bucket, Key=f"backups/vms/{FOLDER}/{IDS[0]}/a")
    with pytest.raises(ExportNotFound, match="/a is not there"):
        store.open(export, "a")
    with pytest.raises(ExportNotFound, match="/a is not there"):
        store.checksum(export, "a")


def test_an_object_that_changes_while_it_is_read_is_noticed_by_its_size(
    server: S3Server, bucket: str, store: S3Store
) -> None:
    export = publish(store, IDS[0], {"a": b"x" * 100})
    with store.open(export, "a") as reader:
        server.client().put_object(Bucket=bucket, Key=f"backups/vms/{FOLDER}/{IDS[0]}/a", Body=b"short")
        with pytest.raises((StoreUnusable, StoreUnreachable)):
            reader.read_at(0, 100)


def test_what_a_killed_run_left_is_found_with_its_owner_and_removed(
    server: S3Server, bucket: str, store: S3Store
) -> None:
    kept = publish(store, IDS[0], {"a": b"1"})
    killed = store.stage(FOLDER, IDS[1], OWNER)  # Kept, and never left: a killed run cleans nothing up.
    staging = killed.__enter__()
    sink = staging.create("disk")
    sink.write(memoryview(bytes(40 * MIB)))
    unmarked = server.client().create_multipart_upload(Bucket=bucket, Key=f"backups/vms/{FOLDER}/{IDS[2]}/disk")
    assert unmarked["UploadId"]
    found = sorted(store.abandoned(), key=lambda left: left.export_id)
    assert [(left.export_id, left.owner) for left in found] == [(IDS[1], OWNER), (IDS[2], None)]
    for left in found:
        store.remove_abandoned(left)
    assert store.abandoned() == []
    assert store.exports() == [kept]
    assert uploads(server, bucket) == []
    assert [key for key in keys(server, bucket) if IDS[0] not in key] == []
    sink.abort()


def test_what_was_published_in_the_meantime_is_not_removed_as_abandoned(store: S3Store) -> None:
    with store.stage(FOLDER, IDS[0], OWNER) as staging:
        (left,) = store.abandoned()
        published = staging.publish(make_manifest(IDS[0]))
    store.remove_abandoned(left)
    assert store.exports() == [published]


def test_an_upload_bears_the_mark_of_its_owner(server: S3Server, bucket: str, store: S3Store) -> None:
    with store.stage(FOLDER, IDS[0], OWNER) as staging:
        sink = staging.create("disk")
        sink.write(memoryview(bytes(20 * MIB)))
        sink.finish()
        head = server.client().head_object(Bucket=bucket, Key=f"backups/vms/{FOLDER}/{IDS[0]}/disk")
    metadata = {name.lower(): value for name, value in head["Metadata"].items()}
    assert Owner.from_json(metadata["hyperexport-owner"]) == OWNER


def test_a_wrong_secret_key_is_said_and_not_shown(server: S3Server, bucket: str) -> None:
    secret = "wrong-key-that-must-not-appear"
    store = open_store(server, bucket, secret_key=SecretStr(secret))
    with pytest.raises(StoreUnusable) as caught:
        store.check()
    assert caught.value.fix
    assert secret not in str(caught.value)
    assert server.access_key not in str(caught.value)
    with pytest.raises(StoreUnusable):
        store.exports()


def test_a_missing_bucket_is_said(server: S3Server) -> None:
    with pytest.raises(StoreUnusable, match=r"NoSuchBucket.*Create the bucket"):
        open_store(server, "missing-bucket").check()


def test_no_credentials_at_all_is_said(
    server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StoreUnusable, match="no usable credentials"):
        open_store(server, bucket, access_key=None, secret_key=None).check()
    with pytest.raises(StoreUnusable, match="no usable credentials"):
        open_store(server, bucket, access_key=None, secret_key=None, profile="nobody")


def test_credentials_of_boto3s_own_chain_and_of_a_session_work(
    server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3

    session = boto3.Session(aws_access_key_id=server.access_key, aws_secret_access_key=server.secret_key)
    open_store(server, bucket, access_key=None, secret_key=None, session_factory=lambda: session).check()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.secret_key)
    open_store(server, bucket, access_key=None, secret_key=None).check()


def test_an_untrusted_certificate_is_said(server: S3Server, bucket: str) -> None:
    with pytest.raises(StoreUnusable, match="certificate"):
        open_store(server, bucket, ca_bundle=None).check()
    open_store(server, bucket, ca_bundle=None, verify=False).check()


def test_an_address_where_nobody_answers_is_transient(
    server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_settings, "CONTROL_ATTEMPTS", 2)
    store = open_store(server, bucket, endpoint_url="https://localhost:1")
    with pytest.raises(StoreUnreachable) as caught:
        store.exports()
    assert caught.value.transient


def test_settings_show_no_secret(server: S3Server) -> None:
    shown = repr(settings(server)) + settings(server).model_dump_json()
    assert server.secret_key not in shown
    assert server.access_key not in shown


def test_a_broken_deletion_says_what_remains(store: S3Store, server: S3Server, bucket: str) -> None:
    export = publish(store, IDS[0], {"a": b"1", "b": b"2"})
    real = store._bucket.client.delete_object

    def refuse(**arguments: Any) -> Any:
        if arguments["Key"].endswith("/a"):
            raise ClientError(
                {"Error": {"Code": "AccessDenied", "Message": "locked"}, "ResponseMetadata": {"HTTPStatusCode": 403}},
                "DeleteObject",
            )  # type: ignore[typeddict-item]
        return real(**arguments)

    # A server that locks single objects is not to be had here; everything but the refusal is real.
    store._bucket.client.delete_object = refuse  # type: ignore[method-assign]
    with pytest.raises(StoreUnusable, match=r"1 of \d objects could not be removed.*/a.*locked"):
        store.delete(export)
    assert store.exports() == [], "its manifest went first"
    assert [key.rpartition("/")[2] for key in keys(server, bucket)] == [".deleted", "a"]
    store._bucket.client.delete_object = real  # type: ignore[method-assign]
    assert store.sweep() == [str(export)], "the next run ends the deletion"
    assert keys(server, bucket) == []


def test_a_sweep_takes_marks_out_of_complete_exports_and_leaves_stagings(
    server: S3Server, bucket: str, store: S3Store
) -> None:
    export = publish(store, IDS[0], {"a": b"1"})
    before = keys(server, bucket)
    for name in (".owner.json", ".deleted"):
        server.client().put_object(Bucket=bucket, Key=f"backups/vms/{export}/{name}", Body=b"{}")
    with store.stage(FOLDER, IDS[1], OWNER):
        assert store.sweep(FOLDER) == [str(export)]
        assert store.abandoned()
    assert keys(server, bucket) == before


def test_a_probe_whose_run_died_is_dropped_and_a_living_one_made_again(
    server: S3Server, bucket: str, store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = server.client()
    client.create_multipart_upload(Bucket=bucket, Key="backups/vms/.hyperexport-probe")
    begin, begun = store._bucket.begin_upload, []

    def dropped_once(key: str, *arguments: Any) -> str:
        upload = begin(key, *arguments)
        if not begun:
            begun.append(upload)
            client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload)
        return upload

    monkeypatch.setattr(store._bucket, "begin_upload", dropped_once)
    store.check()
    assert begun
    assert uploads(server, bucket) == []


def test_runs_that_check_the_store_at_the_same_time_do_not_take_one_anothers_probes(
    server: S3Server, bucket: str
) -> None:
    stores = [open_store(server, bucket) for _ in range(8)]
    with ThreadPoolExecutor(8) as threads:
        for _ in range(5):
            list(threads.map(S3Store.check, stores))
    assert keys(server, bucket) == []


def test_a_probe_that_is_swept_up_by_a_run_beside_is_made_again(
    store: S3Store, server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, swept = store._bucket.replace, []

    def swept_once(key: str, data: bytes) -> None:
        replace(key, data)
        if not swept:
            swept.append(key)
            open_store(server, bucket).sweep()

    monkeypatch.setattr(store._bucket, "replace", swept_once)
    store.check()
    assert swept


def test_a_mark_changes_with_the_manifest_and_only_then(store: S3Store) -> None:
    first = publish(store, IDS[0], {"a.vmdk": b"a"})
    publish(store, IDS[1], {"b.vmdk": b"b"})
    before = store.marks()
    assert set(before) == {(FOLDER, IDS[0]), (FOLDER, IDS[1])}
    store.replace_manifest(first, first.manifest.model_copy(update={"preserve": True}))
    after = store.marks()
    assert after[FOLDER, IDS[0]] != before[FOLDER, IDS[0]]
    assert after[FOLDER, IDS[1]] == before[FOLDER, IDS[1]]
