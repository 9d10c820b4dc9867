"""2,000 VMs listed with all that --vm-info --quiet says of them, against govc: the same facts, and the names alone.

Run as ``python -m benchmarks.inventory``, against VMware's own vcsim. All are whole programs, their start included.
``govc object.collect -json`` reads the same properties and prints them as they come; ours also makes paths of the
folders and sums of the disks. ``govc vm.info -json`` reads the whole VMs; ``govc find -l`` names them and their kinds.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.table import Table

from benchmarks.harness import Reached, console, machine, save
from hyperexport.vsphere.endpoint import VSphereEndpoint
from hyperexport.vsphere.inventory import brief_many, describe_many, read_inventory
from hyperexport.vsphere.session import connect
from tests.conformance.vcsim import Vcsim, running_vcsim
from tests.peers import build_go_peers

PROGRAM = "hyperexport --match '*' --vm-info --quiet"
LISTING = "one paged collection (in process)"
BRIEFING = "the disks' capacities of all (in process)"
DESCRIBING = "the whole description of all (in process)"
FACTS = (
    "name",
    "parent",
    "parentVApp",
    "runtime.powerState",
    "config.guestFullName",
    "config.hardware.numCPU",
    "config.hardware.memoryMB",
    "config.hardware.device",
)
SAME_FACTS = "govc object.collect -json -type m, the same facts"
PEERS = {
    SAME_FACTS: ("object.collect", "-json", "-type", "m", "/", *FACTS),
    "govc vm.info -json '*', all of each VM": ("vm.info", "-json", "/DC0/vm/*"),
    "govc find -l -type m, names and kinds": ("find", "-l", "/", "-type", "m"),
}


def spent(command: Sequence[str | Path], vcsim: Vcsim) -> tuple[float, float]:
    """Run a program; its seconds on the clock and of the processor."""
    # With compiled code kept, as an installed program has it, and without a session kept from the round before.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "PYTHONDONTWRITE"))}
    environment = kept | vcsim.environment | {"GOVC_PERSIST_SESSION": "false"}
    began = time.perf_counter()
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as child:
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{command} ended with {child.returncode}")
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime


def timed(call: Callable[[], object]) -> tuple[float, float]:
    began, used = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - began, time.process_time() - used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vms", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    names = (PROGRAM, *PEERS, LISTING, BRIEFING, DESCRIBING)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    ours = [sys.executable, "-m", "hyperexport.cli.main", "--match", "*", "--vm-info", "--quiet"]
    # vcsim has two resource pools, with as many VMs in each.
    with (
        tempfile.TemporaryDirectory(prefix="bench-inventory-") as home,
        running_vcsim(build_go_peers(), Path(home), "-vm", str(options.vms // 2)) as vcsim,
        connect(VSphereEndpoint.from_environment(vcsim.environment)) as session,
    ):
        rows = read_inventory(session).rows
        everybody = [row.ref for row in rows]
        for _ in range(options.rounds):
            seconds[PROGRAM].append(spent(ours, vcsim))
            for name, words in PEERS.items():
                seconds[name].append(spent([vcsim.govc_program, *words], vcsim))
            seconds[LISTING].append(timed(lambda: read_inventory(session)))
            seconds[BRIEFING].append(timed(lambda: brief_many(session, rows)))
            seconds[DESCRIBING].append(timed(lambda: describe_many(session, everybody)))
    table = Table(title=f"{options.vms} VMs, medians, load {machine()['load']}", title_justify="left")
    for column in ("way", "seconds", "of the processor"):
        table.add_column(column)
    for name, taken in seconds.items():
        table.add_row(name, *(f"{statistics.median(each):.2f}" for each in zip(*taken, strict=True)))
    console.print(table)
    pairs = zip(seconds[SAME_FACTS], seconds[PROGRAM], strict=True)
    ratio = statistics.median(peer[0] / program[0] for peer, program in pairs)
    figure = f"{options.vms} VMs by --match '*' --vm-info --quiet, against {SAME_FACTS}"
    save(options.json, "inventory", seconds, [Reached(figure, "1.0x", f"{ratio:.2f}x", ratio >= 1)])


if __name__ == "__main__":
    main()
