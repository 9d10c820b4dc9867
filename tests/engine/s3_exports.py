"""Small exports in a bucket of a real server, for whoever needs some."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import SecretStr

from hyperexport.base.stop import StopSignal
from hyperexport.model.manifest import ExportKind, ExportManifest, FileEntry, FileRole, TransferStatistics
from hyperexport.model.ownership import Owner
from hyperexport.model.vm import VmRef
from hyperexport.store.base import StoredExport
from hyperexport.store.s3 import S3Location, S3Settings, S3Store
from tests.engine.s3_servers import S3Server

FOLDER = "db01.0a1b2c3d"
IDS = [f"2026112{day}T065304Z-00a{day}" for day in range(1, 8)]
VM = VmRef(moref="vm-42", name="db01", path="/DC0/vm/db01", instance_uuid="0a1b2c3d-0000-0000-0000-000000000000")
OWNER = Owner.of_this_process(run="run-1", vcenter="vc.example", vm=VM.instance_uuid)


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
