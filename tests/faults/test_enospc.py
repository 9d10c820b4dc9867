"""A full disk, at any write: earlier exports stay as they were, cleaning up works on it, and the next export does."""

import errno
import hashlib
import os
import subprocess
from collections.abc import Callable, Generator
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from hyperexport.errors import DiskFull, HyperExportError, StoreUnusable
from hyperexport.formats import ova
from hyperexport.model.manifest import FileRole
from hyperexport.model.marks import VerifiedMark
from hyperexport.options.groups import Cleanup
from hyperexport.steps.cleanup import delete_planned, plan_store_cleanup
from hyperexport.steps.orphans import remove_abandoned_stagings
from hyperexport.steps.preservation import preserve
from hyperexport.store.base import StoredExport
from hyperexport.store.local import LocalStore
from tests.engine.local_exports import DESCRIPTOR, DISKS, FOLDER, OWNER, an_entry, manifest_of, write_export, write_file
from tests.faults.full_disk import disk

OLDEST, OLDER, NEW, NEWEST = (timedelta(days=days) for days in (4, 3, 2, 1))
OWNER_MARK = ".owner.json"
"""In an export that is complete it is no more than a scrap: where the disk failed just after its rename, it stays."""

KEEP_ONE = Cleanup(enabled=True, max_count=1)


def everything_is_over(_owner: object) -> bool:
    return True


def export_incrementally(store: LocalStore) -> StoredExport:
    return write_export(store, NEW, reuse=store.exports()[0])


def export_as_ova(store: LocalStore) -> StoredExport:
    """As steps/ova.py packs it: the files first, then the archive, then the files go."""
    manifest = manifest_of(NEW)
    with store.stage(FOLDER, manifest.export_id, OWNER) as staging:
        staging.put("db01.ovf", DESCRIPTOR)
        parts = [an_entry("db01.ovf", DESCRIPTOR), *(write_file(staging, name, data) for name, data in DISKS.items())]
        sink, digest = staging.create("db01.ova"), hashlib.sha256()

        def write(data: memoryview) -> None:
            digest.update(data)
            sink.write(data)

        try:
            members = [ova.Part(part.name, part.size, partial(staging.open, part.name)) for part in parts]
            ova.write(members, write, modified=manifest.started)
            size = sink.finish().size
        except BaseException:
            sink.abort()
            raise
        for part in parts:
            staging.remove(part.name)
        whole = an_entry("db01.ova", b"", role=FileRole.OVA, size=size, sha256=digest.hexdigest())
        return staging.publish(manifest_of(NEW, whole))


def mark_as_preserved(store: LocalStore) -> None:
    preserve([store], [manifest_of(OLDER).export_id], on=True)


def note_as_verified(store: LocalStore) -> None:
    (newest, *_) = store.exports()
    mark = VerifiedMark(export_id=newest.export_id, verified=newest.manifest.finished, seconds=1)
    store.write_mark(newest, mark)


def clean_up_store(store: LocalStore) -> None:
    done = delete_planned(store, plan_store_cleanup(store, KEEP_ONE), everything_is_over)
    if done.failed:
        raise StoreUnusable(done.failed[0])


WORK: list[Callable[[LocalStore], object]] = [
    export_incrementally,
    export_as_ova,
    mark_as_preserved,
    note_as_verified,
    clean_up_store,
]


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return two_exports(tmp_path / "exports")


def two_exports(root: Path) -> LocalStore:
    store = LocalStore(root)
    write_export(store, OLDEST)
    write_export(store, OLDER, reuse=store.exports()[0])
    return store


def contents(store: LocalStore, export: StoredExport) -> dict[str, str]:
    """The hash of each file of an export, read back."""
    found: dict[str, str] = {}
    for entry in export.manifest.files:
        with store.open(export, entry.name) as reader:
            found[entry.name] = hashlib.sha256(b"".join(reader.chunks())).hexdigest()
    return found


def look(store: LocalStore) -> dict[str, dict[str, str]]:
    """Every listed export, whole as its manifest says."""
    assert store.listing().damaged == ()
    seen = {str(export): contents(store, export) for export in store.exports()}
    for export in store.exports():
        assert seen[str(export)] == {entry.name: entry.sha256 for entry in export.manifest.files}
    return seen


