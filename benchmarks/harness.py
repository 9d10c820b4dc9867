"""What every benchmark shares: a certificate, a fast server, peers measured in turns, a table and JSON."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from rich.console import Console
from rich.table import Table

from hyperexport.base.units import GIB, MIB
from hyperexport.formats.vmdk import GRAIN, GRAIN_SECTORS
from hyperexport.formats.vmdk_writer import StreamWriter

HERE: Final = Path(__file__).parent
CACHE: Final = HERE.parent / ".cache"
console: Final = Console()


@dataclass
class Measured:
    """One way of doing it, over all rounds."""

    name: str
    size: int
    seconds: list[float] = field(default_factory=list[float])
    cpu: list[float] = field(default_factory=list[float])

    @property
    def rate(self) -> float:
        """MB/s, the median."""
        return self.size / MIB / statistics.median(self.seconds)

    @property
    def cpu_per_gib(self) -> float:
        """Seconds of processor (user and system, without the server's) for each GiB, the median."""
        return statistics.median(self.cpu) * GIB / self.size


def measure(
    ways: Mapping[str, Callable[[], object]], *, size: int, rounds: int, between: Callable[[], object]
) -> list[Measured]:
    """Do it in each way by turns, so that whatever disturbs the machine disturbs them all.

    Args:
        ways: Each moves ``size`` bytes.
        size: Bytes.
        rounds: How often each has its turn.
        between: Tidies up before each turn, outside the measured time.
    """
    results = [Measured(name, size) for name in ways]
    for number in range(rounds):
        for result, way in zip(results, ways.values(), strict=True):
            between()
            os.sync()
            cpu, began = _cpu(), time.perf_counter()
            way()
            result.seconds.append(time.perf_counter() - began)
            result.cpu.append(_cpu() - cpu)
            console.print(f"  round {number + 1}/{rounds}  {result.name}: {result.seconds[-1]:.2f} s", style="dim")
    between()
    return results


def _cpu() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def ratio(of: Measured, to: Measured) -> float:
    """How many times as fast: the median of the ratios of the rounds, which share their disturbances."""
    return statistics.median(other / own for own, other in zip(of.seconds, to.seconds, strict=True))


def show(title: str, results: list[Measured], *, ours: str, aims: Mapping[str, float]) -> None:
    """Print the table: ours against each peer, with the aim where there is one."""
    best = next(result for result in results if result.name == ours)
    table = Table(title=title, title_justify="left")
    for column in ("way", "MB/s", "CPU s/GiB", f"{ours} is", "aim"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for result in results:
        times = "" if result is best else f"{ratio(best, result):.2f}x"
        aim = f"{aims[result.name]:.1f}x" if result.name in aims else ""
        table.add_row(result.name, f"{result.rate:.0f}", f"{result.cpu_per_gib:.2f}", times, aim)
    console.print(table)


@dataclass(frozen=True)
class Reached:
    """One figure that has an aim."""

    figure: str
    aim: str
    reached: str
    met: bool | None
    """None where it could not be measured."""


def compared(figure: str, ours: Measured, peer: Measured, *, aim: float) -> Reached:
    """How many times as fast as a peer ours is, against how many times it should be."""
    times = ratio(ours, peer)
    return Reached(f"{figure}: {ours.name} against {peer.name}", f">= {aim:.1f}x", f"{times:.2f}x", times >= aim)


def save(path: Path | None, benchmark: str, figures: object, reached: list[Reached]) -> None:
    """Write the figures as JSON, where that was asked for."""
    if path is not None:
        document = {
            "benchmark": benchmark,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "reached": [asdict(one) for one in reached],
            "figures": figures,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=2) + "\n")
        console.print(f"written to {path}")


def machine() -> dict[str, object]:
    """Where, and how busy it is there."""
    load = [round(one, 2) for one in os.getloadavg()]
    return {"cores": os.cpu_count(), "load": load, "python": sys.version.split()[0]}


def as_figures(results: list[Measured]) -> list[dict[str, object]]:
    """The results as plain values."""
    return [{**asdict(one), "mb_per_s": one.rate, "cpu_s_per_gib": one.cpu_per_gib} for one in results]


@contextmanager
def workspace() -> Generator[Path]:
    """A folder on the disk of the checkout, gone with the block."""
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=CACHE) as folder:
        yield Path(folder)


@dataclass(frozen=True)
class Certificate:
    """A certificate for 127.0.0.1 that signs itself, and its key: two files."""

    cert: Path
    key: Path


def certificate(folder: Path) -> Certificate:
    """Make one."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(address, critical=False)
        .sign(key, hashes.SHA256())
    )
    made = Certificate(folder / "cert.pem", folder / "key.pem")
    made.cert.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    made.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return made


def write_disk(path: Path, capacity: int) -> int:
    """Write a full disk that does not compress as a streamOptimized VMDK; returns the bytes of the file."""
    writer = StreamWriter(capacity)
    grains = [zlib.compress(os.urandom(GRAIN), 1) for _ in range(64)]
    with path.open("wb") as file:
        file.write(writer.header())
        for number in range(capacity // GRAIN):
            file.write(writer.precompressed(number * GRAIN_SECTORS, grains[number % len(grains)]))
        file.write(writer.finish())
    return path.stat().st_size


@contextmanager
def serving(file: Path, pair: Certificate) -> Generator[str]:
    """Serve a file over TLS in a process of its own, chunked and without a length; gives the address of it."""
    with subprocess.Popen([*_server(), *arguments(file, pair)], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield f"https://127.0.0.1:{int(server.stdout.readline())}/disk"
        finally:
            server.terminate()


def arguments(file: Path, pair: Certificate) -> list[str]:
    """Those that both servers take."""
    return ["-file", str(file), "-cert", str(pair.cert), "-key", str(pair.key)]


def _server() -> list[str]:
    go = shutil.which("go")
    if go is None:
        console.print("Go is not here: the server is Python, and slower than the peers that are to be measured")
        return [sys.executable, "-m", "benchmarks.server"]
    built = CACHE / "bench-server"
    CACHE.mkdir(exist_ok=True)
    subprocess.run([go, "build", "-o", built, "."], cwd=HERE / "server", check=True)
    return [str(built)]
