"""Whatever the operating system answers to a store comes out as an error of ours, at every call of every operation."""

import errno
import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hyperexport.errors import HyperExportError
from hyperexport.model.marks import PreservedMark
from hyperexport.store.base import AbandonedStaging, StoredExport
from hyperexport.store.local import LocalStore
from hyperexport.store.local_staging import LocalStaging
from hyperexport.store.local_staging import partial as staged_as
from tests.engine.local_exports import (
    DISK_0,
    FIRST,
    FOLDER,
    NEW_ID,
    OWNER,
    manifest_of,
    write_export,
    write_file,
)

CODES = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENAMETOOLONG, errno.EACCES, errno.EMFILE,
    errno.ELOOP, errno.ENOTDIR, errno.ENODEV,
)  # fmt: skip
CALLS = [
    (os, name)
    for name in (
        "open", "close", "fsync", "fstat", "lstat", "stat", "statvfs", "scandir", "listdir", "mkdir", "rmdir", "rename",
        "replace", "unlink", "link", "write", "pread", "read", "fdopen",
    )
] + [(fcntl, "flock"), (fcntl, "fcntl")]  # fmt: skip


def stage_and_publish(store: LocalStore, export: StoredExport) -> None:
    with store.stage(FOLDER, NEW_ID, OWNER) as staging:
        assert isinstance(staging, LocalStaging)
        entry = write_file(staging, "a.vmdk", b"x" * 10_000)
        staging.put("b", b"b")
        staging.remove("b")
        with staging.open("a.vmdk") as reader:
            assert reader.read_at(0, 1) == b"x"
        reused = staging.reuse(export, export.manifest.disks[0], "c.vmdk")
        entries = [entry] + ([reused] if reused else [])
        staging.publish(manifest_of(FIRST, *entries).model_copy(update={"export_id": NEW_ID}))


def read_all(store: LocalStore, export: StoredExport) -> None:
    with store.open(export, DISK_0) as reader:
        list(reader.chunks())


def on_store(method: Callable[[LocalStore], object]) -> Callable[[LocalStore, StoredExport], object]:
    return lambda store, _export: method(store)


OPERATIONS: dict[str, Callable[[LocalStore, StoredExport], object]] = {
    "check": on_store(LocalStore.check),
    "free_bytes": on_store(LocalStore.free_bytes),
    "folders": on_store(LocalStore.folders),
    "listing": on_store(LocalStore.listing),
    "listing of one": lambda store, _: store.listing(FOLDER),
    "read": lambda store, _: store.read(FOLDER, NEW_ID),
    "manifest versions": on_store(LocalStore.manifest_versions),
    "abandoned": on_store(LocalStore.abandoned),
    "remove_abandoned": lambda store, _: store.remove_abandoned(
        AbandonedStaging(folder=FOLDER, export_id=NEW_ID, owner=OWNER)
    ),
    "sweep": on_store(LocalStore.sweep),
    "stage": stage_and_publish,
    "open": read_all,
    "files": lambda store, export: store.files(export),
    "delete": lambda store, export: store.delete(export),
    "mark": lambda store, export: store.write_mark(export, PreservedMark(export_id=export.export_id, preserve=True)),
}


class Failing:
    """A call of the system that fails once, at its ``nth`` use on a path or descriptor of the store."""

    def __init__(self, real: Callable[..., object], code: int, nth: int) -> None:
        self._real = real
        self._code = code
        self._left = nth
        self.failed = False

    def __call__(self, *arguments: object, **options: object) -> object:
        self._left -= 1
        if self._left == 0:
            self.failed = True
            raise OSError(self._code, os.strerror(self._code))
        return self._real(*arguments, **options)


def furnished(root: Path) -> tuple[LocalStore, StoredExport]:
    """A store with an export, a staging that a dead run left, and a deletion that was begun."""
    store = LocalStore(root)
    export = write_export(store, FIRST)
    left = staged_as(root / FOLDER / NEW_ID)
    left.mkdir()
    (left / "a.vmdk").write_bytes(b"x")
    (root / FOLDER / f"{export.export_id}.deleted").mkdir()
    return store, export


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_raises_only_errors_of_ours_whichever_call_fails(tmp_path, operation):
    found: list[str] = []
    tries = 0
    # Made once and copied: each is flushed to the disk, which takes longer than all that is tried.
    store, export = furnished(tmp_path / "made")
    if operation == "stage":
        store.remove_abandoned(AbandonedStaging(folder=FOLDER, export_id=NEW_ID, owner=OWNER))
    for module, name in CALLS:
        for nth in range(1, 5):
            code = CODES[tries % len(CODES)]
            tries += 1
            root = tmp_path / f"{name}-{nth}"
            shutil.copytree(tmp_path / "made", root, symlinks=True)
            store = LocalStore(root)
            failing = Failing(getattr(module, name), code, nth)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(module, name, failing)
                try:
                    OPERATIONS[operation](store, export)
                except HyperExportError:
                    pass
                except Exception as raw:  # noqa: BLE001 - what is looked for
                    found.append(f"{name} #{nth} {errno.errorcode[code]}: {raw!r}")
            if not failing.failed:
                break
    assert found == []
