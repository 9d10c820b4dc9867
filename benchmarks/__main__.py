"""Every benchmark in turn, each in a process of its own; then one table, and ``.cache/benchmarks.json``.

Run as ``make bench`` or ``python -m benchmarks``; ten minutes on two cores that have nothing else to do.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.harness import CACHE, console, machine

DEFAULTS: dict[str, list[str]] = {
    "startup": ["--rounds=3"],
    "throttle": ["--seconds=4"],
    "download": ["--size=4", "--rounds=5"],
    "upload": ["--size=2", "--rounds=5", "--memory", "1", "16"],
    "govc": ["--size=4", "--rounds=5"],
    "reading": ["512"],
    "deltas": ["256"],
    "ranges": ["--size=10", "--rounds=3"],
    "synthetic": ["1024"],
    "many_exports": ["1000"],
    "restore": ["--size=4", "--rounds=3"],
    "first_file": ["--size=2"],
    "orchestration": ["--rounds=7"],
    "shared_bandwidth": ["--seconds=30", "--rates=50"],
    "scaling": ["--vms=10,100"],
}


def run(name: str, arguments: list[str]) -> dict[str, Any] | None:
    """Run one benchmark; answers its document, or None where it could not be run (it said why)."""
    written = CACHE / "benchmarks" / f"{name}.json"
    written.unlink(missing_ok=True)
    console.rule(name)
    subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *arguments, "--json", written], check=False)
    return json.loads(written.read_text()) if written.exists() else None


def show(documents: dict[str, dict[str, Any] | None]) -> None:
    table = Table(title=f"Aims and what was reached, on {machine()['cores']} cores", title_justify="left")
    for column in ("figure", "aim", "reached", "met"):
        table.add_column(column)
    words = {True: "yes", False: "NO", None: "-"}
    for name, document in documents.items():
        if document is None:
            table.add_row(name, "", "not measured", "-")
        for one in document["reached"] if document else ():
            table.add_row(one["figure"], one["aim"], one["reached"], words[one["met"]])
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", help=f"those to run, of {', '.join(DEFAULTS)}; all if none is named")
    parser.add_argument("--json", type=Path, default=CACHE / "benchmarks.json")
    options = parser.parse_args()
    if unknown := set(options.only) - set(DEFAULTS):
        parser.error(f"there is no benchmark {', '.join(unknown)}")
    documents = {name: run(name, DEFAULTS[name]) for name in options.only or DEFAULTS}
    show(documents)
    options.json.write_text(json.dumps(documents, indent=2) + "\n")
    console.print(f"written to {options.json}")


if __name__ == "__main__":
    main()
