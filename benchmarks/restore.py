"""A restore into a fast TLS sink, against ``govc import.ovf`` of the same package into the same sink.

    python -m benchmarks.restore [--size GIB] [--rounds N] [--disks N ...] [--decrypt]

Our simulated vCenter makes the VM and gives the lease; its addresses lead to the sink (``tlssink``), which throws the
bytes away. Three ways by turns, each a whole restore from login to logout:

- ``govc import.ovf`` sends one disk after the other, and proves and compares nothing.
- ``hyperexport restore``, as for vSphere 6.7 and later: the server's SHA-256 of each disk is compared with the
  manifest's; we hash the nvram only, and send the disks side by side.
- ``hashing here``, as for servers that give no SHA-256: we hash each disk while it is sent, and compare nothing.

A real server decrypts and hashes on its own machine what arrives. Here it would take the cores that the clients need.
So the sink decrypts the heads of the requests and leaves the bodies as they come (with ``--decrypt`` it decrypts them,
too), and the vCenter answers checksums that are known beforehand (``sinking_vcenter``). The whole path of the proof is
walked (SetManifestChecksumType, GetManifest after each file, comparison), and costs what it costs against a real
server; but that the bytes arrived is not proved here. The tests prove that, with a server that hashes what it was sent.

govc is a process from its start to its end, ours runs in this one, as on a worker. The sink's seconds of processor are
shown: on few cores they count.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import hyperexport
from benchmarks.harness import (
    CACHE,
    HERE,
    Measured,
    Reached,
    as_figures,
    certificate,
    compared,
    console,
    measure,
    save,
    workspace,
)
from hyperexport.base.units import GIB, MIB
from hyperexport.model.restore import Proof
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from tests.peers import PeerMissing, build_go_peers

AIMS = {1: 1.3, 2: 1.8}
"""By the number of disks."""
MEMORY = 200 * MIB
PLACE: dict[str, Any] = {"folder": "/DC0/vm", "resource_pool": "DC0_C0", "datastore": "datastore1"}
VM = "db01"
GOVC, OURS, HASHING = "govc import.ovf", "hyperexport restore", "hyperexport restore, hashing here"


def export(folder: Path, *, disks: int, capacity: int) -> Path:
    """Make the package that all restore, of disks that are full; return its descriptor."""
    specs = tuple(DiskSpec(capacity, used=1.0, seed=number) for number in range(disks))
    with Simulator((VmSpec(VM, powered_on=False, disks=specs),), manifests=False) as simulator:
        os.environ.update(simulator.environment())
        result = hyperexport.export(VM, output=folder)
    return next(Path(result.locations[0]).glob("*.ovf"))


class Target(NamedTuple):
    """A vCenter whose leases lead to the sink."""

    environment: dict[str, str]
    govc_program: Path
    sink: int
    """Its process."""

    def govc(self, *arguments: str) -> None:
        """Run govc against it.

        Raises:
            subprocess.CalledProcessError: It failed.
        """
        command = [self.govc_program, *arguments]
        try:
            subprocess.run(command, env=os.environ | self.environment, capture_output=True, check=True, timeout=1800)
        except subprocess.CalledProcessError as error:
            error.add_note(error.stderr.decode(errors="replace")[:2000])
            raise


@contextmanager
def sinking(home: Path, peers: Path, files: list[dict[str, Any]], *, decrypt: bool) -> Generator[Target]:
    """Run the sink, and a vCenter whose leases lead to it, while the block runs.

    Args:
        home: An empty folder.
        peers: Where govc is.
        files: What the vCenter says of the files that have arrived.
        decrypt: Whether the sink decrypts what it throws away.
    """
    pair, go = certificate(home), shutil.which("go")
    built = CACHE / "bench-tlssink"
    CACHE.mkdir(exist_ok=True)
    assert go, "Go is not installed"
    subprocess.run([go, "build", "-o", built, "."], cwd=HERE / "tlssink", check=True)
    command = [built, "-cert", pair.cert, "-key", pair.key, *(["-decrypt"] if decrypt else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sink:
        try:
            assert sink.stdout is not None
            url = f"https://127.0.0.1:{int(sink.stdout.readline())}"
            with vcenter(home, url, pair.cert, files) as environment:
                both = home / "both.pem"
                both.write_bytes(Path(environment["GOVC_TLS_CA_CERTS"]).read_bytes() + pair.cert.read_bytes())
                kept = {"GOVC_TLS_CA_CERTS": str(both), "GOVMOMI_HOME": str(home), "GOVC_PERSIST_SESSION": "false"}
                yield Target(environment | kept, peers / "govc", sink.pid)
        finally:
            sink.terminate()


@contextmanager
def vcenter(home: Path, sink: str, certificate: Path, files: list[dict[str, Any]]) -> Generator[dict[str, str]]:
    """Run the vCenter in a process of its own; gives the variables by which clients find it."""
    ready = home / "ready.json"
    given = {"sink": sink, "certificate": certificate, "files": json.dumps(files), "ready-file": ready}
    arguments = [f"--{name}={value}" for name, value in given.items()]
    with subprocess.Popen([sys.executable, "-m", "benchmarks.sinking_vcenter", *arguments]) as process:
        try:
            while not ready.exists():
                assert process.poll() is None, "the simulated vCenter did not start"
                time.sleep(0.05)
            yield json.loads(ready.read_text())
        finally:
            process.terminate()


def facts_of(descriptor: Path) -> list[dict[str, Any]]:
    """Size and checksums of the package's files: its disks in their order, the nvram last."""
    files = [*sorted(descriptor.parent.glob("*.vmdk")), *descriptor.parent.glob("*.nvram")]
    facts: list[dict[str, Any]] = []
    for path in files:
        digests = {name: hashlib.new(name) for name in ("sha1", "sha256")}
        with path.open("rb") as file:
            while piece := file.read(MIB):
                for each in digests.values():
                    each.update(piece)
        facts.append({"size": path.stat().st_size, **{name: each.hexdigest() for name, each in digests.items()}})
    return facts


