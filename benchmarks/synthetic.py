"""A whole disk out of a chain of deltas, as a synthetic full writes it, against qemu-img convert of the same chain.

    python -m benchmarks.synthetic [MIB] [--rounds N] [--deltas N]

Ours copies the compressed grains as they are stored, proves the SHA-256 of each file of the chain, hashes what it
writes and syncs it; qemu-img inflates and compresses each grain, and proves nothing. The third way is the end of the
chain of a disk that changed: one grain in a hundred is another one, given in memory, and is compressed.
"""

import argparse
import hashlib
import random
import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.harness import Reached, as_figures, compared, machine, measure, ratio, save, show, workspace
from hyperexport.base.stop import StopSignal
from hyperexport.base.units import MIB
from hyperexport.formats.vmdk import GRAIN, GRAIN_SECTORS, NO_PARENT, Parent
from hyperexport.formats.vmdk_writer import StreamWriter
from hyperexport.images.delta import ChangedGrain, whole_stream
from hyperexport.images.disk import Disk
from hyperexport.images.layer import Layer
from hyperexport.images.stream import StreamedDisk, StreamedPart
from hyperexport.model.manifest import FileEntry, FileRole
from hyperexport.simulator.disks import Disk as GuestDisk
from hyperexport.store.direct_io import FileSink
from hyperexport.store.local_reader import open_reader

OURS, QEMU, CHANGED = "synthetic full", "qemu-img convert", "synthetic full, 1 % changed"
Chain = list[tuple[Path, FileEntry]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("size", type=int, nargs="?", default=1024, help="of the disk, in MiB; half of it is used")
    parser.add_argument("--deltas", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    capacity: int = options.size * MIB
    with workspace() as folder:
        chain = make_chain(folder, capacity, options.deltas)
        ours, theirs = folder / "ours.vmdk", folder / "theirs.vmdk"
        convert = ["qemu-img", "convert", "-O", "vmdk", "-o", "subformat=streamOptimized", chain[-1][0], theirs]

        def between() -> None:
            ours.unlink(missing_ok=True)
            theirs.unlink(missing_ok=True)

        ways: dict[str, Callable[[], object]] = {
            OURS: lambda: write_whole(chain, capacity, ours),
            QEMU: lambda: subprocess.run(convert, check=True),
            CHANGED: lambda: write_whole(chain, capacity, ours, changed_grains(capacity)),
        }
        results = measure(ways, size=capacity // 2, rounds=options.rounds, between=between)
        write_whole(chain, capacity, ours)
        subprocess.run(["qemu-img", "compare", ours, chain[-1][0]], check=True)
    show(f"a whole disk of {options.size} MiB from a chain of {options.deltas}", results, ours=OURS, aims={QEMU: 5.0})
    one, other, changed = results
    processor = [theirs / own for own, theirs in zip(one.cpu, other.cpu, strict=True)]
    figure = f"processor: {QEMU} over {OURS}"
    less = sorted(processor)[len(processor) // 2]
    reached = [
        compared("a whole disk from a chain", one, other, aim=5.0),
        Reached(figure, ">= 5.0x", f"{less:.2f}x", less >= 5),
    ]
    print(f"{ratio(one, other):.1f} times as fast, with {less:.1f} times less processor; load {machine()['load']}")
    print(f"of a disk that changed: {ratio(changed, other):.1f} times as fast")
    save(options.json, "synthetic", as_figures(results), reached)


def make_chain(folder: Path, capacity: int, deltas: int) -> Chain:
    """A disk of which half is used, and days on each of which one grain in a hundred changes, anywhere."""
    chance, guest = random.Random(1), GuestDisk(capacity, seed=3, used=0.5)
    base = folder / "base.vmdk"
    with base.open("wb") as file:
        for piece in guest.freeze().stream(name=base.name):
            file.write(piece)
    chain = [(base, entry_of(base))]
    for day in range(1, deltas + 1):
        with open_reader(chain[-1][0]) as reader:
            parent = Parent(Layer(reader, "parent").identity().content_id, chain[-1][0].name)
        assert parent.content_id != NO_PARENT
        path = folder / f"delta-{day}.vmdk"
        writer = StreamWriter(capacity, name=path.name, content_id=day, parent=parent)
        with path.open("wb") as file:
            file.write(writer.header())
            for grain in sorted(chance.sample(range(capacity // GRAIN), capacity // GRAIN // 100)):
                content = chance.randbytes(GRAIN // 2) + bytes(GRAIN // 2)
                file.write(writer.grain(grain * GRAIN_SECTORS, content))
            file.write(writer.finish())
        chain.append((path, entry_of(path)))
    return chain


def entry_of(path: Path) -> FileEntry:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(name=path.name, role=FileRole.DISK, size=path.stat().st_size, sha256=digest)


def changed_grains(capacity: int) -> list[ChangedGrain]:
    """One grain in a hundred, as a range transport would give it."""
    chance, total = random.Random(2), capacity // GRAIN
    numbers = sorted(chance.sample(range(total), total // 100))
    return [ChangedGrain(number, chance.randbytes(GRAIN // 2) + bytes(GRAIN // 2)) for number in numbers]


def write_whole(chain: Chain, capacity: int, target: Path, changed: Sequence[ChangedGrain] = ()) -> None:
    """What :func:`hyperexport.steps.deltas.write_synthetic` does, without the store."""
    digest = hashlib.sha256()
    with ExitStack() as stack:
        parts: list[StreamedPart] = []
        for path, entry in chain:
            reader = stack.enter_context(open_reader(path))
            parts.append(StreamedPart(Layer(reader, path.name), reader, entry))
        disk = stack.enter_context(Disk([part.layer for part in parts]))
        file = FileSink(target)
        writer = StreamWriter(capacity, name=target.name, content_id=0xBEEF)
        for piece in whole_stream(StreamedDisk(disk, parts, StopSignal()).ascending(), writer, changed):
            digest.update(piece)
            file.write(memoryview(piece))
        file.finish()


if __name__ == "__main__":
    main()
