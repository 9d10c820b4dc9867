"""Locks on files and folders: held, busy in another process, and a filesystem that has none."""

import errno
import fcntl
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from hyperexport.base.file_locks import FileLock, lock_file
from hyperexport.base.private_folder import private_folder
from hyperexport.convert.output_files import Output
from hyperexport.errors import ConversionFailed
from hyperexport.store.filesystem import held


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A filesystem without locks, as NFS without its lock service is."""

    def flock(_fd: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.fixture
def abandoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An old folder of a run in the folder for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / "hyperexport-drill-old"
    folder.mkdir()
    os.utime(folder, (0, 0))
    return folder


def test_a_folder_that_another_process_holds_is_busy_until_that_process_ends(tmp_path: Path) -> None:
    hold = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)"
    code = f"{hold}; print(1, flush=True); input()"
    fd = os.open(tmp_path, os.O_RDONLY)
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout
        other.stdout.readline()
        assert lock_file(fd) is FileLock.BUSY
        with held(tmp_path, wait=False) as ours:
            assert not ours
        other.kill()
        other.wait()
    assert lock_file(fd) is FileLock.HELD
    os.close(fd)


def test_where_there_are_no_locks_only_who_waits_goes_on(no_locks: None, tmp_path: Path) -> None:
    with held(tmp_path, wait=False) as ours:
        assert not ours
    with held(tmp_path, wait=True) as ours:
        assert ours


def test_a_conversion_goes_on_where_there_are_no_locks(no_locks: None, tmp_path: Path) -> None:
    with Output(tmp_path / "into", ["disk.raw"]) as output:
        os.write(output.create("disk.raw"), b"bytes")
        output.publish()
    assert (tmp_path / "into/disk.raw").read_bytes() == b"bytes"


def test_two_conversions_do_not_write_one_file(tmp_path: Path) -> None:
    with Output(tmp_path, ["disk.raw"]) as first, Output(tmp_path, ["disk.raw"]) as second:
        first.create("disk.raw")
        with pytest.raises(ConversionFailed, match="another conversion"):
            second.create("disk.raw")


def test_a_run_removes_the_folder_of_one_that_was_killed(abandoned: Path) -> None:
    with private_folder("hyperexport-drill-"):
        assert not abandoned.exists()


def test_a_run_leaves_a_folder_alone_of_which_it_cannot_tell_whether_its_run_is_dead(
    no_locks: None, abandoned: Path
) -> None:
    with private_folder("hyperexport-drill-") as own:
        assert own.exists()
        assert abandoned.exists()
    assert not own.exists()
