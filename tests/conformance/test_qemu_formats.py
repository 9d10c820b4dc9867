"""QEMU reads the disks that we write, and we read those that it writes."""

import json
import random
import subprocess
from pathlib import Path

import pytest

from hyperexport.formats.vmdk import GRAIN, GRAIN_SECTORS
from hyperexport.formats.vmdk_writer import StreamWriter
from hyperexport.units import MIB, SECTOR
from simulator.disks import Disk


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


@pytest.mark.parametrize("level", [1, 6, 9])
def test_qemu_reads_every_compression_level(qemu_img: Path, tmp_path: Path, level: int) -> None:
    content = random.Random(level).randbytes(GRAIN // 2) * 2 + b"text " * (GRAIN // 5) + b"."
    writer = StreamWriter(len(content) // SECTOR * SECTOR, level=level)
    pieces = [writer.header()]
    pieces += [writer.grain(at * GRAIN_SECTORS, content[at * GRAIN : (at + 1) * GRAIN]) for at in range(2)]
    (tmp_path / "disk.vmdk").write_bytes(b"".join((*pieces, writer.finish())))
    (tmp_path / "disk.raw").write_bytes(content)
    assert_same(qemu_img, tmp_path / "disk.vmdk", tmp_path / "disk.raw")
