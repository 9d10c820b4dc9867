"""Stores 30 days of a disk as deltas: what they take, and what reading through them costs beside one whole file.

    python -m benchmarks.deltas [MIB]

Each day one grain in a hundred changes, anywhere. What is compared is processor time, threads included, the best of
three, the two kinds by turns: it hardly depends on what else the machine does.
"""

import argparse
import hashlib
import random
import tempfile
import time
import zlib
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from benchmarks.harness import Reached, save
from hyperexport.base.stop import StopSignal
from hyperexport.base.units import MIB
from hyperexport.formats.vmdk import GRAIN, Parent
from hyperexport.images.base_grains import ReadGrains
from hyperexport.images.delta import DeltaWriter
from hyperexport.images.disk import Disk
from hyperexport.images.layer import Layer
from hyperexport.images.stream import StreamedDisk, StreamedPart
from hyperexport.images.verified import VerifiedFile, verify_whole
from hyperexport.model.manifest import FileEntry, FileRole
from hyperexport.simulator.disks import Disk as GuestDisk
from hyperexport.store.local_reader import open_reader

DAYS = 30
ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("size", type=int, nargs="?", default=256, help="of the disk, in MiB")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    capacity: int = options.size * MIB
    chance, guest = random.Random(1), GuestDisk(capacity, seed=3, used=0.5)
    with tempfile.TemporaryDirectory() as name:
        chain = [_file(Path(name) / "base.vmdk", _stream(guest))]
        changed, stored, seconds, streamed = 0, 0, 0.0, 0
        for day in range(DAYS):
            for grain in chance.sample(range(capacity // GRAIN), capacity // GRAIN // 100):
                content = chance.randbytes(GRAIN // 2) + bytes(GRAIN // 2)
                guest.write(grain * GRAIN, content)
                changed += len(zlib.compress(content, 1))
            stream = _stream(guest)
            began = time.perf_counter()
            delta = _delta(chain, capacity, stream, day)
            seconds += time.perf_counter() - began
            streamed += len(stream)
            stored += len(delta)
            chain.append(_file(Path(name) / f"delta-{day}.vmdk", delta))
        whole = [_file(Path(name) / "whole.vmdk", _stream(guest))]
        best = [float("inf"), float("inf")]
        for _ in range(ROUNDS):
            for index, files in enumerate((chain, whole)):
                best[index] = min(best[index], _read(files))
    print(f"comparing a stream with its base: {streamed / MIB / seconds:.0f} MB/s of the stream")
    reached = [
        _ratio("stored over changed, both compressed", stored / changed, 1.1),
        _ratio(f"reading a chain of {DAYS} deltas over reading one whole file", best[0] / best[1], 1.3),
    ]
    save(options.json, "deltas", [asdict(one) for one in reached], reached)


def _ratio(what: str, found: float, aim: float) -> Reached:
    print(f"{what}: {found:.2f}")
    return Reached(what, f"at most {aim}", f"{found:.2f}", found <= aim)


def _stream(guest: GuestDisk) -> bytes:
    return b"".join(guest.freeze().stream())


def _file(path: Path, data: bytes) -> tuple[Path, FileEntry]:
    path.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    return path, FileEntry(name=path.name, role=FileRole.DISK, size=len(data), sha256=digest)


def _delta(chain: list[tuple[Path, FileEntry]], capacity: int, stream: bytes, day: int) -> bytes:
    """The day's delta, with the base read and proved beside the stream."""
    written = bytearray()
    with ExitStack() as stack:
        parts: list[StreamedPart] = []
        for path, entry in chain:
            reader = stack.enter_context(open_reader(path))
            parts.append(StreamedPart(Layer(reader, path.name), reader, entry))
        disk = stack.enter_context(Disk([part.layer for part in parts]))
        delta = DeltaWriter(
            ReadGrains(StreamedDisk(disk, parts, StopSignal()).ascending(), capacity),
            capacity=capacity,
            out=written.extend,
            name="disk.vmdk",
            content_id=day + 1,
            parent=Parent(day, chain[-1][0].name),
        )
        for at in range(0, len(stream), MIB):
            delta.write(memoryview(stream)[at : at + MIB])
        delta.finish()
    return bytes(written)


def _read(files: list[tuple[Path, FileEntry]]) -> float:
    """Seconds of processor time to read the whole disk in order, each file proved first, as every reader does it."""
    began = time.process_time()
    with ExitStack() as stack:
        found: list[VerifiedFile] = []
        for path, entry in files:
            reader = stack.enter_context(open_reader(path))
            tags = verify_whole(reader, entry, where=path.name, stop=StopSignal())
            found.append(VerifiedFile(reader, entry, tags, where=path.name, distant=False, stop=StopSignal()))
        layers = [Layer(file, entry.name) for file, (_, entry) in zip(found, files, strict=True)]
        disk = stack.enter_context(Disk(layers, found))
        for at in range(0, disk.capacity, MIB):
            disk.buffers(at, MIB)
    return time.process_time() - began


if __name__ == "__main__":
    main()
