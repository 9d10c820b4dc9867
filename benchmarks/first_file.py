"""The first file out of a large export in S3, and a drill from there: seconds, and bytes read of the store.

    python -m benchmarks.first_file [--size GIB] [--radosgw] [--no-drill]

The disk has 100 GiB, of which so many are stored: a filesystem (ext4) with one file that is wanted, and ballast that
does not compress. It is read twice: with the block tags that an export leaves beside it, and without, as exports of
earlier versions are; then all of it has to be read and hashed first. The store is rclone on loopback over TLS, which
reads a whole file for the ETag of each request, so the seconds are more than a real store takes; the bytes are the
same. With ``--radosgw`` it is Ceph's, whose seconds are of a real store; without tags nothing is measured then. The
drill boots a small Linux under emulation.
"""

import argparse
import hashlib
import os
import random
import shutil
import subprocess
import time
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import hyperexport
from benchmarks.harness import Reached, console, save, workspace
from hyperexport.base.stop import StopSignal
from hyperexport.base.units import GIB, KIB, MIB, format_bytes
from hyperexport.formats.block_tags import BlockTagger
from hyperexport.formats.vmdk import GRAIN, GRAIN_SECTORS
from hyperexport.formats.vmdk_writer import StreamWriter
from hyperexport.model.manifest import FileEntry, FileRole, vm_folder
from hyperexport.model.ownership import Owner
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from hyperexport.steps.staging import as_stored
from hyperexport.store.base import Sink, Store
from hyperexport.store.local import LocalStore
from hyperexport.store.s3 import S3Location, S3Settings, S3Store
from hyperexport.store.s3_reader import S3Reader
from tests.engine.s3_exports import settings
from tests.engine.s3_servers import S3Server, radosgw_s3, rclone_s3
from tests.examples import VM, an_export
from tests.guest_os import fetch_parts, find_parts, make_disk

CAPACITY = 100 * GIB
FILESYSTEM = 32 * GIB
WANTED = random.Random(1).randbytes(3 * MIB + 1)
NAME = "db01-disk-0.vmdk"
MOST = 64 * MIB
"""Bytes that the first file may need, of however many are stored."""


class Counted:
    """Bytes that were read out of the bucket since this was made."""

    def __init__(self) -> None:
        self.bytes = 0

    @contextmanager
    def counting(self) -> Generator[None]:
        """Count while the block runs."""
        counted, at, chunks = self, S3Reader.read_at, S3Reader.chunks

        def read_at(self: S3Reader, offset: int, length: int) -> bytes:
            data = at(self, offset, length)
            counted.bytes += len(data)
            return data

        def all_chunks(self: S3Reader, size: int = 1 << 20) -> Iterator[bytes]:
            for chunk in chunks(self, size):
                counted.bytes += len(chunk)
                yield chunk

        S3Reader.read_at, S3Reader.chunks = read_at, all_chunks
        try:
            yield
        finally:
            S3Reader.read_at, S3Reader.chunks = at, chunks


