"""What dead runs leave in a bucket is told for what it is; who checks or deletes beside another harms nobody."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError

from hyperexport.base.units import MIB
from hyperexport.errors import StoreUnusable
from hyperexport.model.ownership import Owner
from hyperexport.store.s3 import S3Store
from tests.engine.s3_exports import FOLDER, IDS, OWNER, keys, make_manifest, open_store, publish, uploads
from tests.engine.s3_servers import S3Server


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
    with pytest.raises(StoreUnusable, match=r"1 of \d objects and uploads could not be removed.*/a.*locked"):
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
