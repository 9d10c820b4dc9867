"""How many processor seconds a command costs, in a process of its own, with govc beside it where it has the same one.

    .venv/bin/python -m benchmarks.startup

User and system time of the child (wait4), the least of several runs: what else is at work on the machine makes a
command slower, never quicker.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from benchmarks.vcenter import VM, vcenter
from tests.peers import build_go_peers

RUNS: Final = 5
AIMS: Final = {
    "--version": 0.15,
    "--help": 0.4,
    "list, 100 exports": 0.6,
    "--vm-info": 0.9,
    "unknown VM": 0.9,
    "export, one small disk": 1.5,
    "verify": 0.8,
    "cleanup": 0.8,
}
"""Processor seconds."""


def processor_seconds(command: list[str], folder: Path, environment: dict[str, str]) -> float:
    """User and system time of one run of a command."""
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as child:
        _, _, usage = os.wait4(child.pid, 0)
        child.returncode = 0
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measure, and say which aims are missed."""
    program = [sys.executable, "-m", "hyperexport.cli.main"]
    with tempfile.TemporaryDirectory(prefix="bench-startup-") as name:
        folder = Path(name)
        with vcenter(folder / "vcenter", disks=1, disk_size=8 << 20, vms=20) as server:
            environment = {
                **{key: value for key, value in os.environ.items() if not key.startswith(("PREFECT", "HYPEREXPORT"))},
                **server.environment,
                "PREFECT_HOME": str(folder / "prefect"),
                "PYTHONPATH": str(Path.cwd()),
            }
            for _ in range(100):
                hundred = [*program, "--vm", VM, "--snapshot", "--output", "hundred", "--quiet"]
                subprocess.run(hundred, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
            ours = {
                "--version": ["--version"],
                "--help": ["--help"],
                "list, 100 exports": ["list", "--output", "hundred"],
                "--vm-info": ["--vm-info", "--vm", VM],
                "unknown VM": ["--vm", "nosuch", "--snapshot", "--dry-run"],
                "export, one small disk": ["--vm", VM, "--snapshot", "--output", "small"],
                "verify": ["verify", "--output", "small"],
                "cleanup": ["--cleanup", "--output", "small", "--cleanup-max-count", "2"],
            }
            govc = str(build_go_peers() / "govc")
            peers = {"--version": [govc, "version"], "--vm-info": [govc, "vm.info", VM]}
            for what, words in ours.items():
                took = min(processor_seconds([*program, *words], folder, environment) for _ in range(RUNS))
                beside = peers.get(what)
                peer = min(processor_seconds(beside, folder, environment) for _ in range(RUNS)) if beside else None
                verdict = "ok" if took <= AIMS[what] else "MISSED"
                told = "" if peer is None else f"   govc {peer:.2f} s"
                print(f"{what:24} {took:.2f} s of {AIMS[what]:.2f} s  {verdict}{told}")


if __name__ == "__main__":
    main()
