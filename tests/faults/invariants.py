"""What must hold whatever happened: listed exports are whole and true, and nothing of ours is left lying about."""

import hashlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from hyperexport.base.stop import StopSignal
from hyperexport.formats.vmdk_image import open_image
from hyperexport.model.marks import MARK_FILES
from hyperexport.simulator import Simulator
from hyperexport.store.base import Store, StoredExport
from hyperexport.verify.export import verify_export
from tests.faults.guest import USERS_SNAPSHOT


def restored(store: Store, export: StoredExport) -> list[str]:
    """The SHA-256 of each disk of an export, as a guest would see it after an import."""
    hashes: list[str] = []
    for entry in sorted(export.manifest.disks, key=lambda entry: entry.disk_key or 0):
        disk = bytearray(entry.capacity or 0)
        for part in export.manifest.parts(entry):
            with store.open(export, part.name) as reader:
                for offset, content in open_image(reader).grains():
                    disk[offset : offset + len(content)] = content
        assert len(disk) == entry.capacity
        hashes.append(hashlib.sha256(disk).hexdigest())
    return hashes


def assert_whole(store: Store, export: StoredExport, guest: list[str]) -> None:
    """A listed export is complete, verifies, and restores to what the guest had at its snapshot."""
    assert restored(store, export) == guest, f"{export} does not restore to the guest's bytes"
    found = verify_export(store, export, deep=True, stop=StopSignal())
    assert found.ok, found.findings


class Place(ABC):
    """The bare thing that a store keeps its exports in, looked at without the store's own code."""

    def fingerprint(self, under: str) -> dict[str, object]:
        """Each file below a place, with what changes when it is written."""
        return {name: facts for name, facts in self.everything().items() if name.startswith(under)}

    @abstractmethod
    def everything(self) -> dict[str, object]:
        """Every file that is there, hidden ones and probes too."""

    @abstractmethod
    def unfinished(self) -> list[str]:
        """Uploads that nobody has completed or aborted."""


class Folder(Place):
    """A folder of this machine."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def everything(self) -> dict[str, object]:
        found: dict[str, object] = {}
        for path in sorted(self._root.rglob("*")) if self._root.exists() else ():
            status = path.lstat()
            name = path.relative_to(self._root).as_posix() + ("/" if path.is_dir() else "")
            found[name] = (status.st_ino, status.st_size, status.st_mtime_ns) if not path.is_dir() else None
        return found

    def unfinished(self) -> list[str]:
        return []


class Bucket(Place):
    """A prefix in a bucket, through a plain client."""

    def __init__(self, client: Any, bucket: str, prefix: str) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix}/"

    def everything(self) -> dict[str, object]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
        return {
            item["Key"].removeprefix(self._prefix): (item["Size"], item["ETag"], item["LastModified"])
            for page in pages
            for item in page.get("Contents", [])
        }

    def unfinished(self) -> list[str]:
        try:
            answer = self._client.list_multipart_uploads(Bucket=self._bucket)
        except self._client.exceptions.NoSuchUpload:  # rclone says so of a bucket that has seen none
            return []
        return [upload["Key"] for upload in answer.get("Uploads", [])]


def leftovers(simulator: Simulator, vm: str, store: Store, place: Place) -> list[str]:
    """Whatever is there and belongs to no listed export: on the server, and in the store."""
    return [*left_on_server(simulator, vm), *left_in(store, place)]


def left_on_server(simulator: Simulator, vm: str) -> list[str]:
    """Snapshots of ours, leases, sessions; and what should be there and is not."""
    found = [f"lease {lease.moid}" for lease in simulator.leases()]
    found += [f"session of {session.user.name}" for session in simulator.sessions()]
    names = [(name, description) for _, name, description, _ in simulator.vm(vm).snapshots()]
    found += [f"snapshot {name}" for name, description in names if "[hyperexport" in description]
    found += [] if (USERS_SNAPSHOT, "") in names else ["the user's own snapshot is gone"]
    return found


def left_in(store: Store, place: Place) -> list[str]:
    """Files, folders and uploads that are no part of a listed export."""
    known: set[str] = set()
    for export in store.exports():
        parts = {entry.name for entry in export.manifest.files if not entry.member_of and not entry.stored_in}
        known |= {f"{export}/{name}" for name in parts | {"export.json", *MARK_FILES}}
        known |= {f"{export}/", f"{export.folder}/"}
    found = [f"file {name}" for name in place.everything() if name not in known]
    return found + [f"unfinished upload {name}" for name in place.unfinished()]


def listing(store: Store) -> dict[str, StoredExport]:
    """The exports that a store lists, by their names."""
    return {str(export): export for export in store.exports()}
