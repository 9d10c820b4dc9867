"""S3 servers with rules and habits of their own: what is told as removed, freed or stored is what is really so."""

import re
from collections.abc import Generator
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from hyperexport.base.units import MIB
from hyperexport.errors import HyperExportError, StoreUnusable
from hyperexport.model.marks import PreservedMark
from hyperexport.options.groups import Cleanup
from hyperexport.steps.cleanup import delete_planned, plan_store_cleanup
from hyperexport.store.s3 import S3Store
from tests.engine.s3_exports import FOLDER, IDS, OWNER, entry, keys, make_manifest, open_store, publish, uploads
from tests.engine.s3_proxy import Answer, Proxy, faulty_proxy, refusal
from tests.engine.s3_servers import S3Server

DATA = bytes(range(256)) * (80 * 1024)  # 20 MiB: two parts
KEEP_ONE = Cleanup(enabled=True, max_count=1)


@pytest.fixture
def proxy(server: S3Server, tmp_path: Path) -> Generator[Proxy]:
    with faulty_proxy(server, tmp_path) as running:
        yield running


@pytest.fixture
def ruled(server: S3Server, bucket: str, proxy: Proxy) -> S3Store:
    """The store, behind the proxy."""
    return open_store(server, bucket, endpoint_url=proxy.endpoint_url, ca_bundle=proxy.ca_file)


@pytest.fixture(autouse=True)
def buried(proxy: Proxy) -> Generator[None]:
    """What a test left behind as a dead run's ends while its server is still there."""
    yield
    proxy.before, proxy.after = Proxy.before, Proxy.after
    while ABANDONED:
        ABANDONED.pop()[0].__exit__(None, None, None)


def query(target: str) -> dict[str, list[str]]:
    return parse_qs(urlsplit(target).query, keep_blank_values=True)


def export(store: S3Store, export_id: str = IDS[0]) -> Any:
    """An export with a file of several parts and a small one."""
    with store.stage(FOLDER, export_id, OWNER) as staging:
        sink = staging.create("disk")
        sink.write(memoryview(DATA))
        done = sink.finish()
        small = staging.put("small", b"small")
        files = [entry("disk", DATA, etag=done.etag), entry("small", b"small", etag=small.etag)]
        return staging.publish(make_manifest(export_id, *files))


# -- checksums --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", ["content-md5", "x-amz-checksum-"])
def test_every_write_bears_a_checksum_where_the_bucket_demands_one(ruled: S3Store, proxy: Proxy, wanted: str) -> None:
    """Object Lock with a default retention; S3 Express takes no Content-MD5."""
    taken: list[str] = []

    def lock(method: str, target: str, headers: Any, _: bytes) -> Answer | None:
        if method != "PUT":
            return None
        names = {name.lower() for name in (*headers, *query(target))}
        guarded = any(name.startswith(wanted) for name in names)
        other = any(name.startswith(("content-md5", "x-amz-checksum-")) for name in names) and not guarded
        if guarded and not other:
            taken.append(target)
            return None
        return refusal(400, "InvalidRequest")

    proxy.before = lock
    ruled.check()
    made = export(ruled)
    ruled.write_mark(made, PreservedMark(export_id=made.export_id, preserve=True))
    (there,) = ruled.exports()
    assert there.manifest.preserve
    with ruled.open(there, "disk") as reader:
        assert b"".join(reader.chunks()) == DATA
    assert ruled.delete(there) > len(DATA)
    assert any("export.json" in target for target in taken)
    assert any(".owner.json" in target for target in taken)


def test_a_server_that_knows_no_checksum_header_gets_the_bytes_without_one(
    ruled: S3Store, proxy: Proxy, server: S3Server, bucket: str
) -> None:
    def plain(method: str, target: str, headers: Any, _: bytes) -> Answer | None:
        names = {name.lower() for name in (*headers, *query(target))}
        checked = any(name.startswith(("content-md5", "x-amz-checksum-")) for name in names)
        return refusal(501, "NotImplemented") if method == "PUT" and checked else None

    proxy.before = plain
    ruled.check()
    export(ruled)
    assert len(ruled.exports()) == 1


