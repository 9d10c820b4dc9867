"""What a command costs from its start to its end, in a process of its own, with govc beside it where it has the same.

Run as ``python -m benchmarks.startup``. Seconds on the clock, and processor seconds (user and system) of the process,
which other work on the machine hardly changes: medians of the rounds. With a Prefect API the measure is a process that
imports Prefect and runs an empty flow of as many tasks.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import httpx
from rich.table import Table

from benchmarks.harness import Reached, console, machine, save
from benchmarks.prefect_api import own_server
from benchmarks.vcenter import VM, vcenter
from hyperexport.base.units import MIB
from hyperexport.model.manifest import FILE_NAME, ExportManifest, new_export_id
from tests.peers import build_go_peers

PROGRAM: Final = [sys.executable, "-m", "hyperexport.cli.main"]
EXPORTS: Final = 100
AIM_WITH_PREFECT: Final = 1.3
_LEFT_OUT: Final = ("PREFECT", "HYPEREXPORT", "PYTHONDONTWRITEBYTECODE")
EMPTY_FLOW: Final = """
from prefect import flow, task

@task
def step(): return None

@flow
def empty():
    for _ in range({tasks}): step()

empty()
"""


@dataclass(frozen=True)
class Command:
    """One command.

    Args:
        words: Of ours.
        aim: Processor seconds.
        govc: Words of govc that do the same; None if it cannot.
        fails: Whether it is meant to fail.
    """

    words: Sequence[str]
    aim: float
    govc: Sequence[str] | None = None
    fails: bool = False


COMMANDS: Final = {
    "--version": Command(["--version"], 0.15, ["version"]),
    "--help": Command(["--help"], 0.4, ["--help"]),
    f"list, {EXPORTS} exports": Command(["list", "--output", "hundred"], 0.6),
    "--vm-info": Command(["--vm-info", "--vm", VM], 0.9, ["vm.info", VM]),
    "unknown VM, until the error": Command(["--vm", "nosuch", "--snapshot", "--dry-run"], 0.9, fails=True),
    "export of one small disk": Command(["--vm", VM, "--snapshot", "--output", "small"], 1.5),
    "verify, small store": Command(["verify", "--output", "one"], 0.8),
    "cleanup dry run, small store": Command(
        ["--cleanup", "--cleanup-dry-run", "--output", "one", "--cleanup-max-count", "2"], 0.8
    ),
}


@dataclass(frozen=True)
class Spent:
    """What processes took, the median: on the clock, and of the processor."""

    wall: float
    processor: float

    def __str__(self) -> str:
        return f"{self.wall:.2f} / {self.processor:.2f}"


def spent(command: Sequence[str], folder: Path, environment: Mapping[str, str], rounds: int, *, fails: bool) -> Spent:
    """Run a command several times; one that ends otherwise than it should ends the benchmark."""
    walls: list[float] = []
    processors: list[float] = []
    for _ in range(rounds):
        began = time.perf_counter()
        with (
            tempfile.TemporaryFile() as said,
            subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=said) as child,
        ):
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            if (child.returncode != 0) != fails:
                said.seek(0)
                sys.exit(f"{' '.join(command)} ended with {child.returncode}: {said.read().decode()}")
        walls.append(time.perf_counter() - began)
        processors.append(usage.ru_utime + usage.ru_stime)
    return Spent(statistics.median(walls), statistics.median(processors))


def multiply(store: Path, into: Path, count: int) -> None:
    """Make a store of many exports out of one that has one: the same files under other ids, each manifest sealed."""
    (folder,) = (path.parent for path in store.glob(f"*/*/{FILE_NAME}"))
    manifest = ExportManifest.from_json((folder / FILE_NAME).read_bytes(), source=str(folder))
    for number in range(count):
        started = manifest.started - timedelta(hours=number)
        copied = manifest.model_copy(
            update={
                "export_id": new_export_id(started),
                "started": started,
                "finished": manifest.finished - timedelta(hours=number),
            }
        )
        target = into / folder.parent.name / copied.export_id
        shutil.copytree(folder, target)
        (target / FILE_NAME).write_bytes(copied.to_json())


def with_prefect(folder: Path, environment: Mapping[str, str], rounds: int) -> tuple[Spent, Spent, int]:
    """Export through a Prefect server; ours, the empty flow of as many tasks, and how many those are."""
    with own_server(folder / "server") as (address, _server):
        client = {**environment, "PREFECT_API_URL": address, "PREFECT_HOME": str(folder / "client")}
        export = [*PROGRAM, "--vm", VM, "--snapshot", "--output", "prefect"]
        spent(export, folder, client, 1, fails=False)  # the first run makes Prefect's files
        tasks = int(httpx.post(f"{address}/task_runs/count", json={}, timeout=60).raise_for_status().text)
        empty = [sys.executable, "-c", EMPTY_FLOW.format(tasks=tasks)]
        # By turns: the machine's speed changes in the minute that this takes.
        turns = [[spent(way, folder, client, 1, fails=False) for way in (export, empty)] for _ in range(rounds)]
        ours, empties = map(median, zip(*turns, strict=True))
        return ours, empties, tasks


def median(measured: Sequence[Spent]) -> Spent:
    """The median of each figure."""
    return Spent(statistics.median(one.wall for one in measured), statistics.median(one.processor for one in measured))


def main() -> None:
    """Measure, and say which aims are met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    govc = str(build_go_peers() / "govc")
    reached: list[Reached] = []
    figures: dict[str, dict[str, float]] = {}
    table = Table(title=f"Commands, seconds on the clock / of the processor, load {machine()['load']}")
    for column in ("command", "ours", "aim (processor)", "govc", "met"):
        table.add_column(column)

    def add(name: str, ours: Spent, aim: float, beside: Spent | None, shown: str) -> None:
        met = ours.processor <= aim
        figures[name] = {"wall": ours.wall, "processor": ours.processor, "aim": aim}
        figures[name] |= {"govc_wall": beside.wall, "govc_processor": beside.processor} if beside else {}
        reached.append(Reached(f"startup: {name}, processor", f"<= {aim:.2f} s", f"{ours.processor:.2f} s", met))
        table.add_row(name, str(ours), f"{aim:.2f}", shown, "yes" if met else "NO")

    with tempfile.TemporaryDirectory(prefix="bench-startup-") as name:
        folder = Path(name)
        with vcenter(folder / "vcenter", disks=1, disk_size=4 * MIB, vms=20) as server:
            environment = {
                # With compiled code kept, as an installed program has it, whatever this environment says.
                **{key: value for key, value in os.environ.items() if not key.startswith(_LEFT_OUT)},
                **server.environment,
                "PREFECT_HOME": str(folder / "prefect"),
                "PYTHONPATH": str(Path.cwd()),
            }
            spent([*PROGRAM, "--vm", VM, "--snapshot", "--output", "one"], folder, environment, 1, fails=False)
            multiply(folder / "one", folder / "hundred", EXPORTS)
            for what, command in COMMANDS.items():
                ours = spent([*PROGRAM, *command.words], folder, environment, options.rounds, fails=command.fails)
                peer = None
                if command.govc:
                    peer = spent([govc, *command.govc], folder, environment, options.rounds, fails=False)
                add(what, ours, command.aim, peer, str(peer or ""))
            ours, empty, tasks = with_prefect(folder, environment, options.rounds)
            what = f"the same export, PREFECT_API_URL set ({tasks} tasks)"
            add(what, ours, AIM_WITH_PREFECT * empty.processor, None, f"an empty flow: {empty}")
    console.print(table)
    save(options.json, "startup", figures, reached)


if __name__ == "__main__":
    main()
