"""How exactly several worker processes keep to one shared budget, and how evenly they share it.

Run as ``python -m benchmarks.shared_bandwidth``. A real Prefect server (SQLite) of its own, real processes; the bytes
are only counted, so that the budget is all that holds them back.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from rich.table import Table

from benchmarks.harness import Reached, console, save
from benchmarks.prefect_api import own_server
from hyperexport.base.units import MIB

PIECE = MIB // 4


def work(name: str, rate: float, begin: float, end: float) -> None:
    """One worker: move as many bytes as it may until the end, and print when how many passed."""
    from hyperexport.base.stop import StopSignal  # noqa: PLC0415
    from hyperexport.options.precedence import Bandwidth  # noqa: PLC0415 - Prefect takes seconds to import, in the workers alone
    from hyperexport.tasks.bandwidth import throttle_of  # noqa: PLC0415

    seconds = [0] * (int(end - begin) + 1)
    with throttle_of(Bandwidth(shared=name, limit=rate)) as throttle:
        time.sleep(max(0.0, begin - time.time()))
        stop = StopSignal()
        while time.time() < end:
            throttle.take(PIECE, stop)
            seconds[min(int(time.time() - begin), len(seconds) - 1)] += PIECE
        print(json.dumps({"seconds": seconds, "warnings": throttle.warnings}))


def run(address: str, rate: float, workers: int, duration: float) -> dict[str, float]:
    """Let the workers share ``rate`` MB/s for so many seconds."""
    begin = time.time() + 5 + 4 * workers  # they all have to be there first
    name = f"bench-{rate:g}-{workers}"
    arguments = ["--work", name, str(rate), str(begin), str(begin + duration)]
    environment = {**os.environ, "PREFECT_API_URL": address}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.shared_bandwidth", *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(workers)
    ]
    reports = [cast("dict[str, list[int]]", json.loads(process.communicate()[0])) for process in processes]
    moved = [sum(report["seconds"][:-1]) for report in reports]
    totals = [sum(second) / (rate * MIB) for second in zip(*(report["seconds"] for report in reports), strict=True)]
    fair = sum(moved) / workers
    return {
        "rate": rate,
        "workers": workers,
        "seconds": duration,
        "moved_over_budget": sum(moved) / (rate * MIB * duration),
        "after_10_s": sum(totals[10:-1]) / len(totals[10:-1]),
        "smallest_share": min(moved) / fair,
        "largest_share": max(moved) / fair,
        "busiest_second": max(totals[10:-1]),
        "warnings": sum(len(report["warnings"]) for report in reports),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="of each measurement")
    parser.add_argument("--rates", default="10,50,200", help="budgets in MB/s")
    parser.add_argument("--workers", default="1,4")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work[0], *map(float, options.work[1:]))
        return
    cases = [(float(rate), int(n)) for rate in options.rates.split(",") for n in options.workers.split(",")]
    with tempfile.TemporaryDirectory() as folder, own_server(Path(folder)) as (address, _):
        figures = [run(address, rate, workers, options.seconds) for rate, workers in cases]
    table = Table(title="One budget, several processes (aim: within 5 %, no share below half)", title_justify="left")
    columns = ("MB/s", "workers", "moved/budget", "after 10 s", "smallest share", "largest share", "busiest second")
    for column in columns:
        table.add_column(column, justify="right")
    for figure in figures:
        shown = ("moved_over_budget", "after_10_s", "smallest_share", "largest_share", "busiest_second")
        table.add_row(f"{figure['rate']:g}", f"{figure['workers']:g}", *(f"{figure[key]:.3f}" for key in shown))
    console.print(table)
    save(options.json, "shared_bandwidth", figures, [_kept(figure) for figure in figures])


def _kept(figure: Mapping[str, float]) -> Reached:
    within, share = figure["after_10_s"], figure["smallest_share"]
    name = f"shared budget of {figure['rate']:g} MB/s, {figure['workers']:g} workers: over budget, smallest share"
    met = abs(within - 1) <= 0.05 and share >= 0.5
    return Reached(name, "within 5 %, >= 0.5", f"{within:.3f}, {share:.3f}", met)


if __name__ == "__main__":
    main()