def filesystem(folder: Path) -> Path:
    """Make a sparse image of a filesystem that holds the file."""
    source, image = folder / "source", folder / "image"
    (source / "etc").mkdir(parents=True)
    (source / "etc" / "wanted").write_bytes(WANTED)
    with image.open("wb") as file:
        file.truncate(FILESYSTEM)
    mke2fs = shutil.which("mke2fs", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert mke2fs, "mke2fs is not installed"
    subprocess.run([mke2fs, "-q", "-t", "ext4", "-d", source, image], check=True, stdout=subprocess.DEVNULL)
    return image


def grains(image: Path, stored: int) -> Iterator[tuple[int, bytes]]:
    """The disk's grains, compressed, ascending: the filesystem, then so many bytes of ballast."""
    with image.open("rb") as file:
        end = 0
        while True:
            try:
                begin = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError:  # no data after the last
                break
            first = max(begin, end) // GRAIN
            end = -(-os.lseek(file.fileno(), begin, os.SEEK_HOLE) // GRAIN) * GRAIN
            for number in range(first, end // GRAIN):
                data = os.pread(file.fileno(), GRAIN, number * GRAIN)
                if any(data):
                    yield number, zlib.compress(data, 1)
    ballast = [zlib.compress(os.urandom(GRAIN), 1) for _ in range(64)]
    for number in range(stored // GRAIN):
        yield FILESYSTEM // GRAIN + number, ballast[number % len(ballast)]


def publish(store: Store, image: Path, stored: int) -> tuple[str, str, int]:
    """Store the disk twice, with tags and without; the ids, and the bytes that are stored."""
    folder, owner = vm_folder(VM), Owner.of_this_process(run="bench", vcenter="vc", vm=VM.instance_uuid)
    tagger, digest, size = BlockTagger(), hashlib.sha256(), 0
    empty = an_export(files=())
    with store.stage(folder, empty.export_id, owner) as staging:
        sink: Sink = staging.create(NAME)

        def write(data: bytes) -> None:
            nonlocal size
            tagger.write(data)
            digest.update(data)
            sink.write(memoryview(data))
            size += len(data)

        writer = StreamWriter(CAPACITY)
        write(writer.header())
        for number, content in grains(image, stored):
            write(writer.precompressed(number * GRAIN_SECTORS, content))
        write(writer.finish())
        disk = FileEntry(
            name=NAME, role=FileRole.DISK, size=size, sha256=digest.hexdigest(), capacity=CAPACITY, disk_key=2000
        )
        entry = as_stored(disk, sink.finish(), by=empty.export_id)
        packed = tagger.finish().pack()
        tags = FileEntry(
            name=f"{NAME}.tags", role=FileRole.TAGS, size=len(packed), sha256=hashlib.sha256(packed).hexdigest()
        )
        tags = as_stored(tags, staging.put(tags.name, packed), by=empty.export_id)
        tagged = staging.publish(an_export(files=(entry, tags)))
    later = an_export(age=timedelta(hours=1), files=())
    with store.stage(folder, later.export_id, owner) as staging:
        reused = staging.reuse(tagged, entry, NAME)
        assert reused
        staging.publish(an_export(age=timedelta(hours=1), files=(reused,)))
    return tagged.export_id, later.export_id, size


def measured(what: str, run: Callable[[], object]) -> tuple[float, int]:
    """Seconds, and bytes read of the bucket."""
    counted, began = Counted(), time.monotonic()
    with counted.counting():
        run()
    seconds = time.monotonic() - began
    console.print(f"{what}: {seconds:.1f} s, {format_bytes(counted.bytes)} read of the store")
    return seconds, counted.bytes


def first_file(export: str, where: dict[str, Any], into: Path) -> None:
    (found,) = hyperexport.list_volumes(export=export, **where)
    hyperexport.extract_files(f"/{found.name}/etc/wanted", export=export, into=into, **where)
    assert next(into.rglob("wanted")).read_bytes() == WANTED


def drill(server: S3Server, folder: Path) -> tuple[float, int, int] | None:
    """Boot the small Linux from the bucket: seconds to the verdict, bytes read, bytes stored."""
    parts = find_parts() or fetch_parts()
    if parts is None or shutil.which("qemu-system-x86_64") is None:
        console.print("the drill is not measured: QEMU or the parts of its guest are missing")
        return None
    number = os.urandom(8).hex()
    raw = make_disk(folder / "guest.raw", number, parts)
    where: dict[str, Any] = {
        "upload": f"s3://{server.make_bucket('drills')}/vms",
        "keep_local": False,
        "s3": settings(server),
    }
    spec = VmSpec("guest", disks=(DiskSpec(raw.stat().st_size, used=0.0),), firmware="bios")
    with Simulator((spec,)) as vcenter:
        os.environ.update(vcenter.environment())
        with raw.open("rb") as file:
            for at in range(0, raw.stat().st_size, 64 * KIB):
                if any(piece := file.read(64 * KIB)):
                    vcenter.vm("guest").guest_write(0, at, piece)
        result = hyperexport.export("guest", snapshot=True, **where)
    assert result.manifest
    export = result.manifest.export_id

    def boot() -> None:
        wait = timedelta(minutes=10)
        hyperexport.restore_drill(export, expect=number, timeout=wait, emulate=True, memory_mib=256, **where)

    seconds, read = measured("drill of the small Linux, command to verdict", boot)
    return seconds, read, result.manifest.stored_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=float, default=2.0, help="stored, in GiB")
    parser.add_argument("--radosgw", action="store_true")
    parser.add_argument("--no-drill", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    size = int(options.size * GIB)
    with (
        workspace() as folder,
        radosgw_s3(folder, on_disk=2 * size + 4 * GIB) if options.radosgw else rclone_s3(folder) as server,
    ):
        bucket = server.make_bucket("exports")
        wanted: S3Settings = settings(server)
        store = S3Store(S3Location(bucket=bucket, prefix="vms"), wanted, stop=StopSignal())
        # Into the folder that rclone serves: an upload through rclone would be held in memory.
        way_in = store if options.radosgw else LocalStore(server.root / bucket / "vms")
        tagged, untagged, stored = publish(way_in, filesystem(folder), size)
        where: dict[str, Any] = {"upload": store.url, "keep_local": False, "s3": wanted}
        console.print(f"a disk of {format_bytes(CAPACITY)}, {format_bytes(stored)} of it stored in S3")
        quick, few = measured("first file", lambda: first_file(tagged, where, folder / "tagged"))
        figures: dict[str, object] = {"stored": stored, "with tags": {"seconds": quick, "bytes": few}}
        words = f"{format_bytes(few)} in {quick:.1f} s"
        if not options.radosgw:
            slow, many = measured("the same without tags", lambda: first_file(untagged, where, folder / "untagged"))
            figures["without tags"] = {"seconds": slow, "bytes": many}
            words += f" (without tags {format_bytes(many)} in {slow:.1f} s)"
        booted = None if options.no_drill else drill(server, folder)
    reached = [
        Reached(
            f"first file out of {format_bytes(stored)} in S3, bytes read",
            f"<= {format_bytes(MOST)}",
            words,
            few <= MOST,
        )
    ]
    if booted:
        seconds, read, size = booted
        figures["drill"] = {"seconds": seconds, "bytes": read, "stored": size}
        words = f"{seconds:.1f} s, {format_bytes(read)} of {format_bytes(size)}"
        reached.append(Reached("drill from S3, command to verdict, emulated; bytes read", "shown", words, None))
    save(options.json, "first_file", figures, reached)


if __name__ == "__main__":
    main()
