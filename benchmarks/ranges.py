"""A VM that is off, of which one grain in a hundred changed: its changed blocks in ranges, against a full export.

    python -m benchmarks.ranges [--size GIB] [--used PART]

Both are exports by the engine, in this process, out of the same simulated vCenter in a process of its own, by turns.
The changes are read by the datastore transport, with the sample of unchanged blocks that an export takes by default.
"""

import argparse
import gc
import itertools
import random
import shutil
import statistics
from pathlib import Path
from typing import Any

import hyperexport
from benchmarks.harness import Measured, Reached, as_figures, console, measure, save, workspace
from benchmarks.vcenter import VM, vcenter
from hyperexport.base.units import GIB
from hyperexport.formats.vmdk import GRAIN
from hyperexport.model.transport import Transport
from hyperexport.results import ExportResult
from hyperexport.simulator.control import Control

FULL, RANGES = "a full export", "an export of what changed, by datastore"
AIM = 15.0


def change(control: Control, capacity: int, chance: random.Random) -> int:
    """Write to one grain in a hundred, anywhere; returns how many."""
    grains = chance.sample(range(capacity // GRAIN), capacity // GRAIN // 100)
    for number in grains:
        control.guest_write(VM, 0, number * GRAIN, chance.randbytes(GRAIN // 2))
    return len(grains)


def run(capacity: int, rounds: int, used: float = 1.0) -> tuple[list[Measured], float]:
    """Measure both ways; returns also the bytes that were moved over the bytes that changed."""
    with (
        workspace() as folder,
        vcenter(folder / "vcenter", disks=1, disk_size=capacity, used=used) as server,
        server.named_by_environment(),
    ):
        whole, chain = folder / "whole", folder / "chain"
        server.control.power_off(VM)
        options: dict[str, Any] = {"output": chain, "incremental": True, "max_chain": 100}
        hyperexport.export(VM, **options)
        gc.freeze()  # as a command and a worker do (base/garbage.py): all that imports made is passed over
        chance, moved = random.Random(1), list[float]()

        def ranges() -> ExportResult:
            result = hyperexport.export(VM, **options)
            assert result.manifest
            entry = result.manifest.disks[0]
            assert entry.transport is Transport.DATASTORE, result.plan.disks[0].why
            moved.append((entry.received or 0) / (changed[0] * GRAIN))
            return result

        changed, turns = [0], itertools.count()

        def between() -> None:
            shutil.rmtree(whole, ignore_errors=True)
            if next(turns) % 2:  # the export of what changed is next
                changed[0] = change(server.control, capacity, chance)

        ways = {FULL: lambda: hyperexport.export(VM, output=whole), RANGES: ranges}
        results = measure(ways, size=capacity, rounds=rounds, between=between)
        return results, statistics.median(moved)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=float, default=10, help="GiB of the disk's capacity")
    parser.add_argument("--used", type=float, default=1.0, help="the part of it that holds data")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results, moved = run(int(options.size * GIB), options.rounds, options.used)
    full, ranges = results
    seconds = statistics.median(full.seconds) / statistics.median(ranges.seconds)
    processor = statistics.median(full.cpu) / statistics.median(ranges.cpu)
    what = f"{options.size:g} GiB, {options.used:.0%} of it used, 1 % changed: a full export over one in ranges"
    reached = [
        Reached(f"{what}, seconds", f"{AIM:g}x", f"{seconds:.1f}x", seconds >= AIM),
        Reached(f"{what}, processor", f"{AIM:g}x", f"{processor:.1f}x", processor >= AIM),
        Reached("bytes moved over bytes changed", "at most 1.1", f"{moved:.3f}", moved <= 1.1),
    ]
    for one in (full, ranges):
        console.print(
            f"{one.name}: {statistics.median(one.seconds):.2f} s, {statistics.median(one.cpu):.2f} s processor"
        )
    for one in reached:
        console.print(f"{one.figure}: {one.reached} (aim {one.aim})")
    save(options.json, "ranges", as_figures(results), reached)


if __name__ == "__main__":
    main()
