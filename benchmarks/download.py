"""One disk over HTTPS into a file, checked and hashed, against curl into a file and against curl, tee and sha256sum.

Run as ``python -m benchmarks.download``. Ours does more than the peers: it proves the disk's structure as it passes,
and waits until the device has every byte, as only ``curl -o, then sync`` does beside it. It runs within this process,
without the start of an interpreter.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.harness import as_figures, certificate, compared, measure, save, serving, show, workspace, write_disk
from hyperexport.base.stop import StopSignal
from hyperexport.base.units import GIB, KIB
from hyperexport.formats.vmdk_stream import StreamCheck
from hyperexport.model.tls import Trust
from hyperexport.store.direct_io import FileSink
from hyperexport.transfer.bandwidth.throttle import Throttle
from hyperexport.transfer.pipeline import transfer
from hyperexport.transfer.source import open_source

OURS = "hyperexport"
CURL = "curl -o"
DURABLE = "curl -o, then sync"
TEE = "curl | tee | sha256sum"
AIMS = {CURL: 1.2, TEE: 1.8}


def download(url: str, ca: Path, into: Path, capacity: int) -> None:
    stop = StopSignal()
    sink = FileSink(into)
    with open_source(url, trust=Trust(ca_pem=ca.read_text()), stop=stop) as source:
        transfer(source, [sink], throttle=Throttle(None), stop=stop, check=StreamCheck(capacity=capacity))
    sink.finish()


def curl(url: str, ca: Path, into: Path) -> None:
    subprocess.run(["curl", "-sf", "--cacert", ca, "-o", into, url], check=True)


def curl_then_sync(url: str, ca: Path, into: Path) -> None:
    curl(url, ca, into)
    subprocess.run(["sync", into], check=True)


def curl_tee_sha256sum(url: str, ca: Path, into: Path) -> None:
    script = 'set -e; curl -sf --cacert "$1" "$2" | tee "$3" | sha256sum'
    subprocess.run(["sh", "-c", script, "sh", ca, url, into], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=float, default=4, help="GiB of the disk")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--chunk", type=int, default=1024, help="KiB of each of the server's chunks")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if shutil.which("curl") is None:
        sys.exit("curl is not here, and without it there is nothing to compare with")
    capacity = int(options.size * GIB)
    with workspace() as folder:
        pair, disk, into = certificate(folder), folder / "disk.vmdk", folder / "downloaded"
        size = write_disk(disk, capacity)
        with serving(disk, pair) as address:
            url = f"{address}?chunk={options.chunk * KIB}"
            results = measure(
                {
                    OURS: lambda: download(url, pair.cert, into, capacity),
                    CURL: lambda: curl(url, pair.cert, into),
                    DURABLE: lambda: curl_then_sync(url, pair.cert, into),
                    TEE: lambda: curl_tee_sha256sum(url, pair.cert, into),
                },
                size=size,
                rounds=options.rounds,
                between=lambda: into.unlink(missing_ok=True),
            )
    title = f"A disk of {options.size:g} GiB ({size / GIB:.2f} GiB of stream) in chunks of {options.chunk} KiB"
    show(title, results, ours=OURS, aims=AIMS)
    ways = {result.name: result for result in results}
    reached = [compared("one disk to a file", ways[OURS], ways[peer], aim=aim) for peer, aim in AIMS.items()]
    save(options.json, "download", as_figures(results), reached)


if __name__ == "__main__":
    main()
