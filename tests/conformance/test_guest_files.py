"""Files of guests whose filesystems were made by the tools that make real ones."""

import os
import random
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from hyperexport.base.stop import StopSignal
from hyperexport.base.units import MIB, SECTOR
from hyperexport.errors import (
    ExtractionFailed,
    GuestFileNotFound,
    HyperExportError,
    TargetExists,
    VerificationFailed,
)
from hyperexport.files.extraction import extract, safe_name
from hyperexport.files.guest import Guest, open_guest
from hyperexport.images.disk import Disk
from hyperexport.images.layer import Layer
from tests.conftest import require_program
from tests.images import proven

BIG = random.Random(1).randbytes(3_000_001)
FILES = {"etc/hosts": b"127.0.0.1 localhost\n", "big file.bin": BIG, "empty": b""}


class RawDisk:
    """A disk in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.capacity = len(data)

    def read(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]


def run(*command: object) -> None:
    found = require_program(str(command[0]), "no filesystem of a guest is made with it")
    subprocess.run([found, *map(str, command[1:])], check=True, capture_output=True)


@pytest.fixture(autouse=True)
def debians_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin:/sbin")


def tree(folder: Path) -> Path:
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def empty(folder: Path, size: int) -> Path:
    image = folder / "image"
    with image.open("wb") as file:
        file.truncate(size)
    return image


def ext4(folder: Path) -> bytes:
    source = tree(folder / "source")
    (source / "link").symlink_to("/etc/shadow")
    image = empty(folder, 24 * MIB)
    run("mke2fs", "-q", "-t", "ext4", "-d", source, image)
    return image.read_bytes()


def fat(folder: Path) -> bytes:
    source, image = tree(folder / "source"), empty(folder, 64 * MIB)
    run("mkfs.fat", "-F", "32", image)
    run("mcopy", "-i", image, "-s", *sorted(source.iterdir()), "::")
    return image.read_bytes()


def xfs(folder: Path) -> bytes:
    source, image = tree(folder / "source"), empty(folder, 320 * MIB)
    (source / "big").write_bytes(BIG)
    proto = folder / "proto"
    proto.write_text(
        "/dev/null\n0 0\nd--755 0 0\n"
        f"big_file.bin ---644 0 0 {source}/big\nempty ---644 0 0 {source}/empty\nlink l--777 0 0 /etc/shadow\n"
        f"etc d--755 0 0\nhosts ---644 0 0 {source}/etc/hosts\n$\n$\n"
    )
    run("mkfs.xfs", "-q", "-p", proto, image)
    return image.read_bytes()


def ntfs(folder: Path) -> bytes:
    source, image = tree(folder / "source"), empty(folder, 32 * MIB)
    run("mkntfs", "-q", "-F", "-Q", image)
    for name in ("big file.bin", "empty"):
        run("ntfscp", "-q", image, source / name, name)
    return image.read_bytes()


MAKERS = {"ext4": ext4, "fat32": fat, "xfs": xfs, "ntfs": ntfs}


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)).replace("big_file", "big file"): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("kind", MAKERS)
def test_every_file_of_a_filesystem_comes_out_as_it_went_in(kind: str, tmp_path: Path) -> None:
    guest = open_guest([RawDisk(MAKERS[kind](tmp_path))])

    result = extract(guest, "/disk0", tmp_path / "out", stop=StopSignal())

    assert [(volume.name, volume.filesystem) for volume in guest.volumes()] == [("disk0", kind)]
    expected = {name: data for name, data in FILES.items() if kind != "ntfs" or "/" not in name}
    assert files_of(tmp_path / "out" / "disk0") == expected
    assert (result.files, result.bytes) == (len(expected), sum(map(len, expected.values())))


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_link_is_listed_with_its_target_and_neither_followed_nor_made(kind: str, tmp_path: Path) -> None:
    guest = open_guest([RawDisk(MAKERS[kind](tmp_path))])

    (link,) = guest.list("/disk0/link")
    result = extract(guest, "/disk0", tmp_path / "out", stop=StopSignal())

    assert (link.kind, link.target) == ("link", "/etc/shadow")
    assert result.skipped == ["/disk0/link: a symbolic link"]
    assert not os.path.lexists(tmp_path / "out" / "disk0" / "link")
    with pytest.raises(GuestFileNotFound, match="links are not followed"):
        guest.list("/disk0/link/x")
    with pytest.raises(ExtractionFailed, match="a symbolic link"):
        extract(guest, "/disk0/link", tmp_path / "other", stop=StopSignal())


def in_partitions(label: str, content: bytes, folder: Path) -> bytes:
    """A disk with two partitions; the second holds the content."""
    disk = folder / "disk"
    with disk.open("wb") as file:
        file.truncate(len(content) + 8 * MIB)
    table = f"label: {label}\nstart=2048, size=4096\nstart=8192, size={len(content) // SECTOR}\n"
    sfdisk = require_program("sfdisk", "no partition table of a guest is made with it")
    subprocess.run([sfdisk, "-q", disk], input=table, text=True, check=True, capture_output=True)
    with disk.open("r+b") as file:
        file.seek(8192 * SECTOR)
        file.write(content)
    return disk.read_bytes()


def in_a_logical_volume(content: bytes, _: Path) -> bytes:
    """An LVM2 physical volume with one linear volume, laid out as lvm2 writes it (lib/format_text, lib/label)."""
    extents = -(-len(content) // (4 * MIB))
    uuid = "0" * 6 + "-" + "-".join(["1111"] * 5) + "-" + "2" * 6
    text = (
        f"""vg0 {{
id = "aaaaaa-bbbb-cccc-dddd-eeee-ffff-gggggg"
seqno = 1
format = "lvm2"
status = ["RESIZEABLE", "READ", "WRITE"]
extent_size = 8192
max_lv = 0
max_pv = 0
physical_volumes {{
pv0 {{
id = "{uuid}"
device = "/dev/sda"
status = ["ALLOCATABLE"]
dev_size = {(extents + 1) * 8192}
pe_start = 2048
pe_count = {extents}
}}
}}
logical_volumes {{
root {{
id = "hhhhhh-iiii-jjjj-kkkk-llll-mmmm-nnnnnn"
status = ["READ", "WRITE", "VISIBLE"]
segment_count = 1
segment1 {{
start_extent = 0
extent_count = {extents}
type = "striped"
stripe_count = 1
stripes = [
"pv0", 0
]
}}
}}
}}
}}
contents = "Text Format Volume Group"
version = 1
""".encode()
        + b"\0"
    )
    disk = bytearray(MIB + extents * 4 * MIB + 4 * MIB)
    size = len(disk)
    areas = struct.pack("<QQQQQQQQ", MIB, 0, 0, 0, 4096, MIB - 4096, 0, 0)
    label = struct.pack("<I8s", 32, b"LVM2 001") + uuid.replace("-", "").encode() + struct.pack("<Q", size) + areas
    label = label.ljust(SECTOR - 20, b"\0")
    disk[SECTOR : 2 * SECTOR] = b"LABELONE" + struct.pack("<QI", 1, lvm_crc(label)) + label
    head = b" LVM2 x[5A%r0N*>" + struct.pack("<IQQ", 1, 4096, MIB - 4096)
    head += struct.pack("<QQII", 512, len(text), lvm_crc(text), 0)
    head = head.ljust(SECTOR - 4, b"\0")
    disk[4096 : 4096 + SECTOR] = struct.pack("<I", lvm_crc(head)) + head
    disk[4096 + 512 : 4096 + 512 + len(text)] = text
    disk[MIB : MIB + len(content)] = content
    return bytes(disk)


def lvm_crc(data: bytes) -> int:
    """CRC-32 with LVM's own start value, and not inverted."""
    return zlib.crc32(data, 0xF597A6CF ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("wrap", "volume"),
    [
        (lambda content, folder: in_partitions("gpt", content, folder), "disk0p2"),
        (lambda content, folder: in_partitions("dos", content, folder), "disk0p2"),
        (in_a_logical_volume, "vg0-root"),
        (lambda content, folder: in_partitions("gpt", in_a_logical_volume(content, folder), folder), "vg0-root"),
    ],
    ids=["gpt", "mbr", "lvm", "lvm-in-gpt"],
)
def test_a_file_is_found_through_partitions_and_logical_volumes(
    wrap: Callable[[bytes, Path], bytes], volume: str, tmp_path: Path
) -> None:
    guest = open_guest([RawDisk(wrap(ext4(tmp_path), tmp_path))])

    assert volume in [known.name for known in guest.volumes() if known.filesystem == "ext4"]
    assert b"".join(guest.read(f"/{volume}/etc/hosts")) == FILES["etc/hosts"]
    assert b"".join(guest.read(f"/{volume}/big file.bin")) == BIG


