"""Verification in a bucket, on a real server: by the server's own checksums, or by reading everything back."""

import hashlib
from pathlib import Path

import pytest
from pydantic import SecretStr

from hyperexport.base.stop import StopSignal
from hyperexport.model.manifest import FILE_NAME
from hyperexport.store.base import StoredExport
from hyperexport.store.local import LocalStore
from hyperexport.store.s3 import S3Location, S3Settings, S3Store
from hyperexport.verify.export import verify_export
from hyperexport.verify.findings import Verification
from tests.engine.s3_servers import S3Server
from tests.engine.verifiable import DISKS, publish, publish_ova

DISK_0, DISK_1 = DISKS


@pytest.fixture
def bucket(server: S3Server, request: pytest.FixtureRequest) -> str:
    return server.make_bucket("v" + hashlib.sha256(request.node.name.encode()).hexdigest()[:12])


@pytest.fixture
def store(server: S3Server, bucket: str) -> S3Store:
    settings = S3Settings(
        endpoint_url=server.endpoint_url,
        ca_bundle=server.ca_file,
        access_key=SecretStr(server.access_key),
        secret_key=SecretStr(server.secret_key),
    )
    return S3Store(S3Location(bucket=bucket, prefix="vms"), settings, stop=StopSignal())


def verify(store: S3Store, export: StoredExport, *, deep: bool) -> Verification:
    return verify_export(store, export, deep=deep, stop=StopSignal())


def sizes(export: StoredExport, *without: str) -> int:
    return sum(entry.size for entry in export.manifest.files if entry.name not in without and entry.member_of is None)


def replace(server: S3Server, bucket: str, export: StoredExport, name: str, data: bytes) -> None:
    server.client().put_object(Bucket=bucket, Key=f"vms/{export}/{name}", Body=data)


def test_disks_are_proved_by_the_servers_checksums_and_not_read(store: S3Store) -> None:
    export = publish(store)
    result = verify(store, export, deep=False)
    assert result.ok, result.findings
    assert result.bytes_read == sizes(export, *DISKS)
    assert f"as the store keeps them of {DISK_0}, {DISK_1}" in result.protection


def test_deep_verification_reads_everything(store: S3Store) -> None:
    export = publish(store)
    result = verify(store, export, deep=True)
    assert result.ok, result.findings
    assert result.bytes_read == sizes(export)


@pytest.mark.parametrize("deep", [False, True])
def test_a_replaced_disk_is_found(store: S3Store, server: S3Server, bucket: str, *, deep: bool) -> None:
    export = publish(store)
    replace(server, bucket, export, DISK_0, DISKS[DISK_0][:-1] + b"x")
    (finding,) = verify(store, export, deep=deep).findings
    assert finding.file == DISK_0
    assert ("SHA-256" if deep else "the store's checksum of it is") in finding.problem


@pytest.mark.parametrize("deep", [False, True])
def test_a_short_a_missing_and_a_foreign_object_are_found(
    store: S3Store, server: S3Server, bucket: str, *, deep: bool
) -> None:
    export = publish(store)
    replace(server, bucket, export, DISK_0, DISKS[DISK_0][:1000])
    replace(server, bucket, export, "extra.vmdk", b"x")
    server.client().delete_object(Bucket=bucket, Key=f"vms/{export}/{DISK_1}")
    found = {finding.file: finding for finding in verify(store, export, deep=deep).findings}
    assert found.keys() == {DISK_0, DISK_1, "extra.vmdk"}
    assert f"it has 1000 bytes, the manifest says {len(DISKS[DISK_0])}" in found[DISK_0].problem
    assert found[DISK_1].problem == "it is missing"


def test_a_damaged_manifest_is_found(store: S3Store, server: S3Server, bucket: str) -> None:
    export = publish(store)
    data = export.manifest.to_json()
    replace(server, bucket, export, FILE_NAME, data.replace(b"was not quiesced", b"was now quiesced"))
    assert [finding.file for finding in verify(store, export, deep=False).findings] == [FILE_NAME]
    replace(server, bucket, export, FILE_NAME, data[:-100])
    assert [finding.file for finding in verify(store, export, deep=False).findings] == [FILE_NAME]


def test_an_ova_is_proved_either_way(store: S3Store, tmp_path: Path) -> None:
    export = publish_ova(LocalStore(tmp_path), store)
    shallow, deep = verify(store, export, deep=False), verify(store, export, deep=True)
    assert shallow.ok, shallow.findings
    assert deep.ok, deep.findings
    assert deep.bytes_read == sizes(export)
    assert shallow.bytes_read < 10_000
    assert shallow.files == deep.files == 8
