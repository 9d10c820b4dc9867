"""A file is written whole, past the page cache where that goes, and a full disk is called by its name."""

import fcntl
import os
import random
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hyperexport.errors import DiskFull, StoreUnusable
from hyperexport.store.direct_io import BLOCK, FileSink

DATA = random.Random(3).randbytes(2 * BLOCK + 10_000)


def write_in_pieces(sink, data, piece):
    for at in range(0, len(data), piece):
        sink.write(memoryview(data)[at : at + piece])


def is_direct(sink):
    return bool(fcntl.fcntl(sink._fd, fcntl.F_GETFL) & os.O_DIRECT)


@pytest.mark.parametrize("size", [0, 1, 511, 512, 4096, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, len(DATA)])
@pytest.mark.parametrize("piece", [262_144, 100_001, 3 * BLOCK])
def test_a_file_of_any_length_in_any_pieces_is_written_whole(tmp_path, size, piece):
    sink = FileSink(tmp_path / "disk")
    write_in_pieces(sink, DATA[:size], piece)
    assert sink.finish().size == size
    assert (tmp_path / "disk").read_bytes() == DATA[:size]


def test_the_buffer_is_the_callers_again_after_each_write(tmp_path):
    sink = FileSink(tmp_path / "disk")
    buffer = bytearray(b"a" * 1000)
    sink.write(memoryview(buffer))
    buffer[:] = b"b" * 1000
    sink.finish()
    assert (tmp_path / "disk").read_bytes() == b"a" * 1000


def test_writes_go_past_the_page_cache_where_the_filesystem_lets_them(on_disk):
    sink = FileSink(on_disk / "disk")
    direct = is_direct(sink)
    sink.write(memoryview(DATA))
    assert is_direct(sink) == direct
    sink.finish()
    if not direct:
        pytest.skip("this filesystem has no direct writes")
    fincore = shutil.which("fincore")
    if not fincore:
        pytest.skip("fincore, of util-linux 2.30 or newer, is not here to look into the page cache")
    listed = subprocess.run(
        [fincore, "--bytes", "--noheadings", "--output", "RES", on_disk / "disk"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert int(listed.stdout) < BLOCK  # the tail alone


def test_a_filesystem_that_refuses_the_flag_is_written_plainly(tmp_path, monkeypatch):
    opened = os.open

    def refusing(path, flags, mode=0o777, **options):
        descriptor = opened(path, flags & ~os.O_DIRECT, mode, **options)
        if flags & os.O_DIRECT:
            os.close(descriptor)
            raise OSError(22, "Invalid argument")  # with the file made, as Linux leaves it
        return descriptor

    monkeypatch.setattr(os, "open", refusing)
    sink = FileSink(tmp_path / "disk")
    assert not is_direct(sink)
    sink.write(memoryview(DATA))
    sink.finish()
    assert (tmp_path / "disk").read_bytes() == DATA


def test_a_filesystem_that_refuses_the_writes_is_written_plainly(tmp_path, monkeypatch):
    written = os.write

    def refusing(descriptor, data):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(22, "Invalid argument")
        return written(descriptor, data)

    monkeypatch.setattr(os, "write", refusing)
    sink = FileSink(tmp_path / "disk")
    sink.write(memoryview(DATA))
    sink.finish()
    assert (tmp_path / "disk").read_bytes() == DATA


def test_writes_that_take_only_a_part_are_continued(tmp_path, monkeypatch):
    written = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: written(descriptor, data[:4096]))
    sink = FileSink(tmp_path / "disk")
    sink.write(memoryview(DATA[: BLOCK + 100]))
    sink.finish()
    assert (tmp_path / "disk").read_bytes() == DATA[: BLOCK + 100]


def test_aborting_leaves_no_file_and_may_be_repeated(tmp_path):
    sink = FileSink(tmp_path / "disk")
    sink.write(memoryview(DATA))
    sink.abort()
    sink.abort()
    assert list(tmp_path.iterdir()) == []


def test_aborting_after_finishing_removes_the_file(tmp_path):
    sink = FileSink(tmp_path / "disk")
    sink.finish()
    sink.abort()
    assert list(tmp_path.iterdir()) == []


def test_aborting_leaves_a_later_file_of_the_same_name_alone(tmp_path):
    first = FileSink(tmp_path / "disk")
    (tmp_path / "disk").unlink()
    second = FileSink(tmp_path / "disk")
    first.abort()
    second.write(memoryview(b"second"))
    second.finish()
    assert (tmp_path / "disk").read_bytes() == b"second"


def test_a_file_or_a_link_that_is_in_the_way_is_not_written_to(tmp_path):
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for name in ("file", "link"):
        with pytest.raises(StoreUnusable, match=name):
            FileSink(tmp_path / name)
    assert (tmp_path / "file").read_bytes() == b"mine"
    assert not (tmp_path / "target").exists()


def test_a_folder_that_is_not_there_makes_the_store_unusable(tmp_path):
    with pytest.raises(StoreUnusable, match="No such file"):
        FileSink(tmp_path / "missing" / "disk")


WRITE_UNTIL_IT_FAILS = """
import sys
from pathlib import Path
from hyperexport.errors import HyperExportError
from hyperexport.store.direct_io import FileSink

sink = FileSink(Path(sys.argv[1]) / "disk")
try:
    for _ in range(64):
        sink.write(memoryview(bytes(1 << 20)))
    sink.finish()
except HyperExportError as error:
    sink.abort()
    print(error.code, list(Path(sys.argv[1]).iterdir()), error)
"""


def run(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, timeout=150, check=False, **options)


def test_a_full_filesystem_is_called_so_and_the_unfinished_file_is_gone(tmp_path):
    unshare = shutil.which("unshare")  # a namespace of its own lets anybody mount, and forgets the mount afterwards
    if not unshare or run(unshare, "-rm", "mount", "-t", "tmpfs", "none", tmp_path).returncode:
        pytest.skip("no small filesystem can be mounted here (unshare -rm)")
    mounted = 'mount -t tmpfs -o size=8m none "$1" && exec "$2" -c "$3" "$1"'
    done = run(unshare, "-rm", "sh", "-c", mounted, "sh", tmp_path, sys.executable, WRITE_UNTIL_IT_FAILS)
    assert done.stdout.startswith("disk-full [] cannot write"), done.stderr
    assert "Free some space" in done.stdout


def test_a_limit_on_the_size_of_files_makes_the_store_unusable(tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (8 << 20, 8 << 20))

    done = run(sys.executable, "-c", WRITE_UNTIL_IT_FAILS, tmp_path, preexec_fn=limit)
    assert done.stdout.startswith("store-unusable [] cannot write"), done.stderr
    assert "File too large" in done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_what_is_found_out_only_at_the_end_fails_too(tmp_path):
    sink = FileSink(tmp_path / "disk")
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, sink._fd)  # the disk fills up under the open file
    os.close(full)
    sink.write(memoryview(b"tail"))
    with pytest.raises(DiskFull, match="No space left"):
        sink.finish()
    sink.abort()
    assert list(tmp_path.iterdir()) == []
