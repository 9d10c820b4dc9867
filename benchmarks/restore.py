"""A restore into a fast TLS sink, against ``govc import.ovf`` of the same package into the same sink.

    python -m benchmarks.restore [--size GIB] [--rounds N]

vcsim makes the VM and gives the lease; its addresses lead to the sink (``tlssink``), which throws the bytes away.
Ours proves each file's SHA-256 against the manifest while it sends; govc proves nothing. The sink makes no checksum, so
none of the server's is compared: ours makes the hashes that it makes for vSphere 6.7 or later. govc is a process from
its start to its end, ours runs in this one, as on a worker. The sink's seconds of processor are shown: on few cores
they decide.
"""

import argparse
import os
import shutil
import subprocess
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from tests.conformance.vcsim import Vcsim, running_vcsim
from tests.peers import PeerMissing, build_go_peers

AIMS = {1: 1.3, 2: 1.8}
"""By the number of disks."""
MEMORY = 200 * MIB
PLACE: dict[str, Any] = {"folder": "/DC0/vm", "resource_pool": "DC0_H0", "datastore": "LocalDS_0"}
VM = "db01"
OURS, GOVC = "hyperexport restore", "govc import.ovf"


def export(folder: Path, *, disks: int, capacity: int) -> Path:
    """Make the package that both restore; return its descriptor."""
    specs = tuple(DiskSpec(capacity, used=0.5, seed=number) for number in range(disks))
    with Simulator((VmSpec(VM, powered_on=False, disks=specs),), manifests=False) as simulator:
        os.environ.update(simulator.environment())
        result = hyperexport.export(VM, output=folder)
    return next(Path(result.locations[0]).glob("*.ovf"))


@contextmanager
def sinking(server: Vcsim) -> Generator[tuple[Vcsim, int]]:
    """Have the server's leases lead to the sink; gives the server as clients trust it then, and the sink's pid."""
    pair, go = certificate(server.home), shutil.which("go")
    built = CACHE / "bench-tlssink"
    CACHE.mkdir(exist_ok=True)
    assert go, "Go is not installed"
    subprocess.run([go, "build", "-o", built, "."], cwd=HERE / "tlssink", check=True)
    both = server.home / "both.pem"
    both.write_bytes(server.ca_file.read_bytes() + pair.cert.read_bytes())
    command = [built, "-cert", pair.cert, "-key", pair.key]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sink:
        try:
            assert sink.stdout is not None
            server.govc("option.set", "vcsim.server.url", f"https://127.0.0.1:{int(sink.stdout.readline())}")
            yield replace(server, ca_file=both), sink.pid
        finally:
            sink.terminate()


def run(server: Vcsim, sink: int, descriptor: Path, store: Path, *, rounds: int) -> list[Measured]:
    """Measure both."""
    os.environ.update(server.environment)

    def ours() -> None:
        hyperexport.restore(vm=VM, output=store, parallel=4, verify=False, **PLACE)

    def govc() -> None:
        place = ("-ds", "LocalDS_0", "-pool", "/DC0/host/DC0_H0/Resources", "-folder", "/DC0/vm", "-name", VM)
        server.govc("import.ovf", *place, str(descriptor), seconds=1800)

    size = sum(path.stat().st_size for path in descriptor.parent.glob("*.vmdk"))
    ways: dict[str, Callable[[], object]] = {GOVC: govc, OURS: ours}
    before = cpu_of(sink)
    results = measure(ways, size=size, rounds=rounds, between=lambda: destroy(server))
    spent = (cpu_of(sink) - before) * GIB / size / rounds / len(ways)
    console.print(f"the sink, on the same cores: {spent:.2f} CPU s/GiB")
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


def destroy(server: Vcsim) -> None:
    """Remove what was imported."""
    try:
        server.govc("vm.destroy", f"/DC0/vm/{VM}")
    except subprocess.CalledProcessError:
        return  # before the first round there is none


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=float, default=4.0, help="of each disk, in GiB")
    parser.add_argument("--rounds", type=int, default=3)
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
    for disks, aim in AIMS.items():
        with workspace() as folder:
            store, home = folder / "exports", folder / "vcsim"
            home.mkdir()
            descriptor = export(store, disks=disks, capacity=capacity)
            with running_vcsim(peers, home) as vcsim, sinking(vcsim) as (server, sink):
                forget_peak()
                peer, ours = run(server, sink, descriptor, store, rounds=options.rounds)
                peak = peak_memory()
                console.print(f"{disks} disk(s): at most {peak / MIB:.0f} MiB of memory in this process")
        for each in (peer, ours):
            console.print(f"{disks} disk(s), {each.name}: {each.rate:.0f} MB/s, {each.cpu_per_gib:.2f} CPU s/GiB")
        results[f"{disks} disks"] = as_figures([peer, ours])
        reached.append(compared(f"restore of {disks} disk(s)", ours, peer, aim=aim))
        reached.append(
            Reached(f"peak memory, {disks} disk(s)", f"{MEMORY // MIB} MiB", f"{peak // MIB} MiB", peak <= MEMORY)
        )
    save(options.json, "restore", results, reached)


if __name__ == "__main__":
    main()