HOW = [
    pytest.param(errno.ENOSPC, False, id="full from then on"),
    pytest.param(errno.ENOSPC, True, id="full for a moment", marks=pytest.mark.faults),
    pytest.param(errno.EDQUOT, False, id="quota from then on", marks=pytest.mark.faults),
    pytest.param(errno.EIO, False, id="failing from then on", marks=pytest.mark.faults),
    pytest.param(errno.EIO, True, id="failing for a moment", marks=pytest.mark.faults),
]


@pytest.mark.parametrize(("code", "once"), HOW)
@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)
def test_whichever_change_is_refused_nothing_earlier_is_lost(
    tmp_path: Path, work: Callable[[LocalStore], object], code: int, once: bool
) -> None:
    with disk() as counted:
        work(two_exports(tmp_path / "counting"))
    setting_up = counted_in(tmp_path / "setting up")
    steps = counted.seen - setting_up
    assert steps > 0 or work is clean_up_store
    for step in range(1, steps + 1):
        store = two_exports(tmp_path / str(step))
        before = look(store)
        with disk(step, code=code, once=once) as failing:
            with suppress(HyperExportError):
                work(store)
            assert failing.refused, "the disk was never full"
            seen = look(store)  # on the disk that is still full
            if work is not clean_up_store:
                assert {name: seen[name] for name in before} == before
                cleaned = delete_planned(store, plan_store_cleanup(store, KEEP_ONE), everything_is_over)
                if code != errno.EIO and not once:
                    preserved = {str(item) for item in cleaned.plan.items if not item.delete}
                    assert cleaned.failed == ()
                    assert set(look(store)) == preserved
        assert look(store).keys() <= seen.keys()
        remove_abandoned_stagings(store, None, everything_is_over)
        write_export(store, NEWEST)
        assert len(look(store)) >= 2
        assert store.abandoned() == []
        strangers = {path.name for path in Path(store.url).rglob(".*")} - {OWNER_MARK}
        assert strangers == set(), "and no hidden file stays"


def counted_in(root: Path) -> int:
    with disk() as counted:
        two_exports(root)
    return counted.seen


@pytest.mark.parametrize(("code", "kind"), [(errno.ENOSPC, DiskFull), (errno.EIO, StoreUnusable)])
def test_the_error_says_what_is_the_matter_and_what_to_do(
    store: LocalStore, code: int, kind: type[HyperExportError]
) -> None:
    with disk(3, code=code), pytest.raises(kind) as caught:
        export_incrementally(store)
    assert caught.value.fix
    assert store.url in str(caught.value)


@pytest.fixture
def tiny(tmp_path: Path) -> Generator[Callable[[int], Path]]:
    """Makes a filesystem of so many KiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small filesystem")
    mounted: list[Path] = []

    def make(kib: int) -> Path:
        place = tmp_path / f"{kib}-kib"
        place.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", place], check=False).returncode:
            pytest.skip("no filesystem can be mounted here")
        mounted.append(place)
        return place

    yield make
    for place in mounted:
        subprocess.run(["umount", "--lazy", place], check=True)


@pytest.mark.parametrize("work", [export_incrementally, export_as_ova], ids=lambda work: work.__name__)
def test_a_filesystem_that_really_is_full_loses_nothing_and_can_be_cleaned_up(
    tiny: Callable[[int], Path], work: Callable[[LocalStore], object]
) -> None:
    """Each size from where two exports just fit to where the third does, in pages of tmpfs."""
    tried: list[int] = []
    fitted: list[int] = []
    for kib in range(280, 700, 20):
        root = tiny(kib)
        store = LocalStore(root / "exports")
        try:
            two_exports(root / "exports")
        except DiskFull:
            assert fitted == []
            continue
        tried.append(kib)
        before = look(store)
        try:
            work(store)
        except DiskFull:
            assert look(store) == before
        else:
            fitted.append(kib)
            assert len(look(store)) == 3
        filler = root / "filler"
        with suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(b"\0" * 4096)
                file.flush()
        newest = str(store.exports()[0])
        cleaned = delete_planned(store, plan_store_cleanup(store, KEEP_ONE), everything_is_over)
        assert cleaned.failed == ()
        assert look(store).keys() == {newest}
        filler.unlink()
    assert fitted, "the export never fitted"
    assert fitted[0] > tried[0], "and never did not"
