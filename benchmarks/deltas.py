"""30 days of a disk as deltas: what they store, what making them costs, and what reading through them costs.

    python -m benchmarks.deltas [MIB]

Each day one grain in a hundred changes, anywhere. What is stored counts each delta with its tags. The chain and one
whole file of the same content are read by turns, as every reader does it: each block proved by its tag.
"""

import argparse
import hashlib
import random
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.harness import Reached, save
from hyperexport.base.stop import StopSignal
from hyperexport.base.units import GIB, KIB, MIB
from hyperexport.formats.block_tags import BlockTagger, BlockTags
from hyperexport.formats.grain_records import GrainRecords
from hyperexport.formats.grain_tags import ChainTags, GrainTagger, GrainTags
from hyperexport.formats.vmdk import GRAIN, Parent
from hyperexport.formats.vmdk_image import inflate_grain
from hyperexport.formats.vmdk_stream import StreamCheck
from hyperexport.images.base_grains import BaseGrains, ReadGrains, TaggedGrains
from hyperexport.images.delta import DeltaWriter
from hyperexport.images.disk import Disk
from hyperexport.images.layer import Layer
from hyperexport.images.stream import StreamedDisk, StreamedPart
from hyperexport.images.verified import VerifiedFile
from hyperexport.model.manifest import FileEntry, FileRole
from hyperexport.simulator.disks import Disk as GuestDisk
from hyperexport.store.local_reader import open_reader

DAYS: Final = 30
ROUNDS: Final = 3
PIECE: Final = 256 * KIB


