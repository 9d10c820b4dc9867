"""One object that the server does not hand out, or that rotted, fails no listing and deletes nothing."""

from collections.abc import Generator
from pathlib import Path

import pytest

from hyperexport.base.stop import StopSignal
from hyperexport.errors import StoreUnusable
from hyperexport.options.declaring import VerifyMode
from hyperexport.options.groups import Cleanup
from hyperexport.steps.cleanup import delete_planned, plan_store_cleanup
from hyperexport.steps.verification import select_exports, verify, verify_selected
from hyperexport.store.base import StoredExport
from hyperexport.store.s3 import S3Store
from tests.engine.s3_exports import FOLDER, IDS, OWNER, entry, open_store, publish
from tests.engine.s3_proxy import Fault, Proxy, faulty_proxy
from tests.engine.s3_servers import S3Server

KEEP_ONE = Cleanup(enabled=True, max_count=1)


@pytest.fixture
def proxy(server: S3Server, tmp_path: Path) -> Generator[Proxy]:
    with faulty_proxy(server, tmp_path) as running:
        yield running


@pytest.fixture
def guarded(server: S3Server, bucket: str, proxy: Proxy) -> S3Store:
    return open_store(server, bucket, endpoint_url=proxy.endpoint_url, ca_bundle=proxy.ca_file)


def forbid(proxy: Proxy, ending: str) -> None:
    proxy.fault = lambda request, _: Fault.FORBIDDEN if request.partition("?")[0].endswith(ending) else None


def is_over(_owner: object) -> bool:
    return True


def three(store: S3Store) -> list[StoredExport]:
    """Three exports of one VM, newest first."""
    return [publish(store, export_id, {"a.vmdk": export_id.encode()}) for export_id in (IDS[2], IDS[1], IDS[0])]


def test_a_forbidden_manifest_is_said_and_the_others_are_listed(store: S3Store, guarded: S3Store, proxy: Proxy) -> None:
    newest, middle, oldest = three(store)
    forbid(proxy, f"{middle}/export.json")
    listing = guarded.listing()
    assert list(listing.exports) == [newest, oldest]
    assert [(str(one), str(one.problem)) for one in listing.damaged] == [(str(middle), "unreadable")]
    assert "AccessDenied" in listing.damaged[0].reason
    verified = verify_selected(select_exports([guarded], []), VerifyMode.ON, StopSignal(), verify_one=verify)
    assert [item.location.rpartition("/")[2] for item in verified] == [IDS[1], IDS[2], IDS[0]]


def test_while_an_element_cannot_be_read_no_export_that_it_may_use_is_deleted(
    store: S3Store, guarded: S3Store, proxy: Proxy
) -> None:
    newest, middle, oldest = three(store)
    sound = plan_store_cleanup(store, KEEP_ONE)
    assert [str(item) for item in sound.to_delete] == [str(oldest), str(middle)]
    forbid(proxy, f"{middle}/export.json")
    plan = plan_store_cleanup(guarded, KEEP_ONE)
    assert plan.to_delete == ()
    assert [str(one) for one in plan.damaged] == [str(middle)]
    done = delete_planned(guarded, sound, is_over)  # planned while it could be read
    assert done.deleted == ()
    assert len(done.deferred) == 2
    assert store.exports() == [newest, middle, oldest]


def test_a_manifest_that_rots_takes_those_with_it_that_use_its_bytes(
    server: S3Server, bucket: str, store: S3Store
) -> None:
    base = publish(store, IDS[0], {"a.vmdk": b"a"})
    with store.stage(FOLDER, IDS[1], OWNER) as staging:
        reused = staging.reuse(base, base.manifest.files[0], "a.vmdk")
        assert reused is not None
        second = staging.publish(base.manifest.model_copy(update={"export_id": IDS[1], "files": (reused,)}))
    assert len(store.exports()) == 2
    key = f"backups/vms/{base}/export.json"
    data = base.manifest.to_json().replace(b"run-1", b"run-2")
    server.client().put_object(Bucket=bucket, Key=key, Body=data)
    assert {str(one): str(one.problem) for one in store.listing().damaged} == {
        str(base): "seal-broken",
        str(second): "bytes-missing",
    }
    with pytest.raises(StoreUnusable, match="not deleted"):
        store.delete(base)
    refers = entry("a.vmdk", b"a", stored_in=IDS[0])
    third = base.manifest.model_copy(update={"export_id": IDS[2], "files": (refers,)})
    with store.stage(FOLDER, IDS[2], OWNER) as staging, pytest.raises(StoreUnusable, match="deleted or damaged"):
        staging.publish(third)


def test_an_export_whose_manifest_was_removed_is_damaged_and_no_staging(
    server: S3Server, bucket: str, store: S3Store
) -> None:
    export = publish(store, IDS[0], {"a.vmdk": b"a"})
    server.client().delete_object(Bucket=bucket, Key=f"backups/vms/{export}/export.json")
    assert [str(one.problem) for one in store.listing().damaged] == ["manifest-missing"]
    assert store.abandoned() == []
    assert store.sweep() == []
    assert set(store.manifest_versions()) == {(FOLDER, IDS[0])}


def test_an_owner_tag_that_cannot_be_read_stays_in_doubt_and_keeps_what_its_run_may_use(
    store: S3Store, guarded: S3Store, proxy: Proxy
) -> None:
    three(store)
    other = OWNER.model_copy(update={"run": "another"})
    with store.stage(FOLDER, IDS[4], other):
        forbid(proxy, f"{IDS[4]}/.owner.json")
        (found,) = guarded.abandoned()
        assert found.owner is None
        assert "AccessDenied" in (found.doubt or "")
        done = delete_planned(guarded, plan_store_cleanup(guarded, KEEP_ONE), is_over)
        assert (done.deleted, done.abandoned) == ((), ())
        assert any(IDS[4] in words for words in done.deferred)


def test_a_result_that_cannot_be_recorded_is_said_and_the_next_export_is_verified(
    store: S3Store, guarded: S3Store, proxy: Proxy
) -> None:
    three(store)
    proxy.fault = lambda request, _: Fault.FORBIDDEN if request.startswith("PUT ") else None
    verified = verify_selected(select_exports([guarded], []), VerifyMode.ON, StopSignal(), verify_one=verify)
    assert len(verified) == 3
    assert all("AccessDenied" in (item.verification.unrecorded or "") for item in verified)


def test_an_export_that_a_cleanup_deletes_meanwhile_is_said_and_is_no_damage(store: S3Store) -> None:
    newest, middle, oldest = three(store)
    selected = select_exports([store], [])
    store.delete(middle)
    verified = verify_selected(selected, VerifyMode.ON, StopSignal(), verify_one=verify)
    assert [item.deleted for item in verified] == [False, True, False]
    assert [item.location.rpartition("/")[2] for item in verified] == [
        one.export_id for one in (newest, middle, oldest)
    ]
    assert verified[1].verification.findings == ()
