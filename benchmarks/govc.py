"""A running VM exported from a snapshot, against ``govc export.ovf -sha 256`` from the same simulated vCenter.

Run as ``python -m benchmarks.govc``. Every way makes the snapshot, exports, and removes it. Ours does more: it proves
the disks' structure, keeps the nvram and the configuration, and waits until the device has every byte, as govc does
only with the ``sync`` after it. The engine and the flow run in this process, which is started and connected already
(the Prefect server too), as on a worker; the command is a process from its start to its end.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from rich.table import Table

from benchmarks.direct import export_directly
from benchmarks.harness import Measured, Reached, as_figures, compared, console, measure, ratio, save, workspace
from benchmarks.prefect_api import export_by_flow, provide_own_prefect_api
from benchmarks.vcenter import VM, vcenter
from hyperexport.base.units import GIB
from tests.peers import PeerMissing, build_go_peers

ENGINE = "the engine's steps"
FLOW = "the flow"
COMMAND = "the command"
GOVC = "govc"
DURABLE = "govc, then sync"
AIMS = {1: 1.0, 2: 1.3}
"""By the number of disks."""


def command(output: Path) -> None:
    hyperexport = Path(sys.executable).with_name("hyperexport")
    subprocess.run(
        [hyperexport, "--vm", VM, "--snapshot", "--quiet", "--output", output], check=True, stdout=subprocess.DEVNULL
    )


def govc(program: Path, output: Path, *, durable: bool = False) -> None:
    made = 'set -e; "$1" snapshot.create -vm "$2" -m=false benchmark'
    exported = '"$1" export.ovf -sha 256 -vm "$2" -snapshot benchmark "$3"'
    removed = '"$1" snapshot.remove -vm "$2" benchmark'
    script = [made, exported, removed, *(['sync "$3/$2"/*'] if durable else [])]
    subprocess.run(["sh", "-c", "; ".join(script), "sh", program, VM, output], check=True, stdout=subprocess.DEVNULL)


def run(program: Path, *, disks: int, disk_size: int, rounds: int) -> list[Measured]:
    """Measure every way on a VM of so many disks; ``disk_size`` is the capacity of each in bytes."""
    with (
        workspace() as folder,
        vcenter(folder / "vcenter", disks=disks, disk_size=disk_size) as server,
        server.named_by_environment(),
    ):
        output = folder / "exports"
        ways: dict[str, Callable[[], object]] = {
            GOVC: lambda: govc(program, output),
            ENGINE: lambda: export_directly(VM, output),
            DURABLE: lambda: govc(program, output, durable=True),
            FLOW: lambda: export_by_flow(VM, output),
            COMMAND: lambda: command(output),
        }
        size = sum(entry.size for entry in export_by_flow(VM, output).disks)  # and imports, and connects
        return measure(ways, size=size, rounds=rounds, between=lambda: shutil.rmtree(output, ignore_errors=True))


def show(results: list[Measured], *, disks: int) -> None:
    peer = results[0]
    table = Table(title=f"A VM with {disks} disk(s), {peer.size / GIB:.2f} GiB of streams", title_justify="left")
    for column in ("way", "MB/s", "CPU s/GiB", "as fast as govc"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for result in results:
        times = "" if result is peer else f"{ratio(result, peer):.2f}x"
        table.add_row(result.name, f"{result.rate:.0f}", f"{result.cpu_per_gib:.2f}", times)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=float, default=4, help="GiB of each disk's capacity; a quarter holds data")
    parser.add_argument("--disks", type=int, nargs="*", default=[1, 2], help="how many disks the VM has, run by run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    try:
        program = build_go_peers() / "govc"
    except PeerMissing as reason:
        sys.exit(str(reason))
    provide_own_prefect_api()
    figures: dict[str, object] = {}
    reached: list[Reached] = []
    for disks in options.disks:
        results = run(program, disks=disks, disk_size=int(options.size * GIB), rounds=options.rounds)
        show(results, disks=disks)
        figures[f"{disks} disks"] = as_figures(results)
        ways = {result.name: result for result in results}
        if disks in AIMS:
            reached.append(compared(f"a VM with {disks} disk(s)", ways[ENGINE], ways[GOVC], aim=AIMS[disks]))
    save(options.json, "govc", figures, reached)


if __name__ == "__main__":
    main()