def run(server: Target, descriptor: Path, store: Path, *, rounds: int) -> list[Measured]:
    """Measure all ways."""
    os.environ.update(server.environment)

    def ours() -> None:
        result = hyperexport.restore(vm=VM, output=store, parallel=4, **PLACE)
        assert result.verified, result.warnings
        disks = {proof for name, proof in result.proofs.items() if name.endswith(".vmdk")}
        assert disks == {Proof.SERVER}, result.proofs

    def hashing() -> None:
        result = hyperexport.restore(vm=VM, output=store, parallel=4, verify=False, **PLACE)
        assert set(result.proofs.values()) == {Proof.SENT}, result.proofs

    def govc() -> None:
        place = ("-ds", "datastore1", "-pool", "/DC0/host/DC0_C0/Resources", "-folder", "/DC0/vm", "-name", VM)
        server.govc("import.ovf", *place, "-host", "/DC0/host/DC0_C0/esx-01", str(descriptor))

    size = sum(path.stat().st_size for path in descriptor.parent.glob("*.vmdk"))
    spent = {GOVC: 0.0, OURS: 0.0, HASHING: 0.0}

    def watched(name: str, way: Callable[[], object]) -> Callable[[], None]:
        def call() -> None:
            before = cpu_of(server.sink)
            way()
            spent[name] += (cpu_of(server.sink) - before) * GIB / size / rounds

        return call

    ways: dict[str, Callable[[], object]] = {GOVC: govc, OURS: ours, HASHING: hashing}
    results = measure(
        {name: watched(name, way) for name, way in ways.items()},
        size=size,
        rounds=rounds,
        between=lambda: destroy(server),
    )
    for name, seconds in spent.items():
        console.print(f"the sink, on the same cores, {name}: {seconds:.2f} CPU s/GiB")
    return results


def cpu_of(pid: int) -> float:
    """Seconds of processor that a process has taken so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def forget_peak() -> None:
    """Count the peak of this process's memory anew: the export before was no part of what is measured."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """Bytes that this process had in memory at most."""
    words = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(words.split()[1]) * 1024


def destroy(server: Target) -> None:
    """Remove what was imported."""
    try:
        server.govc("vm.destroy", f"/DC0/vm/{VM}")
    except subprocess.CalledProcessError:
        return  # before the first round there is none


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=float, default=4.0, help="of each disk, in GiB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--disks", type=int, nargs="+", choices=AIMS, default=list(AIMS))
    parser.add_argument("--decrypt", action="store_true", help="have the sink decrypt, on the cores of the client")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    try:
        peers = build_go_peers()
    except PeerMissing as missing:
        console.print(f"not measured: {missing}")
        return
    capacity = int(options.size * GIB) // MIB * MIB
    reached: list[Reached] = []
    results: dict[str, object] = {}
    for disks in options.disks:
        with workspace() as folder:
            store, home = folder / "exports", folder / "vcenter"
            home.mkdir()
            descriptor = export(store, disks=disks, capacity=capacity)
            with sinking(home, peers, facts_of(descriptor), decrypt=options.decrypt) as server:
                forget_peak()
                peer, ours, hashing = run(server, descriptor, store, rounds=options.rounds)
                peak = peak_memory()
                console.print(f"{disks} disk(s): at most {peak / MIB:.0f} MiB of memory in this process")
        for each in (peer, ours, hashing):
            console.print(f"{disks} disk(s), {each.name}: {each.rate:.0f} MB/s, {each.cpu_per_gib:.2f} CPU s/GiB")
        results[f"{disks} disks"] = as_figures([peer, ours, hashing])
        reached.append(compared(f"restore of {disks} disk(s)", ours, peer, aim=AIMS[disks]))
        reached.append(
            Reached(f"peak memory, {disks} disk(s)", f"{MEMORY // MIB} MiB", f"{peak // MIB} MiB", peak <= MEMORY)
        )
    save(options.json, "restore", results, reached)


if __name__ == "__main__":
    main()
