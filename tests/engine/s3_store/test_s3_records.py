"""Records of drills lie beside an export in S3, and nowhere without one."""

import pytest

from hyperexport.errors import ExportNotFound
from hyperexport.jobs.list import read_store
from hyperexport.store.base import Record, RecordName
from hyperexport.store.s3 import S3Store
from tests.engine.s3_exports import FOLDER, IDS, keys, publish
from tests.engine.s3_servers import S3Server


def test_a_record_is_kept_beside_its_export_and_goes_with_it(store: S3Store, server: S3Server, bucket: str) -> None:
    export, other = (publish(store, name, {"a": b"1"}) for name in IDS[:2])
    before = store.manifest_versions()
    store.keep_record(export, "drill-1.png", b"picture")
    store.keep_record(export, "drill-1.json", b"{}")
    kept = [Record(RecordName(FOLDER, export.export_id, "drill-1.json"), b"{}")]
    assert store.records(store.listing()) == store.records(store.listing(FOLDER)) == kept
    after = store.manifest_versions()
    assert [place for place in before if before[place] != after[place]] == [(FOLDER, export.export_id)]
    assert sorted(store.exports(), key=str) == sorted([export, other], key=str)
    store.delete(export)
    assert [key for key in keys(server, bucket) if "drill" in key] == []
    assert store.listing().records == ()


def test_records_cost_no_second_listing(store: S3Store) -> None:
    store.keep_record(publish(store, IDS[0], {"a": b"1"}), "drill-1.json", b"{}")
    asked: list[str] = []
    for way in (store.listing, lambda: read_store(store)):
        asked.append("")
        store._bucket.client.meta.events.register(
            "before-call.s3.ListObjectsV2", lambda **_: asked.append(asked.pop() + "L"), unique_id="count"
        )
        way()
    assert asked[0]
    assert asked[0] == asked[1]


def test_no_record_is_left_where_the_export_is_gone(store: S3Store, server: S3Server, bucket: str) -> None:
    export = publish(store, IDS[0], {"a": b"1"})
    store.delete(export)
    with pytest.raises(ExportNotFound):
        store.keep_record(export, "drill-1.json", b"{}")
    assert keys(server, bucket) == []
    assert store.listing().damaged == ()