@pytest.mark.parametrize(
    ("status", "code"), [(501, "NotImplemented"), (400, "InvalidArgument"), (405, "MethodNotAllowed")]
)
def test_a_server_without_conditional_writes_still_gets_its_manifest(
    ruled: S3Store, proxy: Proxy, status: int, code: str
) -> None:
    proxy.before = lambda _method, _target, headers, _body: (
        refusal(status, code) if {"if-none-match", "if-match"} & {name.lower() for name in headers} else None
    )
    made = publish(ruled, IDS[0], {"disk": b"data"})
    ruled.write_mark(made, PreservedMark(export_id=made.export_id, preserve=True))
    assert [one.manifest.preserve for one in ruled.exports()] == [True]


def test_a_manifest_that_was_written_though_the_server_failed_is_an_export(ruled: S3Store, proxy: Proxy) -> None:
    def fail(method: str, target: str, answer: Answer) -> Answer:
        return refusal(500, "InternalError") if method == "PUT" and "export.json" in target else answer

    proxy.after = fail
    made = publish(ruled, IDS[0], {"disk": b"data"})
    assert ruled.exports() == [made]


# -- what is removed --------------------------------------------------------------------------------------------------


def two_exports(store: S3Store) -> list[str]:
    for export_id in IDS[:2]:
        publish(store, export_id, {"disk": b"d" * MIB})
    return [str(one) for one in store.exports()]


def test_an_export_whose_manifest_stays_though_its_deletion_was_confirmed_is_whole_and_not_told_as_deleted(
    ruled: S3Store, proxy: Proxy
) -> None:
    before = two_exports(ruled)
    proxy.before = lambda method, *_: (204, [], b"") if method == "DELETE" else None

    done = delete_planned(ruled, plan_store_cleanup(ruled, KEEP_ONE), lambda _: False)

    assert (done.deleted, done.freed_bytes) == ((), 0)
    assert "still there" in done.failed[0]
    assert [str(one) for one in ruled.exports()] == before
    for one in ruled.exports():
        with ruled.open(one, "disk") as reader:
            assert b"".join(reader.chunks()) == b"d" * MIB


@pytest.mark.parametrize("answer", [(204, [], b""), refusal(403, "AccessDenied")], ids=["says 204", "denies"])
def test_files_that_cannot_be_removed_are_told_and_freed_by_a_later_cleanup(
    ruled: S3Store, proxy: Proxy, server: S3Server, bucket: str, answer: Answer
) -> None:
    newest, oldest = two_exports(ruled)
    proxy.before = lambda method, target, *_: answer if method == "DELETE" and target.endswith("/disk") else None

    done = delete_planned(ruled, plan_store_cleanup(ruled, KEEP_ONE), lambda _: False)
    assert (done.deleted, done.freed_bytes) == ((), 0)
    assert "1 of " in done.failed[0]
    assert ruled.sweep() == [], "what stays locked fails no later run"

    proxy.before = lambda *_: None
    assert ruled.sweep() == [oldest]
    assert {key.split("/")[3] for key in keys(server, bucket)} == {newest.split("/")[1]}


def test_bytes_that_a_versioned_bucket_keeps_are_not_told_as_freed(ruled: S3Store, proxy: Proxy) -> None:
    two_exports(ruled)

    def versioned(method: str, _: str, answer: Answer) -> Answer:
        more = [("x-amz-delete-marker", "true"), ("x-amz-version-id", "v1")]
        return (204, more, b"") if method == "DELETE" else answer

    proxy.after = versioned
    done = delete_planned(ruled, plan_store_cleanup(ruled, KEEP_ONE), lambda _: False)
    assert (len(done.deleted), done.freed_bytes) == (1, 0)
    assert "0 B freed" in done.freed_words
    assert "older versions" in done.freed_words


def test_a_deletion_that_was_done_though_the_server_failed_counts(ruled: S3Store, proxy: Proxy) -> None:
    two_exports(ruled)
    proxy.after = lambda method, _target, answer: refusal(500, "InternalError") if method == "DELETE" else answer
    done = delete_planned(ruled, plan_store_cleanup(ruled, KEEP_ONE), lambda _: False)
    assert (len(done.deleted), done.failed) == (1, ())
    assert done.freed_bytes > MIB


# -- unfinished uploads -----------------------------------------------------------------------------------------------


