"""Who can read what is written: by the user's umask, and nobody else can write it."""

import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hyperexport.model.marks import PreservedMark
from hyperexport.store.local import LocalStore
from tests.engine.local_exports import FIRST, FOLDER, OWNER, manifest_of, write_export, write_file


@contextmanager
def umask(mask: int) -> Generator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def modes(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): stat.S_IMODE(path.lstat().st_mode) for path in root.rglob("*")}


@pytest.mark.parametrize(("mask", "file", "folder"), [(0o077, 0o600, 0o700), (0o022, 0o644, 0o755)])
def test_an_export_is_as_private_as_its_users_files_are(tmp_path: Path, mask: int, file: int, folder: int) -> None:
    store = LocalStore(tmp_path / "exports")
    with umask(mask):
        store.check()
        export = write_export(store, FIRST)
        store.write_mark(export, PreservedMark(export_id=export.export_id, preserve=True))
    found = modes(tmp_path / "exports")
    assert found
    for name, mode in found.items():
        assert mode == (file if (tmp_path / "exports" / name).is_file() else folder), name


def test_what_is_half_written_is_no_less_private(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "exports")
    with umask(0o077), store.stage(FOLDER, manifest_of(FIRST).export_id, OWNER) as staging:
        write_file(staging, "db01-disk-0.vmdk", b"KDMV")
        assert set(modes(tmp_path / "exports").values()) == {0o600, 0o700}
