"""2,000 VMs listed with all that --vm-info --quiet says of them, against ``govc find`` that only names them.

Run as ``python -m benchmarks.inventory``, against VMware's own vcsim. Both are whole programs, their start included.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from os import environ
from pathlib import Path

from rich.table import Table

from benchmarks.harness import console, save
from hyperexport.vsphere.endpoint import VSphereEndpoint
from hyperexport.vsphere.inventory import brief_many, describe_many, read_inventory
from hyperexport.vsphere.session import connect
from tests.conformance.vcsim import Vcsim, running_vcsim
from tests.peers import build_go_peers

PROGRAM = "hyperexport --match '*' --vm-info --quiet"
LISTING = "one paged collection (in process)"
BRIEFING = "the disks' capacities of all (in process)"
DESCRIBING = "the whole description of all (in process)"
GOVC = "govc find -type m"


def hyperexport(vcsim: Vcsim) -> None:
    subprocess.run(
        [sys.executable, "-m", "hyperexport.cli.main", "--match", "*", "--vm-info", "--quiet"],
        env=environ | vcsim.environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )


def timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vms", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in (GOVC, PROGRAM, LISTING, BRIEFING, DESCRIBING)}
    # vcsim has two resource pools, with as many VMs in each.
    with (
        tempfile.TemporaryDirectory(prefix="bench-inventory-") as home,
        running_vcsim(build_go_peers(), Path(home), "-vm", str(options.vms // 2)) as vcsim,
        connect(VSphereEndpoint.from_environment(vcsim.environment)) as session,
    ):
        rows = read_inventory(session).rows
        everybody = [row.ref for row in rows]
        for _ in range(options.rounds):
            seconds[GOVC].append(timed(lambda: vcsim.govc("find", "/", "-type", "m")))
            seconds[PROGRAM].append(timed(lambda: hyperexport(vcsim)))
            seconds[LISTING].append(timed(lambda: read_inventory(session)))
            seconds[BRIEFING].append(timed(lambda: brief_many(session, rows)))
            seconds[DESCRIBING].append(timed(lambda: describe_many(session, everybody)))
    table = Table(title=f"{options.vms} VMs", title_justify="left")
    for column in ("way", "seconds (median)"):
        table.add_column(column)
    for name, taken in seconds.items():
        table.add_row(name, f"{statistics.median(taken):.2f}")
    console.print(table)
    save(options.json, "inventory", seconds, [])


if __name__ == "__main__":
    main()