def as_minio(method: str, target: str, answer: Answer) -> Answer:
    """MinIO lists unfinished uploads only where the prefix is a whole key."""
    prefix = query(target).get("prefix", [""])[0]
    if method != "GET" or "uploads" not in query(target) or not prefix:
        return answer
    whole = f"<Key>{prefix}</Key>".encode()
    kept = re.sub(rb"<Upload>.*?</Upload>", lambda m: m[0] if whole in m[0] else b"", answer[2], flags=re.S)
    headers = [(name, value) for name, value in answer[1] if name.lower() != "content-length"]
    return answer[0], headers, kept


def not_listed(method: str, target: str, answer: Answer) -> Answer:
    """A server without ListMultipartUploads."""
    return refusal(501, "NotImplemented") if method == "GET" and "uploads" in query(target) else answer


HABITS = pytest.mark.parametrize("habit", [as_minio, not_listed])


def leave_behind(store: S3Store) -> None:
    """Stage an export, send a part of it, and die: nothing is discarded."""
    context = store.stage(FOLDER, IDS[0], OWNER)
    sink: Any = context.__enter__().create("disk")
    sink.write(memoryview(DATA))
    sink._collect()
    ABANDONED.append((context, sink))


ABANDONED: list[Any] = []
"""Kept alive: a collected generator would discard its staging."""


@HABITS
def test_an_upload_that_a_dead_run_left_is_found_again_without_the_servers_list(
    ruled: S3Store, proxy: Proxy, server: S3Server, bucket: str, habit: Any
) -> None:
    proxy.after = habit
    leave_behind(ruled)
    assert len(uploads(server, bucket)) == 1

    (left,) = ruled.abandoned(FOLDER)
    assert left.owner == OWNER
    ruled.remove_abandoned(left)

    assert uploads(server, bucket) == []
    assert keys(server, bucket) == []


def test_an_upload_that_was_begun_and_not_yet_noted_is_found_by_its_key(
    ruled: S3Store, proxy: Proxy, server: S3Server, bucket: str
) -> None:
    proxy.after = as_minio
    begun = False

    def lose_the_id(method: str, target: str, _headers: Any, _body: bytes) -> Answer | None:
        nonlocal begun
        begun = begun or (
            method == "POST" and "uploads" in query(target) and target.partition("?")[0].endswith("/disk")
        )
        return refusal(403, "AccessDenied") if begun and method == "PUT" and "/.upload-" in target else None

    proxy.before = lose_the_id
    context = ruled.stage(FOLDER, IDS[0], OWNER)
    ABANDONED.append((context, None))
    with pytest.raises(HyperExportError):
        context.__enter__().create("disk").write(memoryview(DATA))
    assert len(uploads(server, bucket)) == 1

    (left,) = ruled.abandoned(FOLDER)
    ruled.remove_abandoned(left)
    assert uploads(server, bucket) == []


def test_an_upload_that_stays_though_its_abort_was_confirmed_keeps_its_owner_tag_and_is_told(
    ruled: S3Store, proxy: Proxy, server: S3Server, bucket: str
) -> None:
    proxy.after = as_minio
    leave_behind(ruled)
    (left,) = ruled.abandoned(FOLDER)
    proxy.before = lambda method, target, *_: (
        (204, [], b"") if method == "DELETE" and "uploadId" in query(target) else None
    )

    with pytest.raises(StoreUnusable, match="still there after it was aborted"):
        ruled.remove_abandoned(left)
    assert [one.owner for one in ruled.abandoned(FOLDER)] == [OWNER]

    proxy.before = lambda *_: None
    ruled.remove_abandoned(left)
    assert uploads(server, bucket) == []
    assert keys(server, bucket) == []


@HABITS
def test_a_file_that_is_given_up_or_finished_leaves_neither_an_upload_nor_a_note(
    ruled: S3Store, proxy: Proxy, server: S3Server, bucket: str, habit: Any
) -> None:
    proxy.after = habit
    with ruled.stage(FOLDER, IDS[1], OWNER) as staging:
        sink = staging.create("disk")
        sink.write(memoryview(DATA))
        sink.abort()
        assert uploads(server, bucket) == []
    assert keys(server, bucket) == []
    export(ruled)
    assert sorted(key.rpartition("/")[2] for key in keys(server, bucket)) == ["disk", "export.json", "small"]


