"""One leftover that cannot be removed or looked at keeps no other, fails nothing, and is said."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import hyperexport
from hyperexport.base import retry as with_retries
from hyperexport.model.manifest import new_export_id
from hyperexport.options.groups import Cleanup
from hyperexport.simulator import DiskSpec, Fault, FaultKind, Simulator, VmSpec
from hyperexport.steps.cleanup import delete_planned, plan_store_cleanup
from hyperexport.store.local import LocalStore
from tests.engine import verifiable
from tests.engine.local_exports import FIRST, FOLDER, OWNER, SECOND, write_export

MIB = 1 << 20


@pytest.fixture
def vcenter(monkeypatch: pytest.MonkeyPatch) -> Generator[Simulator]:
    monkeypatch.setattr(with_retries, "RETRY_DELAYS", (0.0,))
    with Simulator((VmSpec("db01", disks=(DiskSpec(MIB),)),)) as simulator:
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        yield simulator


TAG = """
import sys
from hyperexport.model.ownership import Owner
owner = Owner.of_this_process(run="dead", vcenter=sys.argv[1], vm=sys.argv[2])
for name in sys.argv[3:]:
    print(owner.made_for(name).to_description())
"""


@pytest.fixture
def locked() -> Generator[list[Path]]:
    """Files put here are immutable until the test ends."""
    files: list[Path] = []
    yield files
    for path in files:
        subprocess.run(["chattr", "-i", path], check=False)


def lock(locked: list[Path], path: Path) -> None:
    if os.geteuid() or shutil.which("chattr") is None:
        pytest.skip("only root can make a file immutable")
    if subprocess.run(["chattr", "+i", path], check=False, capture_output=True).returncode:
        pytest.skip("this filesystem makes no file immutable")
    locked.append(path)


def staging(store: LocalStore, days: int) -> Path:
    """A half-written export of a run that is over."""
    export_id = new_export_id(datetime.now(UTC) - timedelta(days=days))
    with store.stage(FOLDER, export_id, OWNER) as made:
        made.put("a.vmdk", b"x" * 1000)
        made.put("b.vmdk", b"x" * 1000)
        kept = Path(store.url) / FOLDER / f"{export_id}.partial"
        shutil.copytree(kept, kept.with_name("copy"))
    kept.parent.mkdir(exist_ok=True)
    (Path(store.url) / FOLDER / "copy").rename(kept)
    return kept


def test_a_staging_with_a_file_that_stays_keeps_no_other_and_its_tag_goes_last(
    tmp_path: Path, locked: list[Path]
) -> None:
    store = LocalStore(tmp_path / "store")
    write_export(store, FIRST)
    stagings = [staging(store, days) for days in (5, 6, 7)]
    lock(locked, stagings[1] / "a.vmdk")
    done = delete_planned(store, plan_store_cleanup(store, Cleanup(enabled=True, max_count=1)), lambda _: True)
    assert len(done.abandoned) == 2
    assert len(done.failed) == 1
    assert "Operation not permitted" in done.failed[0]
    assert [path.exists() for path in stagings] == [False, True, False]
    assert sorted(path.name for path in stagings[1].iterdir()) == [".owner.json", "a.vmdk"]


def test_what_a_crash_left_and_stays_keeps_no_other(tmp_path: Path, locked: list[Path]) -> None:
    store = LocalStore(tmp_path / "store")
    begun = [tmp_path / "store" / FOLDER / f"{write_export(store, age).export_id}" for age in (FIRST, SECOND)]
    gone = [path.rename(path.with_name(f"{path.name}.deleted")) for path in begun]
    lock(locked, next(path for path in gone[0].iterdir() if path.suffix == ".vmdk"))
    done = delete_planned(store, plan_store_cleanup(store, Cleanup(enabled=True, max_count=1)), lambda _: True)
    assert [path.exists() for path in gone] == [True, False]
    assert len(list(gone[0].iterdir())) == 1, "all but what is locked is free again"
    assert (done.deleted, done.failed) == ((), ())
    assert "Operation not permitted" in done.deferred[0]


def test_a_snapshot_that_stays_keeps_no_other_and_the_vm_is_exported(vcenter: Simulator, tmp_path: Path) -> None:
    vm = vcenter.vm("db01")
    process = [sys.executable, "-c", TAG, "vc", vm.instance_uuid, "one", "two"]
    tags = subprocess.run(process, check=True, capture_output=True, text=True).stdout.splitlines()
    for name, tag in zip(("one", "two"), tags, strict=True):
        vm.take_snapshot(name, tag)
    vcenter.faults.add(Fault(FaultKind.METHOD_FAULT, method="RemoveSnapshot_Task", fault="RestrictedVersion"))
    result = hyperexport.export("db01", snapshot=True, output=tmp_path / "store")
    assert result.manifest is not None
    assert [name for _, name, _, _ in vm.snapshots()] == ["one"]
    assert any("snapshot one stays" in warning for warning in result.manifest.warnings)


# -- a store that cannot be written


@pytest.fixture
def read_only(tmp_path: Path) -> Generator[LocalStore]:
    """A store of two exports on a filesystem that is mounted read-only."""
    if os.geteuid() or shutil.which("mount") is None:
        pytest.skip("only root can mount a filesystem")
    place = tmp_path / "ro"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", place], check=False).returncode:
        pytest.skip("no filesystem can be mounted here")
    try:
        store = LocalStore(place)
        write_export(store, FIRST)
        verifiable.publish(store)
        staging(store, 9)
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        yield store
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def test_a_read_only_store_is_listed_reported_and_verified_and_what_was_not_recorded_is_said(
    read_only: LocalStore,
) -> None:
    assert len(hyperexport.list_exports(read_only.url).exports) == 2
    verified = hyperexport.verify_exports(verifiable.EXPORT_ID, output=read_only.url)
    assert len(verified) == 1
    assert verified[0].verification.ok
    assert "Read-only file system" in (verified[0].verification.unrecorded or "")


def test_a_cleanup_of_a_read_only_store_deletes_nothing_and_says_so_of_each(read_only: LocalStore) -> None:
    before = read_only.exports()
    done = delete_planned(read_only, plan_store_cleanup(read_only, Cleanup(enabled=True, max_count=1)), lambda _: True)
    assert (done.deleted, done.freed_bytes, done.abandoned) == ((), 0, ())
    assert len(done.failed) == 2, "the export, and the half-written one"
    assert all(os.strerror(errno.EROFS) in words for words in done.failed)
    assert read_only.exports() == before
