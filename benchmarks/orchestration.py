"""What orchestration adds: the flow with Prefect against the same steps called one after the other, in one process.

Run as ``python -m benchmarks.orchestration``. The Prefect server runs already, and all about it is as by default,
heartbeats and logs included. The difference is what is shown: it hardly depends on how much is exported.
"""

import argparse
import shutil
import statistics
from pathlib import Path

from benchmarks.direct import export_directly
from benchmarks.harness import Reached, as_figures, console, measure, save, show, workspace
from benchmarks.prefect_api import export_by_flow, provide_own_prefect_api
from benchmarks.vcenter import USED, VM, vcenter
from hyperexport.base.units import MIB

FLOW = "the flow, with Prefect"
STEPS = "the steps, without"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=float, default=100, help="MiB of data on the VM's one disk")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    provide_own_prefect_api()
    with (
        workspace() as folder,
        vcenter(folder / "vcenter", disks=1, disk_size=int(options.size * MIB / USED)) as server,
        server.named_by_environment(),
    ):
        output = folder / "exports"
        export_by_flow(VM, output)  # the first run imports and connects
        sizes = {entry.size for entry in export_directly(VM, output).disks}
        results = measure(
            {STEPS: lambda: export_directly(VM, output), FLOW: lambda: export_by_flow(VM, output)},
            size=sum(sizes),
            rounds=options.rounds,
            between=lambda: shutil.rmtree(output, ignore_errors=True),
        )
    show(f"A VM with {options.size:g} MiB of data", results, ours=FLOW, aims={})
    steps, flow = results
    added = statistics.median(slow - fast for slow, fast in zip(flow.seconds, steps.seconds, strict=True))
    cpu = statistics.median(flow.cpu) - statistics.median(steps.cpu)
    console.print(f"Prefect adds {added:.2f} s to each export, and {cpu:.2f} s of processor in this process")
    figures = {"added_seconds": added, "added_cpu_seconds": cpu, "ways": as_figures(results)}
    reached = Reached("orchestration: added to an export of 100 MB", "shown", f"{added:.2f} s", met=None)
    save(options.json, "orchestration", figures, [reached])


if __name__ == "__main__":
    main()
