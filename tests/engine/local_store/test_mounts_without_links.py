"""A store on a filesystem like many network shares: no file without a name, no hard links. ``rclone mount`` is one."""

import os
import subprocess
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

import hyperexport
from hyperexport import errors
from hyperexport.base.stop import StopSignal
from hyperexport.options.declaring import VerifyMode
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from hyperexport.steps.verification import verify
from hyperexport.store.local import LocalStore
from tests.engine.s3_servers import tool

MIB = 1 << 20
RCLONE = tool("rclone")
pytestmark = pytest.mark.skipif(not os.access("/dev/fuse", os.W_OK) or not RCLONE, reason="needs rclone and /dev/fuse")


@pytest.fixture
def mount(tmp_path: Path) -> Generator[Callable[..., Path]]:
    """Mounts a folder with more of rclone's flags, and gives the place."""
    place, source = tmp_path / "share", tmp_path / "source"
    source.mkdir()
    place.mkdir()
    mounted = False

    def mounting(*flags: str) -> Path:
        nonlocal mounted
        words = ["--daemon", "--daemon-wait", "30s", "--vfs-cache-mode", "writes", f"--cache-dir={tmp_path / 'cache'}"]
        done = subprocess.run(
            [str(RCLONE), "mount", source, place, *words, *flags], check=False, capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"no filesystem can be mounted here: {done.stderr}")
        mounted = True
        with pytest.raises(OSError, match=r"not supported|Is a directory|Read-only"):
            os.open(place, os.O_WRONLY | os.O_TMPFILE)
        return place

    yield mounting
    if mounted:
        subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("below", [".", "not/there/yet"])
def test_a_dry_run_finds_that_it_can_be_written_and_leaves_nothing(mount: Callable[..., Path], below: str) -> None:
    share = mount()
    LocalStore(share / below).check_unseen()
    assert list(share.iterdir()) == []
    LocalStore(share / below).check()
    assert list(share.iterdir()) == []


def test_a_share_that_is_read_only_is_refused_by_the_dry_run_as_by_the_real_one(mount: Callable[..., Path]) -> None:
    share = mount("--read-only")
    for store in (LocalStore(share), LocalStore(share / "not" / "there")):
        for check in (store.check_unseen, store.check):
            with pytest.raises(errors.StoreUnusable, match=str(share)):
                check()
    with pytest.raises(errors.StoreUnusable, match=f"write to {share} to store exports in"):
        LocalStore(share / "not" / "there").check_unseen()


def test_a_share_without_room_and_a_file_in_the_way_are_refused_by_the_dry_run(
    mount: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    share = mount()
    (share / "file").write_bytes(b"x")
    with pytest.raises(errors.StoreUnusable):
        LocalStore(share / "file").check_unseen()
    full = os.statvfs_result((4096, 4096, 100, 0, 0, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    with pytest.raises(errors.DiskFull):
        LocalStore(share).check_unseen()


def test_an_unchanged_disk_is_copied_where_it_cannot_be_linked(
    mount: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    share = mount()
    with Simulator([VmSpec("db01", powered_on=False, disks=(DiskSpec(2 * MIB),))]) as simulator:
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        hyperexport.export("db01", output=share, incremental=True, dry_run=True)
        assert list(share.iterdir()) == []
        hyperexport.export("db01", output=share, incremental=True)
        result = hyperexport.export("db01", output=share, incremental=True)
    assert result.manifest is not None
    assert [entry.transferred for entry in result.manifest.disks] == [False]
    store = LocalStore(share)
    newest, first = store.exports()
    assert newest.manifest.disks[0].written_as == f"{newest.export_id}/{newest.manifest.disks[0].name}"
    for export in (newest, first):
        _, found = verify(store, export, VerifyMode.ON, StopSignal())
        assert found.ok


def test_a_changed_disk_is_stored_whole_where_a_chain_would_be_copied_with_every_delta(
    mount: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    share = mount()
    with Simulator([VmSpec("db01", disks=(DiskSpec(2 * MIB),))]) as simulator:
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        for content in (b"one", b"two"):
            simulator.vm("db01").guest_write(0, 0, content)
            result = hyperexport.export("db01", output=share, incremental=True, snapshot=True, max_chain=30)
    assert result.manifest is not None
    assert [entry.chain for entry in result.manifest.disks] == [()]
    assert result.manifest.warnings == ()
    assert {entry.written_as for entry in result.manifest.stored_disks} == {
        f"{result.manifest.export_id}/{entry.name}" for entry in result.manifest.disks
    }
