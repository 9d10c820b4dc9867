"""What dead runs leave in a local store is told for what it is, and nothing else is swept away."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hyperexport.store import local
from hyperexport.store.base import AbandonedStaging
from hyperexport.store.filesystem import held, write_new
from hyperexport.store.local import LocalStore
from hyperexport.store.local_sweep import sweep_root
from tests.engine.local_exports import (
    FIRST,
    FOLDER,
    NEW_ID,
    OWNER,
    manifest_of,
    prove,
    write_export,
    write_file,
)

# -- what dead runs leave


def test_an_abandoned_staging_is_found_and_removed(root, store):
    staging = store.stage(FOLDER, NEW_ID, OWNER).__enter__()
    write_file(staging, "disk.vmdk", b"data")
    (found,) = store.abandoned(FOLDER)
    assert found.owner == OWNER
    store.remove_abandoned(found)
    store.remove_abandoned(found)
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("deaths", range(4))
def test_whoever_dies_while_he_removes_a_staging_leaves_it_to_be_told_whose_it_is(root, store, monkeypatch, deaths):
    staging = store.stage(FOLDER, NEW_ID, OWNER).__enter__()
    for name in ("a.vmdk", "b.vmdk", "z.nvram"):
        write_file(staging, name, b"data")
    removed: list[object] = []

    def dying(call):
        def remove(*args, **kwargs):
            if len(removed) == deaths:
                raise KeyboardInterrupt
            removed.append(args)
            return call(*args, **kwargs)

        return remove

    (found,) = store.abandoned(FOLDER)
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", dying(os.unlink))
        with pytest.raises(KeyboardInterrupt):
            store.remove_abandoned(found)
    (again,) = store.abandoned(FOLDER)
    assert again.owner == OWNER
    store.remove_abandoned(again)
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("mark", [None, b"", b"{}", b'{"tool": "another"}'])
def test_an_abandoned_staging_without_a_readable_mark_has_no_owner(root, store, mark):
    path = root / FOLDER / f"{NEW_ID}.partial"
    path.mkdir(parents=True)
    if mark is not None:
        (path / ".owner.json").write_bytes(mark)
    doubt = None if mark is None else "its owner tag is damaged"
    assert store.abandoned() == [AbandonedStaging(folder=FOLDER, export_id=NEW_ID, owner=None, doubt=doubt)]


@pytest.fixture(scope="module")
def crashed(tmp_path_factory) -> list[Path]:
    """The stores of processes that were killed, one at each step of their work."""
    root = tmp_path_factory.mktemp("crashed")
    done = subprocess.run(
        [sys.executable, "-m", "tests.engine.crashing_writer", root], check=True, capture_output=True, text=True
    )
    return [root / str(step) for step in range(1, int(done.stdout) + 1)]


def test_a_process_killed_at_any_step_leaves_only_whole_exports_and_what_can_be_told_for_leftovers(crashed):
    assert len(crashed) > 30
    listed, leftovers = set(), 0
    for path in crashed:
        store = LocalStore(path)
        exports = store.exports()
        for export in exports:
            prove(store, export)
        assert store.listing().damaged == ()
        swept = store.sweep()
        left = store.abandoned()
        leftovers += len(left) + len(swept)
        for staging in left:
            assert staging.owner
            assert staging.owner.vm == OWNER.vm
            store.remove_abandoned(staging)
        names = {export.export_id for export in exports}
        assert {entry.name for entry in (path / FOLDER).iterdir()} == names
        known = {entry.name for export in exports for entry in export.manifest.files} | {
            "export.json",
            "mark-preserved.json",
        }
        assert {entry.name for entry in (path / FOLDER).rglob("*") if entry.is_file()} <= known
        listed.add(frozenset(names))
    first, second = manifest_of(FIRST).export_id, NEW_ID
    assert listed == {frozenset({first}), frozenset({first, second}), frozenset({second})}
    assert leftovers > 10


# -- what nobody owns


def test_a_sweep_leaves_what_somebody_is_about_to_sign(root, store):
    path = root / FOLDER / f"{NEW_ID}.partial"
    path.mkdir(parents=True)
    with held(path, wait=True) as ours:
        assert ours
        assert store.sweep() == []
    assert store.sweep() == [f"{FOLDER}/{NEW_ID}"]
    assert list(root.iterdir()) == []


def test_a_staging_that_is_swept_away_before_it_is_signed_is_made_again(root, store, monkeypatch):
    mkdir, made = Path.mkdir, []

    def swept_at_once(path, *arguments, **options):
        mkdir(path, *arguments, **options)
        if path.name.endswith(".partial") and not made:
            made.append(path)
            store.sweep()

    monkeypatch.setattr(Path, "mkdir", swept_at_once)
    with store.stage(FOLDER, NEW_ID, OWNER):
        assert store.abandoned()[0].owner == OWNER
    assert made


def test_a_sweep_never_touches_a_staging_that_holds_anything(root, store):
    with store.stage(FOLDER, NEW_ID, OWNER) as staging:
        write_file(staging, "disk.vmdk", b"data")
        assert store.sweep() == []
        (root / FOLDER / f"{NEW_ID}.partial" / ".owner.json").write_bytes(b"")
        assert store.sweep() == []
        assert store.abandoned()


def test_a_sweep_takes_marks_and_half_written_manifests_and_records_out_of_complete_exports(root, store):
    export = write_export(store, FIRST)
    folder = root / FOLDER / export.export_id
    before = {path.name for path in folder.iterdir()}
    halves = (".export.json.0123abcd", ".drill-1-a.json.0123abcd", ".drill-1-a.png.0123abcd")
    for name in (".owner.json", *halves, "mine", ".mine", ".drill-1-a.json"):
        (folder / name).write_bytes(b"{}")
    assert store.sweep(FOLDER) == [str(export)]
    assert {path.name for path in folder.iterdir()} == before | {"mine", ".mine", ".drill-1-a.json"}


def test_a_probe_that_is_swept_up_by_a_run_beside_does_not_fail_the_check(root, store, monkeypatch):
    def written_and_swept_up(path: Path, data: bytes) -> None:
        write_new(path, data)
        sweep_root(root)
        assert not path.exists()

    root.mkdir(exist_ok=True)
    monkeypatch.setattr(local, "write_new", written_and_swept_up)
    store.check()


def test_a_probe_whose_writer_died_is_swept_up(root, store):
    write_export(store, FIRST)
    (root / ".hyperexport-probe-0123abcd").write_bytes(b"")
    (root / ".hyperexport-probe-notes").write_bytes(b"")
    store.sweep()
    assert {path.name for path in root.iterdir()} == {FOLDER, ".hyperexport-probe-notes"}