class Stored(NamedTuple):
    """One file of a chain, with its tags."""

    path: Path
    entry: FileEntry
    blocks: BlockTags
    grains: GrainTags

    @property
    def size(self) -> int:
        """Bytes of all of it."""
        return self.entry.size + len(self.blocks.pack()) + len(self.grains.pack())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("size", type=int, nargs="?", default=256, help="of the disk, in MiB")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    capacity: int = options.size * MIB
    chance, guest = random.Random(1), GuestDisk(capacity, seed=3, used=0.5)
    with tempfile.TemporaryDirectory() as name:
        first = _stream(guest)
        ways = _on_the_way(first)
        chain = [_file(Path(name) / "base.vmdk", first)]
        changed, stored = 0, 0
        costs: dict[str, float] = {}
        for day in range(DAYS):
            for grain in chance.sample(range(capacity // GRAIN), max(capacity // GRAIN // 100, 1)):
                content = chance.randbytes(GRAIN // 2) + bytes(GRAIN // 2)
                guest.write(grain * GRAIN, content)
                changed += len(zlib.compress(content, 1))
            stream = _stream(guest)
            if day == DAYS - 1:
                costs = _costs(ways | _makers(chain, capacity, stream), len(stream))
            delta = _delta(chain, capacity, stream, day)
            chain.append(_file(Path(name) / f"delta-{day}.vmdk", delta))
            stored += chain[-1].size
        whole = [_file(Path(name) / "whole.vmdk", _stream(guest))]
        wall, processor = _readings(chain, whole)
    for what, seconds in costs.items():
        print(f"processor for a GiB of the stream: {what}: {seconds:.2f} s")
    reached = [
        _ratio(f"stored over changed, both compressed, of {options.size} MiB", stored / changed, 1.1),
        _ratio(f"reading a chain of {DAYS} deltas over reading one whole file, seconds", wall, 1.3),
        _ratio("the same, processor", processor, 1.3),
    ]
    save(options.json, "deltas", {"costs": costs, "ratios": [asdict(one) for one in reached]}, reached)


def _ratio(what: str, found: float, aim: float) -> Reached:
    print(f"{what}: {found:.2f}")
    return Reached(what, f"at most {aim}", f"{found:.2f}", found <= aim)


# -- what an export does with each byte -------------------------------------------------------------------------------


def _on_the_way(stream: bytes) -> dict[str, Callable[[], object]]:
    """What every export does with a stream, without grain tags and with them; and what tags of content would cost."""

    def run(*takers: Callable[[memoryview], object]) -> None:
        for at in range(0, len(stream), PIECE):
            for take in takers:
                take(memoryview(stream)[at : at + PIECE])

    def inflate(records: GrainRecords, piece: memoryview) -> None:
        for record in records.take(piece):
            assert records.header is not None
            inflate_grain(records.header, *record)

    def before() -> list[Callable[[memoryview], object]]:
        return [StreamCheck().feed, hashlib.sha256().update, BlockTagger().write]

    def inflating() -> None:
        records = GrainRecords()
        run(*before(), lambda piece: inflate(records, piece))

    return {
        "check, SHA-256, block tags": lambda: run(*before()),
        "the same and grain tags": lambda: run(*before(), GrainTagger().write),
        "the same and inflating, as tags of the content would need": inflating,
    }


def _costs(ways: dict[str, Callable[[], object]], size: int) -> dict[str, float]:
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(ROUNDS):
        for what, way in ways.items():
            began = time.process_time()
            way()
            best[what] = min(best[what], time.process_time() - began)
    return {what: seconds * GIB / size for what, seconds in best.items()}


# -- deltas -----------------------------------------------------------------------------------------------------------


def _stream(guest: GuestDisk) -> bytes:
    return b"".join(guest.freeze().stream())


def _file(path: Path, data: bytes) -> Stored:
    path.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    blocks, grains = BlockTagger(), GrainTagger()
    blocks.write(data)
    grains.write(data)
    tags = grains.finish()
    assert tags is not None
    return Stored(
        path, FileEntry(name=path.name, role=FileRole.DISK, size=len(data), sha256=digest), blocks.finish(), tags
    )


def _makers(chain: list[Stored], capacity: int, stream: bytes) -> dict[str, Callable[[], object]]:
    """The two ways to make a delta."""

    def read() -> None:
        with ExitStack() as stack:
            parts: list[StreamedPart] = []
            for file in chain:
                reader = stack.enter_context(open_reader(file.path))
                parts.append(StreamedPart(Layer(reader, file.path.name), reader, file.entry))
            disk = stack.enter_context(Disk([part.layer for part in parts]))
            _written(ReadGrains(StreamedDisk(disk, parts, StopSignal()).ascending(), capacity), capacity, stream, chain)

    return {
        "the delta, by tags of the base": lambda: _delta(chain, capacity, stream),
        "the delta, by reading the base": read,
    }


def _delta(chain: list[Stored], capacity: int, stream: bytes, day: int = 0) -> bytes:
    """The day's delta, by the tags of the chain's grains."""

    def unread() -> Disk:
        raise AssertionError("no grain of the base is read")

    return _written(
        TaggedGrains(ChainTags([file.grains for file in chain]), unread), capacity, stream, chain, content_id=day + 1
    )


def _written(base: BaseGrains, capacity: int, stream: bytes, chain: list[Stored], content_id: int = 1) -> bytes:
    written = bytearray()
    parent = Parent(content_id - 1, chain[-1].path.name)
    delta = DeltaWriter(
        base, capacity=capacity, out=written.extend, name="disk.vmdk", content_id=content_id, parent=parent
    )
    for at in range(0, len(stream), PIECE):
        delta.write(memoryview(stream)[at : at + PIECE])
    delta.finish()
    return bytes(written)


# -- reading ----------------------------------------------------------------------------------------------------------


def _readings(chain: list[Stored], whole: list[Stored]) -> tuple[float, float]:
    """Seconds of reading the chain over those of reading the whole file, and the same of processor time."""
    best = {"chain": (float("inf"), float("inf")), "whole": (float("inf"), float("inf"))}
    for _ in range(2 * ROUNDS):
        for what, files in (("chain", chain), ("whole", whole)):
            wall, processor = _read(files)
            best[what] = min(best[what][0], wall), min(best[what][1], processor)
    return best["chain"][0] / best["whole"][0], best["chain"][1] / best["whole"][1]


def _read(files: Iterable[Stored]) -> tuple[float, float]:
    """Read the whole disk in order: seconds, and of processor, threads included."""
    began, used = time.perf_counter(), time.process_time()
    with ExitStack() as stack:
        found: list[VerifiedFile] = []
        for file in files:
            reader = stack.enter_context(open_reader(file.path))
            found.append(
                VerifiedFile(reader, file.entry, file.blocks, where=file.path.name, distant=False, stop=StopSignal())
            )
        layers = [Layer(file, "a file") for file in found]
        disk = stack.enter_context(Disk(layers, found))
        for at in range(0, disk.capacity, MIB):
            disk.buffers(at, MIB)
    return time.perf_counter() - began, time.process_time() - used


if __name__ == "__main__":
    main()
