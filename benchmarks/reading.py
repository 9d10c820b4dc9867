"""Converts and serves one exported disk, beside qemu-img and qemu-nbd on the same VMDK.

    python -m benchmarks.reading [MIB]

Each measure is taken three times, the peers by turns, and the best of each counts: what disturbs a machine only makes
things slower.
"""

import argparse
import hashlib
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from benchmarks.harness import Reached, save
from hyperexport.base.stop import StopSignal
from hyperexport.base.units import MIB
from hyperexport.convert.raw import write_raw
from hyperexport.images.disk import Disk
from hyperexport.images.layer import Layer
from hyperexport.images.stream import StreamedDisk, StreamedPart
from hyperexport.images.verified import VerifiedFile, verify_whole
from hyperexport.model.manifest import FileEntry, FileRole
from hyperexport.nbd.server import NbdServer
from hyperexport.simulator.disks import Disk as GuestDisk
from hyperexport.store.local_reader import open_reader

READS = 2000
ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("size", type=int, nargs="?", default=512, help="of the disk, in MiB")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    size: int = options.size
    reached: list[Reached] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        vmdk = folder / "disk.vmdk"
        with vmdk.open("wb") as file:
            for piece in GuestDisk(size * MIB, seed=3, used=0.5).freeze().stream():
                file.write(piece)
        entry = FileEntry(
            name="disk.vmdk", role=FileRole.DISK, size=vmdk.stat().st_size, sha256=_sha256(vmdk), capacity=size * MIB
        )
        cpu = [_cpu_of(_ours_raw, vmdk, entry, folder), _cpu_of(_qemu_raw, vmdk, folder)]
        print(f"convert to raw, seconds of processor: {cpu[0]:.2f} (SHA-256 included) against {cpu[1]:.2f}")
        times = _best(lambda _: _ours_raw(vmdk, entry, folder), lambda _: _qemu_raw(vmdk, folder))
        reached.append(_compared("convert to raw, MB/s", times, size, aim=1.5))
        with _our_nbd(vmdk, entry, folder) as ours, _qemu_nbd(vmdk, folder) as peer:
            times = _best(lambda _: _copy(ours), lambda _: _copy(peer))
            reached.append(_compared("NBD, sequential (nbdcopy), MB/s", times, size, aim=1.0))
            times = _best(lambda seed: _random(ours, size, seed), lambda seed: _random(peer, size, seed))
            reached.append(_compared("NBD, 4 KiB at random (qemu-io), reads/s", times, READS, aim=0.5))
    save(options.json, "reading", [asdict(one) for one in reached], reached)


def _best(*runs: Callable[[int], None]) -> list[float]:
    best = [float("inf")] * len(runs)
    for turn in range(ROUNDS):
        for index, run in enumerate(runs):
            began = time.perf_counter()
            run(turn)
            best[index] = min(best[index], time.perf_counter() - began)
    return best


def _cpu_of(run: Callable[..., None], *arguments: object) -> float:
    """Seconds of processor that it takes, of its child processes too."""
    before = os.times()
    run(*arguments)
    return sum(after - then for after, then in zip(os.times()[:4], before[:4], strict=True))


def _compared(what: str, seconds: list[float], work: int, *, aim: float) -> Reached:
    ours, peer = (work / each for each in seconds)
    words = f"{ours / peer:.2f}x ({ours:.0f} against {peer:.0f})"
    print(f"{what}: {words}")
    return Reached(what, f"{aim:.1f}x", words, ours / peer >= aim)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _ours_raw(vmdk: Path, entry: FileEntry, folder: Path) -> None:
    with open_reader(vmdk) as reader, (folder / "ours.raw").open("wb") as raw:
        layer = Layer(reader, "disk")
        with Disk([layer]) as disk:
            write_raw(StreamedDisk(disk, [StreamedPart(layer, reader, entry)], StopSignal()), raw.fileno())


def _qemu_raw(vmdk: Path, folder: Path) -> None:
    subprocess.run(["qemu-img", "convert", "-f", "vmdk", "-O", "raw", vmdk, folder / "peer.raw"], check=True)


@contextmanager
def _our_nbd(vmdk: Path, entry: FileEntry, folder: Path) -> Generator[str]:
    with open_reader(vmdk) as reader:
        tags = verify_whole(reader, entry, where="disk", stop=StopSignal())
        file = VerifiedFile(reader, entry, tags, where="disk", distant=False, stop=StopSignal())
        with Disk([Layer(file, "disk")], [file]) as disk, NbdServer({"disk": disk}, socket_path=folder / "ours") as nbd:
            yield nbd.uri()


@contextmanager
def _qemu_nbd(vmdk: Path, folder: Path) -> Generator[str]:
    socket = folder / "peer"
    command = ["qemu-nbd", "-r", "-t", "-e", "8", "-f", "vmdk", "-k", str(socket), str(vmdk)]
    with subprocess.Popen(command) as process:
        while not socket.exists() and process.poll() is None:
            time.sleep(0.05)
        try:
            yield f"nbd+unix:///?socket={socket}"
        finally:
            process.terminate()


def _copy(uri: str) -> None:
    subprocess.run(["nbdcopy", uri, "null:"], check=True)


def _random(uri: str, size: int, seed: int) -> None:
    chance = random.Random(seed)
    reads = "".join(f"read {chance.randrange(size * 256) * 4096} 4096\n" for _ in range(READS))
    subprocess.run(["qemu-io", "-r", "-f", "raw", uri], input=reads, text=True, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
