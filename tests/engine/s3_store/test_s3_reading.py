"""What lies in a bucket is referred to by later exports, and read at any place."""

import pytest

from hyperexport.errors import ExportNotFound, StoreUnreachable, StoreUnusable
from hyperexport.model.manifest import FileRole
from hyperexport.store.s3 import S3Store
from tests.engine.s3_exports import FOLDER, IDS, OWNER, entry, keys, make_manifest, publish
from tests.engine.s3_servers import S3Server


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
    with pytest.raises(ExportNotFound, match="/a does not exist"):
        store.open(export, "a")
    with pytest.raises(ExportNotFound, match="/a does not exist"):
        store.checksum(export, "a")


def test_an_object_that_changes_while_it_is_read_is_noticed_by_its_size(
    server: S3Server, bucket: str, store: S3Store
) -> None:
    export = publish(store, IDS[0], {"a": b"x" * 100})
    with store.open(export, "a") as reader:
        server.client().put_object(Bucket=bucket, Key=f"backups/vms/{FOLDER}/{IDS[0]}/a", Body=b"short")
        with pytest.raises((StoreUnusable, StoreUnreachable)):
            reader.read_at(0, 100)
