"""Exports into a real S3 server: streamed, referred to, and nothing on the local disk unless it is wanted there."""

from collections.abc import Generator
from pathlib import Path

import pytest

import hyperexport
from hyperexport import errors
from hyperexport.base.stop import StopSignal
from hyperexport.flows import export_vm
from hyperexport.options.precedence import ExportOptions
from hyperexport.simulator import Fault, FaultKind, Simulator
from hyperexport.store.local import LocalStore
from hyperexport.store.s3 import S3Location, S3Settings, S3Store
from tests.engine.s3_servers import S3Server, rclone_s3
from tests.flows.support import changed, exported_bytes, exports_in, guest_bytes, leftovers


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[S3Server]:
    with rclone_s3(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def bucket(server: S3Server, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.secret_key)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(server.ca_file))
    return server.make_bucket(f"bucket-{abs(hash(request.node.name)) % 10**8}")


@pytest.fixture
def remote(server: S3Server, bucket: str) -> S3Store:
    settings = S3Settings(endpoint_url=server.endpoint_url)
    return S3Store(S3Location.parse(f"s3://{bucket}/vms"), settings, stop=StopSignal())


@pytest.fixture
def given(server: S3Server, bucket: str, store: Path) -> dict[str, object]:
    return {
        "snapshot": True,
        "incremental": True,
        "output": store,
        "upload": f"s3://{bucket}/vms",
        "s3_endpoint": server.endpoint_url,
    }


def test_an_export_is_kept_locally_and_in_s3_with_the_same_bytes(
    vcenter: Simulator, store: Path, remote: S3Store, given: dict[str, object]
) -> None:
    result = export_vm("db01", ExportOptions.from_keys({**given, "verify": "deep"}))

    (here,), (there,) = exports_in(store), remote.exports()
    assert exported_bytes(LocalStore(store), here) == guest_bytes(vcenter, "db01")
    assert exported_bytes(remote, there) == guest_bytes(vcenter, "db01")
    assert here.export_id == there.export_id
    assert result.verified is True
    assert all(entry.protection for entry in there.manifest.disks), "what guards the bytes is said"
    assert leftovers(vcenter, store) == []


def test_an_export_without_a_local_copy_writes_nothing_to_the_local_disk(
    vcenter: Simulator, store: Path, remote: S3Store, given: dict[str, object]
) -> None:
    hyperexport.export("db01", ExportOptions.from_keys({**given, "keep_local": False}))

    (there,) = remote.exports()
    assert exported_bytes(remote, there) == guest_bytes(vcenter, "db01")
    assert not store.exists()


def test_an_unchanged_disk_is_referred_to_in_s3(vcenter: Simulator, remote: S3Store, given: dict[str, object]) -> None:
    options = ExportOptions.from_keys({**given, "keep_local": False})
    hyperexport.export("db01", options)
    vcenter.vm("db01").guest_write(0, 0, b"changed")
    hyperexport.export("db01", options)
    hyperexport.export("db01", options)

    third, second, first = remote.exports()
    assert changed(second.manifest) == {"Hard disk 1": True, "Hard disk 2": False}
    assert [entry.stored_in for entry in second.manifest.disks] == [None, first.export_id]
    assert [entry.stored_in for entry in third.manifest.disks] == [second.export_id, first.export_id]
    assert exported_bytes(remote, third) == guest_bytes(vcenter, "db01")


def test_an_ova_is_uploaded_whole(vcenter: Simulator, store: Path, remote: S3Store, given: dict[str, object]) -> None:
    hyperexport.export("db01", ExportOptions.from_keys({**given, "format": "ova", "verify": "deep"}))

    (there,) = remote.exports()
    beside = {entry.name for entry in there.manifest.files if entry.member_of is None}
    tags = {f"db01-disk-{disk}.vmdk{suffix}" for disk in (0, 1) for suffix in (".tags", ".grains")}
    assert beside == {"db01.ova", "db01.vm.json", *tags}
    assert exported_bytes(remote, there) == guest_bytes(vcenter, "db01")
    assert exported_bytes(LocalStore(store), exports_in(store)[0]) == guest_bytes(vcenter, "db01")


def test_a_missing_bucket_is_told_before_the_vm_is_touched(
    vcenter: Simulator, store: Path, bucket: str, given: dict[str, object]
) -> None:
    with pytest.raises(errors.StoreUnusable, match="no-such-bucket"):
        hyperexport.export("db01", ExportOptions.from_keys({**given, "upload": "s3://no-such-bucket/vms"}))
    assert "CreateSnapshot_Task" not in vcenter.requests
    assert leftovers(vcenter, store) == []


def test_a_wrong_key_is_told_before_the_vm_is_touched(
    vcenter: Simulator, store: Path, given: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    with pytest.raises(errors.StoreUnusable) as caught:
        hyperexport.export("db01", ExportOptions.from_keys(given))
    assert "wrong-secret" not in str(caught.value)
    assert "CreateSnapshot_Task" not in vcenter.requests
    assert leftovers(vcenter, store) == []


def test_an_export_that_fails_leaves_no_object_and_no_unfinished_upload(
    vcenter: Simulator, store: Path, remote: S3Store, given: dict[str, object], server: S3Server, bucket: str
) -> None:
    vcenter.faults.add(Fault(FaultKind.CREATE_SNAPSHOT_FAILED, times=0))
    with pytest.raises(errors.SnapshotFailed):
        hyperexport.export("db01", ExportOptions.from_keys(given))
    vcenter.faults.clear()
    vcenter.faults.add(Fault(FaultKind.DESCRIPTOR_ERROR, times=0))
    with pytest.raises(errors.DescriptorFailed):
        hyperexport.export("db01", ExportOptions.from_keys(given))

    assert remote.exports() == []
    assert server.client().list_objects_v2(Bucket=bucket).get("Contents", []) == []
    assert server.client().list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []
    assert leftovers(vcenter, store) == []