def stored(raw: bytes, folder: Path, qemu_img: Path) -> bytes:
    """The disk as an export stores it."""
    source, vmdk = folder / "raw", folder / "vmdk"
    source.write_bytes(raw)
    convert = [qemu_img, "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", source, vmdk]
    subprocess.run(convert, check=True)
    return vmdk.read_bytes()


def test_files_come_out_of_a_stored_disk_and_its_damage_is_named(tmp_path: Path, qemu_img: Path) -> None:
    data = stored(in_partitions("gpt", ext4(tmp_path), tmp_path), tmp_path, qemu_img)
    with Disk([Layer(proven(data), "X")]) as disk:
        assert b"".join(open_guest([disk]).read("/disk0p2/big file.bin")) == BIG

    rotten = bytearray(data)
    rotten[len(data) // 2] ^= 1
    with (
        Disk([Layer(proven(data, now=rotten), "X")]) as disk,
        pytest.raises(VerificationFailed, match="is damaged between byte"),
    ):
        extract(open_guest([disk]), "/disk0p2", tmp_path / "out", stop=StopSignal())
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("kind", ["ext4", "fat32", "ntfs"])
def test_a_filesystem_that_is_garbled_is_an_error_of_ours_or_read_and_never_leads_out(
    kind: str, tmp_path: Path
) -> None:
    content = MAKERS[kind](tmp_path)
    chance = random.Random(4)
    for number in range(12):
        garbled = bytearray(content)
        for _ in range(40):
            at = chance.randrange(0, len(garbled) if number % 2 else 200_000)
            garbled[at : at + 4] = chance.randbytes(4)
        out = tmp_path / f"out{number}"
        guest: Guest = open_guest([RawDisk(bytes(garbled))])
        for volume in guest.volumes():
            try:
                extract(guest, f"/{volume.name}", out, stop=StopSignal())
            except HyperExportError:
                assert not out.exists() or list(out.iterdir()) == []


def test_logical_volumes_that_cannot_be_read_do_not_hide_the_others(tmp_path: Path) -> None:
    lost = bytearray(in_a_logical_volume(b"", tmp_path))
    lost[4096 + 512 : 4096 + 600] = b"?" * 88
    guest = open_guest([RawDisk(ext4(tmp_path)), RawDisk(bytes(lost))])
    assert [(volume.name, volume.filesystem) for volume in guest.volumes()] == [("disk0", "ext4"), ("lvm0", None)]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc/passwd", "a\0b", "x" * 256])
def test_a_name_that_would_lead_elsewhere_is_not_taken(name: str) -> None:
    assert safe_name(name) is None


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    guest = open_guest([RawDisk(ext4(tmp_path))])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "hosts").write_text("mine")
    with pytest.raises(TargetExists):
        extract(guest, "/disk0/etc/hosts", tmp_path / "out", stop=StopSignal())
    assert (tmp_path / "out" / "hosts").read_text() == "mine"


def test_what_is_not_there_says_what_is(tmp_path: Path) -> None:
    guest = open_guest([RawDisk(ext4(tmp_path)), RawDisk(b"\0" * MIB)])
    with pytest.raises(GuestFileNotFound, match="there is no /etc/nothing on this volume"):
        guest.list("/disk0/etc/nothing")
    with pytest.raises(GuestFileNotFound, match="none of the volumes disk0, disk1"):
        guest.list("/disk7/etc")
    with pytest.raises(GuestFileNotFound, match="disk1 has no filesystem that can be read"):
        guest.list("/disk1")
