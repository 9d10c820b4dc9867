"""The hard case, Ceph's radosgw: no trailing checksums over TLS, no CRC32, ETags as AWS has them."""

import hashlib
import random
from collections.abc import Generator
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr

from hyperexport.base.stop import StopSignal
from hyperexport.base.units import MIB
from hyperexport.errors import StoreUnusable
from hyperexport.model.marks import PreservedMark
from hyperexport.options.declaring import VerifyMode
from hyperexport.options.groups import Cleanup
from hyperexport.steps.cleanup import delete_planned, plan_store_cleanup
from hyperexport.steps.verification import verify
from hyperexport.store.base import StoredExport
from hyperexport.store.s3 import S3Store
from hyperexport.store.s3_protection import Protection
from tests.engine import verifiable
from tests.engine.s3_exports import FOLDER, IDS, OWNER, entry, keys, make_manifest, open_store, publish, uploads
from tests.engine.s3_servers import S3Server, radosgw_s3

pytestmark = pytest.mark.radosgw

DATA = random.Random(11).randbytes(40 * MIB + 5)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[S3Server]:
    with radosgw_s3(tmp_path_factory.mktemp("radosgw")) as running:
        yield running


@pytest.fixture
def bucket(server: S3Server, request: pytest.FixtureRequest) -> str:
    return server.make_bucket("b" + hashlib.sha256(request.node.name.encode()).hexdigest()[:12])


@pytest.fixture
def store(server: S3Server, bucket: str) -> S3Store:
    return open_store(server, bucket)


def export_a_disk(store: S3Store) -> StoredExport:
    with store.stage(FOLDER, IDS[0], OWNER) as staging:
        sink = staging.create("disk")
        sink.write(memoryview(DATA))
        stored = sink.finish()
        assert stored.protection == Protection.MD5
        told = {"etag": stored.etag, "checksum": stored.checksum}
        return staging.publish(make_manifest(IDS[0], entry("disk", DATA, **told)))


def test_an_export_goes_there_and_comes_back_byte_for_byte(server: S3Server, bucket: str, store: S3Store) -> None:
    store.check()
    export = export_a_disk(store)
    assert store.exports() == [export]
    stored = server.client().get_object(Bucket=bucket, Key=f"backups/vms/{FOLDER}/{IDS[0]}/disk")["Body"].read()
    assert stored == DATA
    with store.open(export, "disk") as reader:
        assert b"".join(reader.chunks()) == DATA
        assert reader.read_at(20 * MIB, 100) == DATA[20 * MIB : 20 * MIB + 100]
    assert store.checksum(export, "disk") == export.manifest.files[0].checksum
    assert store.delete(export) > len(DATA)
    assert keys(server, bucket) == []


def test_an_unchanged_disk_is_referred_to(store: S3Store) -> None:
    base = export_a_disk(store)
    with store.stage(FOLDER, IDS[1], OWNER) as staging:
        reused = staging.reuse(base, base.manifest.files[0], "disk")
        assert reused is not None
        second = staging.publish(make_manifest(IDS[1], reused))
    with store.open(second, "disk") as reader:
        assert hashlib.sha256(b"".join(reader.chunks())).digest() == hashlib.sha256(DATA).digest()


def test_a_conditional_write_lets_only_one_of_two_claim_a_place(
    store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = store._bucket
    assert bucket.create_if_absent("place", b"one")
    assert not bucket.create_if_absent("place", b"two")
    # Both looked before either wrote: now it is the server that decides.
    monkeypatch.setattr(bucket, "head", lambda _key: None)
    assert not bucket.create_if_absent("place", b"two")
    assert bucket.read("place", limit=10) == b"one"


def test_what_a_killed_run_left_is_found_and_removed(server: S3Server, bucket: str, store: S3Store) -> None:
    killed = store.stage(FOLDER, IDS[1], OWNER)  # Kept, and never left: a killed run cleans nothing up.
    sink = killed.__enter__().create("disk")
    sink.write(memoryview(DATA))
    (left,) = store.abandoned()
    assert left.owner == OWNER
    assert uploads(server, bucket)
    store.remove_abandoned(left)
    assert store.abandoned() == []
    assert keys(server, bucket) == []
    assert uploads(server, bucket) == []
    sink.abort()


def test_an_object_that_changes_while_it_is_read_is_noticed(server: S3Server, bucket: str, store: S3Store) -> None:
    export = publish(store, IDS[0], {"a": b"x" * 100})
    with store.open(export, "a") as reader:
        server.client().put_object(Bucket=bucket, Key=f"backups/vms/{FOLDER}/{IDS[0]}/a", Body=b"y" * 100)
        with pytest.raises(StoreUnusable, match="PreconditionFailed"):
            reader.read_at(0, 100)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"secret_key": SecretStr("wrong")}, "SignatureDoesNotMatch"),
        ({"access_key": SecretStr("NOBODY")}, "InvalidAccessKeyId"),
    ],
)
def test_a_wrong_key_is_told_apart(server: S3Server, bucket: str, changes: dict[str, SecretStr], words: str) -> None:
    with pytest.raises(StoreUnusable, match=words):
        open_store(server, bucket, **changes).check()


def test_a_missing_bucket_is_said(server: S3Server) -> None:
    with pytest.raises(StoreUnusable, match="NoSuchBucket"):
        open_store(server, "missing-bucket").check()


def test_a_mark_is_written_though_the_server_refuses_every_condition(store: S3Store) -> None:
    made = publish(store, IDS[0], {"disk": b"data"})
    store.write_mark(made, PreservedMark(export_id=made.export_id, preserve=True))
    assert [one.manifest.preserve for one in store.exports()] == [True]


def test_under_a_default_retention_exports_are_verified_and_what_stays_after_a_cleanup_is_said(
    server: S3Server,
) -> None:
    client, bucket = server.client(), "locked"
    client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    rule = {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 1}}
    client.put_object_lock_configuration(
        Bucket=bucket, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule}
    )
    store = open_store(server, bucket)
    store.check_unseen()
    assert client.list_object_versions(Bucket=bucket).get("Versions", []) == []
    store.check()
    proven = verifiable.publish(store)
    recorded, found = verify(store, proven, VerifyMode.DEEP, StopSignal())
    assert (found.ok, found.unrecorded) == (True, None)
    assert recorded.manifest.verified

    oldest, newest = (publish(store, export_id, {"disk": b"d" * MIB}) for export_id in sorted(IDS[:2]))
    disk = f"backups/vms/{oldest}/disk"
    assert client.get_object_retention(Bucket=bucket, Key=disk)["Retention"]["RetainUntilDate"] > datetime.now(UTC)
    done = delete_planned(store, plan_store_cleanup(store, Cleanup(enabled=True, max_count=1)), lambda _: True)
    assert (done.deleted, done.failed, done.freed_bytes) == ((str(oldest),), (), 0)
    assert "kept as older versions" in done.freed_words
    assert {str(one) for one in store.exports()} == {str(newest), str(proven)}
    versions = client.list_object_versions(Bucket=bucket, Prefix=disk)["Versions"]
    assert [one["Size"] for one in versions] == [MIB], "the retention keeps the bytes"
