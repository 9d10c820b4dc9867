"""A restore into vcsim, which only hashes what arrives, against ``govc import.ovf`` of the same package.

    python -m benchmarks.restore [--size GIB] [--rounds N]

Ours proves each file's SHA-256 against the manifest and compares the server's checksum; govc does neither. vcsim knows
only SHA-1 (vSphere before 6.7), which ours then has to make beside SHA-256; the second row of ours leaves the server's
checksum out, so it makes the hashes that it makes for a newer vSphere. govc is a process from its start to its end,
ours runs in this one, as on a worker. The server's seconds of processor are shown: on few cores they decide.
"""

import argparse
import os
import resource
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import hyperexport
from benchmarks.harness import Measured, Reached, as_figures, compared, console, measure, save, workspace
from hyperexport.base.units import GIB, MIB
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from tests.conformance.vcsim import Vcsim, running_vcsim
from tests.peers import PeerMissing, build_go_peers

AIMS = {1: 1.3, 2: 1.8}
"""By the number of disks."""
MEMORY = 200 * MIB
PLACE: dict[str, Any] = {"folder": "/DC0/vm", "resource_pool": "DC0_H0", "datastore": "LocalDS_0"}
VM = "db01"
OURS, PROVED, GOVC = "hyperexport restore", "the same, without the server's SHA-1", "govc import.ovf"


def export(folder: Path, *, disks: int, capacity: int) -> Path:
    """Make the package that both restore; return its descriptor."""
    specs = tuple(DiskSpec(capacity, used=0.5, seed=number) for number in range(disks))
    with Simulator((VmSpec(VM, powered_on=False, disks=specs),), manifests=False) as simulator:
        os.environ.update(simulator.environment())
        result = hyperexport.export(VM, output=folder)
    return next(Path(result.locations[0]).glob("*.ovf"))


def run(server: Vcsim, descriptor: Path, store: Path, *, rounds: int) -> list[Measured]:
    """Measure both."""
    os.environ.update(server.environment)

    def ours(*, verify: bool = True) -> None:
        result = hyperexport.restore(vm=VM, output=store, parallel=4, verify=verify, **PLACE)
        assert result.verified is verify, result.warnings

    def govc() -> None:
        place = ("-ds", "LocalDS_0", "-pool", "/DC0/host/DC0_H0/Resources", "-folder", "/DC0/vm", "-name", VM)
        server.govc("import.ovf", *place, str(descriptor), seconds=1800)

    size = sum(path.stat().st_size for path in descriptor.parent.glob("*.vmdk"))
    ways: dict[str, Callable[[], object]] = {GOVC: govc, OURS: ours, PROVED: partial(ours, verify=False)}
    before = server_cpu(server)
    results = measure(ways, size=size, rounds=rounds, between=lambda: destroy(server))
    spent = (server_cpu(server) - before) * GIB / size / rounds / len(ways)
    console.print(f"vcsim, on the same cores: {spent:.2f} CPU s/GiB")
    return results


def server_cpu(server: Vcsim) -> float:
    """Seconds of processor that vcsim has taken so far."""
    fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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
            with running_vcsim(peers, home) as server:
                peer, ours, proved = run(server, descriptor, store, rounds=options.rounds)
        for each in (peer, ours, proved):
            console.print(f"{disks} disk(s), {each.name}: {each.rate:.0f} MB/s, {each.cpu_per_gib:.2f} CPU s/GiB")
        results[f"{disks} disks"] = as_figures([peer, ours, proved])
        reached.append(compared(f"restore of {disks} disk(s)", ours, peer, aim=aim))
        reached.append(compared(f"restore of {disks} disk(s)", proved, peer, aim=aim))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    reached.append(Reached("peak memory", f"{MEMORY // MIB} MiB", f"{peak // MIB} MiB", peak <= MEMORY))
    save(options.json, "restore", results, reached)


if __name__ == "__main__":
    main()