def test_a_note_that_names_another_exports_upload_aborts_nothing(store: S3Store, server: S3Server, bucket: str) -> None:
    client = server.client()
    key = f"backups/vms/web01.00000001/{IDS[2]}/disk"
    upload = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    leave_behind(store)
    note = f'{{"key": "{key}", "upload_id": "{upload}"}}'.encode()
    client.put_object(Bucket=bucket, Key=f"backups/vms/{FOLDER}/{IDS[0]}/.upload-00000000", Body=note)

    (left,) = store.abandoned(FOLDER)
    store.remove_abandoned(left)
    assert uploads(server, bucket) == [key]


def test_unfinished_uploads_that_may_not_be_listed_are_said_and_fail_nothing(ruled: S3Store, proxy: Proxy) -> None:
    proxy.before = lambda method, target, *_: (
        refusal(403, "AccessDenied") if method == "GET" and "uploads" in query(target) else None
    )
    ruled.check()
    for export_id in IDS[:2]:
        export(ruled, export_id)
    assert ruled.abandoned(FOLDER) == ruled.abandoned() == []
    done = delete_planned(ruled, plan_store_cleanup(ruled, KEEP_ONE), lambda _: True)
    assert len(done.deleted) == 1
    assert done.failed == ()
    assert any(f"uploads of s3://{ruled._bucket.location.bucket}/backups/vms/{FOLDER}" in one for one in done.deferred)
    assert all("s3:ListBucketMultipartUploads" in one for one in done.deferred)


def test_an_upload_that_cannot_be_aborted_keeps_no_file_and_its_owner_is_still_known(
    ruled: S3Store, proxy: Proxy, server: S3Server, bucket: str
) -> None:
    leave_behind(ruled)
    server.client().put_object(Bucket=bucket, Key=f"backups/vms/{FOLDER}/{IDS[0]}/small", Body=b"small")
    proxy.before = lambda method, target, *_: (
        refusal(403, "AccessDenied") if method == "DELETE" and "uploadId" in query(target) else None
    )
    done = delete_planned(ruled, plan_store_cleanup(ruled, KEEP_ONE), lambda _: True)
    assert done.abandoned == ()
    assert len(done.failed) == 1
    assert "upload" in done.failed[0]
    names = {key.rpartition("/")[2].partition("-")[0] for key in keys(server, bucket)}
    assert names == {".owner.json", ".upload"}, "what says whose it is stays until the rest is gone"
    proxy.before = lambda *_: None
    assert len(delete_planned(ruled, plan_store_cleanup(ruled, KEEP_ONE), lambda _: True).abandoned) == 1
    assert keys(server, bucket) == uploads(server, bucket) == []


def test_a_check_for_a_dry_run_refuses_as_the_real_one_does_and_leaves_no_object(
    ruled: S3Store, proxy: Proxy, server: S3Server, bucket: str
) -> None:
    writes: list[str] = []

    def watch(method: str, target: str, *_: Any) -> None:
        if method == "PUT" and "uploadId" not in query(target):
            writes.append(target)

    proxy.before = watch
    ruled.check_unseen()
    assert writes == keys(server, bucket) == uploads(server, bucket) == []
    proxy.before = lambda method, *_: refusal(403, "AccessDenied") if method in {"PUT", "POST"} else None
    for check in (ruled.check_unseen, ruled.check):
        with pytest.raises(StoreUnusable, match="AccessDenied"):
            check()


# -- who asks ---------------------------------------------------------------------------------------------------------


def test_each_request_tells_the_server_which_tool_it_comes_from(ruled: S3Store, proxy: Proxy) -> None:
    agents: list[str] = []

    def note(_method: str, _target: str, headers: Message, _body: bytes) -> None:
        agents.append(headers["User-Agent"])

    proxy.before = note
    export = publish(ruled, IDS[0], {"disk": b"x" * 100})
    with ruled.open(export, "disk") as reader:
        assert reader.read_at(0, 100) == b"x" * 100
    assert [agent for agent in agents if not agent.startswith("hyperexport")] == []
    assert len(agents) > 5
