"""How time and memory grow with the number of VMs, and what orchestration costs for each.

Run as ``python -m benchmarks.scaling``; ``--vms 10,100,1000`` for the whole curve. VMs of one small disk, so that what
is measured is everything but bytes. One fleet run in one process, against the same exports by the engine alone in as
many threads; the Prefect server keeps its database in SQLite, as ``hyperexport serve`` starts it, then in PostgreSQL
where that is installed.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import psutil
from rich.table import Table

from benchmarks.harness import Reached, console, machine, save, workspace
from benchmarks.prefect_api import own_server
from benchmarks.vcenter import vcenter
from hyperexport.base.units import MIB
from tests.scale.servers import postgres, postgres_program, prefect_server

MAX_CONCURRENCY: Final = 4
"""VMs in flight: the default of ``--max-vms``."""

DISK: Final = MIB
ENGINE: Final = "the engine alone"
SQLITE: Final = "a fleet, SQLite"
POSTGRES: Final = "a fleet, PostgreSQL"


@dataclass
class Grown:
    """One way with one number of VMs."""

    way: str
    vms: int
    seconds: float
    cpu: float
    """Seconds of processor of the process that exports."""
    memory: float
    """MiB, its peak."""
    server_cpu: float
    """Seconds of processor of the Prefect server."""
    server_memory: float
    """MiB of it at the end."""
    vcenter_cpu: float
    """Seconds of processor of the simulated vCenter, which shares the machine."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vms", default="10,100", help="numbers of VMs")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", nargs=3, metavar=("WAY", "VMS", "OUTPUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        way, vms, output = options.work
        work(way, int(vms), Path(output))
        return
    figures = [
        one
        for vms in map(int, options.vms.split(","))
        for one in (measured(ENGINE, vms), measured(SQLITE, vms), *measured_on_postgres(vms))
    ]
    show(figures)
    save(options.json, "scaling", [asdict(one) for one in figures], reached(figures))


def measured_on_postgres(vms: int) -> list[Grown]:
    """On PostgreSQL, where it is installed."""
    if postgres_program("postgres") is None:
        console.print("PostgreSQL is not installed: not measured")
        return []
    return [measured(POSTGRES, vms)]


def measured(way: str, vms: int) -> Grown:
    """Export so many VMs in one way, with servers that have seen nothing yet, in a process that has none either."""
    with (
        workspace() as folder,
        vcenter(folder / "vcenter", disks=1, disk_size=DISK, vms=vms) as server,
        server.named_by_environment(),
        server_of(way, folder) as (address, processes),
    ):
        simulated = cpu_of([server.process])
        before = cpu_of(processes)
        command = [sys.executable, "-m", "benchmarks.scaling", "--work", way, str(vms), str(folder / "exports")]
        environment = {
            **os.environ,
            **({"PREFECT_API_URL": address} if address else {}),
            "PREFECT_HOME": str(folder / "home"),
            "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "ERROR",
        }
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
        own = json.loads(done.stdout.splitlines()[-1])
        grown = Grown(
            way,
            vms,
            own["seconds"],
            own["cpu"],
            own["memory"],
            cpu_of(processes) - before,
            memory_of(processes),
            cpu_of([server.process]) - simulated,
        )
        shutil.rmtree(folder / "exports")
    console.print(f"  {vms} VMs, {way}: {grown.seconds:.0f} s, load {machine()['load']}", style="dim")
    return grown


@contextmanager
def server_of(way: str, folder: Path) -> Generator[tuple[str | None, list[psutil.Process]]]:
    """The Prefect server of a way: its address, and its processes."""
    if way == ENGINE:
        yield None, []
    elif way == SQLITE:
        with own_server(folder / "prefect") as (address, server):
            yield address, [psutil.Process(server.pid)]
    else:
        with postgres() as database, prefect_server(folder / "prefect", database, None) as address:
            yield address, processes_of("server start") + processes_of("postgres")


