"""QEMU reads the disks that we write, and we read those that it writes."""

import json
import random
import struct
import subprocess
import zlib
from pathlib import Path

import pytest

from hyperexport.base.units import MIB, SECTOR
from hyperexport.errors import StreamCorrupt
from hyperexport.formats import deflate
from hyperexport.formats.vmdk import GRAIN, GRAIN_SECTORS
from hyperexport.formats.vmdk_image import open_image
from hyperexport.formats.vmdk_stream import StreamCheck
from hyperexport.formats.vmdk_writer import StreamWriter
from hyperexport.simulator.disks import Disk
from tests.memory import Memory


def qemu(program: Path, *arguments: str | Path) -> str:
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def assert_same(program: Path, vmdk: Path, raw: Path) -> None:
    assert "identical" in qemu(program, "compare", "-f", "vmdk", "-F", "raw", vmdk, raw)


@pytest.mark.parametrize(
    ("capacity", "used"),
    [(MIB, 0.0), (MIB, 1.0), (100 * MIB, 0.3), (33 * MIB + SECTOR, 1.0), (2048 * MIB + 64 * SECTOR, 0.02)],
)
def test_qemu_finds_a_streamed_disk_equal_to_the_guests_bytes(
    qemu_img: Path, tmp_path: Path, capacity: int, used: float
) -> None:
    disk = Disk(capacity, seed=capacity, used=used)
    chance = random.Random(capacity)
    for _ in range(40):
        disk.write(chance.randrange(capacity - 5000), chance.randbytes(chance.randrange(1, 5000)))
    disk.write(capacity // 2 // GRAIN * GRAIN, bytes(min(GRAIN * 2, capacity // 4)))
    frozen = disk.freeze()
    with (tmp_path / "disk.vmdk").open("wb") as file:
        file.writelines(frozen.stream())
    frozen.save_raw(tmp_path / "disk.raw")
    assert_same(qemu_img, tmp_path / "disk.vmdk", tmp_path / "disk.raw")
    qemu(qemu_img, "check", tmp_path / "disk.vmdk")
    info = json.loads(qemu(qemu_img, "info", "--output=json", tmp_path / "disk.vmdk"))
    assert info["virtual-size"] == capacity
    assert info["format-specific"]["data"]["create-type"] == "streamOptimized"


@pytest.mark.parametrize("library", ["isal", "zlib"])
def test_qemu_reads_what_either_library_compresses(
    qemu_img: Path, tmp_path: Path, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if library == "zlib":
        monkeypatch.setattr(deflate, "library", zlib)
    else:
        pytest.importorskip("isal", reason="isal has no wheel for this machine")
    content = random.Random(1).randbytes(GRAIN // 2) * 2 + b"text " * (GRAIN // 5) + b"."
    writer = StreamWriter(len(content) // SECTOR * SECTOR)
    pieces = [writer.header()]
    pieces += [writer.grain(at * GRAIN_SECTORS, content[at * GRAIN : (at + 1) * GRAIN]) for at in range(2)]
    (tmp_path / "disk.vmdk").write_bytes(b"".join((*pieces, writer.finish())))
    (tmp_path / "disk.raw").write_bytes(content)
    assert_same(qemu_img, tmp_path / "disk.vmdk", tmp_path / "disk.raw")


def qemu_disk(program: Path, folder: Path, disk: Disk) -> Path:
    """The same disk as qemu writes it: the directory in front, zeros behind the end."""
    disk.freeze().save_raw(folder / "disk.raw")
    qemu(program, "convert", "-O", "vmdk", "-o", "subformat=streamOptimized", folder / "disk.raw", folder / "qemu.vmdk")
    return folder / "qemu.vmdk"


@pytest.mark.parametrize("capacity", [MIB, 100 * MIB, 33 * MIB + SECTOR])
def test_a_disk_that_qemu_wrote_passes_the_check_and_reads_the_same(
    qemu_img: Path, tmp_path: Path, capacity: int
) -> None:
    disk = Disk(capacity, seed=1, used=0.4)
    disk.write(capacity - 3, b"end")
    data = qemu_disk(qemu_img, tmp_path, disk).read_bytes()
    check = StreamCheck(capacity=capacity)
    for at in range(0, len(data), 100_000):
        check.feed(memoryview(data)[at : at + 100_000])
    check.finish()
    image = open_image(Memory(data))
    assert image.walk() == check.populated == disk.freeze().populated
    assert all(disk.read(offset, len(content)) == content for offset, content in image.grains())
    assert image.read(capacity // 3, MIB) == disk.read(capacity // 3, MIB)


def test_what_qemus_own_check_misses_the_walk_finds(qemu_img: Path, tmp_path: Path) -> None:
    path = tmp_path / "disk.vmdk"
    data = bytearray(b"".join(Disk(4 * MIB, seed=1, used=1.0).freeze().stream()))
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    qemu(qemu_img, "check", path)
    with pytest.raises(StreamCorrupt, match="inflate"):
        open_image(Memory(data)).walk()


def test_a_damaged_directory_in_front_is_found(qemu_img: Path, tmp_path: Path) -> None:
    data = bytearray(qemu_disk(qemu_img, tmp_path, Disk(4 * MIB, seed=1, used=1.0)).read_bytes())
    (directory,) = struct.unpack_from("<Q", data, 56)
    (table,) = struct.unpack_from("<I", data, directory * SECTOR)
    for place in (directory * SECTOR, table * SECTOR, table * SECTOR + 17):
        data[place] ^= 4
        with pytest.raises(StreamCorrupt):
            open_image(Memory(data)).walk()
        data[place] ^= 4
    open_image(Memory(data)).walk()