def processes_of(words: str) -> list[psutil.Process]:
    """Those that this process itself has started with these words."""
    return [child for child in psutil.Process().children() if words in " ".join(child.cmdline())]


def cpu_of(processes: list[psutil.Process]) -> float:
    """Seconds of processor so far, of them and of all that they have started; of the ended ones, their parents know."""
    total = 0.0
    for process in with_descendants(processes):
        with suppress(psutil.NoSuchProcess):  # a database's sessions come and go
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def memory_of(processes: list[psutil.Process]) -> float:
    """MiB of them and of all that they have started; what they share counts once for each."""
    total = 0
    for process in with_descendants(processes):
        with suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total / MIB


def with_descendants(processes: list[psutil.Process]) -> list[psutil.Process]:
    """They, and what they have started."""
    return [process for one in processes for process in (one, *one.children(recursive=True))]


def work(way: str, vms: int, output: Path) -> None:
    """Be the process that exports; prints what it took."""
    began, cpu = time.perf_counter(), time.process_time()
    if way == ENGINE:
        export_by_engine(vms, output)
    else:
        export_by_fleet(output)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    exported = len(list(output.glob("*/*/export.json")))
    if exported != vms:
        sys.exit(f"{exported} of {vms} VMs were exported")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "cpu": cpu, "memory": memory}))


def export_by_engine(vms: int, output: Path) -> None:
    import hyperexport  # noqa: PLC0415 - each way imports what it needs, and that counts

    paths = [row.ref.path for row in hyperexport.vm_info(match="*")]
    assert len(paths) == vms
    with ThreadPoolExecutor(MAX_CONCURRENCY) as threads:
        for done in [threads.submit(hyperexport.export, path, output=output, snapshot=True) for path in paths]:
            done.result()


def export_by_fleet(output: Path) -> None:
    from hyperexport.flows import export_fleet  # noqa: PLC0415 - as above
    from hyperexport.options.precedence import ExportOptions  # noqa: PLC0415
    from hyperexport.options.selection import Selection  # noqa: PLC0415

    options = ExportOptions.from_keys({"output": output, "snapshot": True, "max_vms": MAX_CONCURRENCY})
    export_fleet(Selection(match=("*",)), options)


def show(figures: list[Grown]) -> None:
    table = Table(
        title=f"VMs of one small disk, {MAX_CONCURRENCY} at a time, load {machine()['load']}", title_justify="left"
    )
    columns = ("VMs", "way", "s", "s/VM", "CPU s/VM", "MiB", "server CPU s/VM", "server MiB", "vCenter CPU s/VM")
    for column in columns:
        table.add_column(column, justify="left" if column == "way" else "right")
    for one in figures:
        per_vm = [value / one.vms for value in (one.seconds, one.cpu, one.server_cpu, one.vcenter_cpu)]
        table.add_row(
            str(one.vms),
            one.way,
            f"{one.seconds:.0f}",
            f"{per_vm[0]:.2f}",
            f"{per_vm[1]:.2f}",
            f"{one.memory:.0f}",
            f"{per_vm[2]:.2f}",
            f"{one.server_memory:.0f}",
            f"{per_vm[3]:.2f}",
        )
    console.print(table)


def reached(figures: list[Grown]) -> list[Reached]:
    """What orchestration adds, in processor: seconds depend on what else the machine does."""
    largest = max(one.vms for one in figures)
    ways = {one.way: one for one in figures if one.vms == largest}
    engine = ways[ENGINE]
    return [
        Reached(
            f"scaling: {way} of {largest} VMs, processor added to each by run and server",
            "shown",
            f"{(one.cpu - engine.cpu) / largest:.2f} s + {one.server_cpu / largest:.2f} s",
            met=None,
        )
        for way, one in ways.items()
        if one is not engine
    ]


if __name__ == "__main__":
    main()
