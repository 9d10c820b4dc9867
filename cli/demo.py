"""``make demo``: the main job on a simulated vCenter, with nothing to set up and nothing left running.

Each step prints the command line that a person would type, and runs exactly that.
"""

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.rule import Rule

from hyperexport.base.units import MIB, SECTOR
from hyperexport.cli.interrupts import interrupt_only_once
from hyperexport.cli.main import run
from hyperexport.deployments.local_server import start
from hyperexport.drill.qemu import PROGRAM
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from hyperexport.simulator.boot_sector import boot_record
from hyperexport.workarounds.environment import keep_prefect_quiet

FOLDER: Final = Path("demo")
VM: Final = "shop-db01"
SCREEN: Final = f"Welcome to the simulated guest of {VM}!\r\n{VM} login: "
DELETED_AT: Final = 7
SERVER_FROM: Final = 3
"""The step at which a Prefect server is started for the rest of the demo; the steps before it run without."""

INVENTORY: Final = (
    VmSpec(
        VM,
        folder="production",
        cpus=4,
        memory_mb=8192,
        disks=(DiskSpec(1024 * MIB), DiskSpec(512 * MIB)),
        firmware="bios",
    ),
    VmSpec("shop-web01", folder="production"),
    VmSpec("shop-web02", folder="production"),
)


def main() -> int:
    """Run the demo; exits with the first step's code that is not 0."""
    interrupt_only_once()
    console = Console(highlight=False)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    # The demo's runs stay apart from the reader's own Prefect, and can be looked at afterwards.
    os.environ["PREFECT_HOME"] = str((FOLDER / "prefect").resolve())
    for name in [name for name in os.environ if name.startswith(("GOVC_", "HYPEREXPORT_", "PREFECT_API_"))]:
        del os.environ[name]
    with Simulator(INVENTORY) as vcenter:
        os.environ.update(vcenter.environment())
        for sector, data in zip((0, 2_000_000), boot_record(SCREEN, at=2_000_000), strict=True):
            vcenter.vm(VM).guest_write(0, sector * SECTOR, data)
        console.print(
            f"A simulated vCenter with {len(INVENTORY)} VMs serves at {vcenter.url}; no real one is touched.",
            soft_wrap=True,
        )
        code = walk(console, vcenter)
    if code == 0:
        console.print(what_next(), soft_wrap=True)
    return code


def walk(console: Console, vcenter: Simulator) -> int:
    """The main job, step by step."""
    export = f"--vm {VM} --output {FOLDER}/exports --snapshot --incremental --verify"
    steps = (
        ("What is this VM?", f"--vm-info --vm {VM}"),
        ("What would an export do? Nothing is changed.", f"{export} --dry-run"),
        ("The VM is running, so it is exported from a snapshot, and read back.", export),
        (
            "In the guest, one disk is written to. Only that disk is read again, and only what changed is stored.",
            export,
        ),
        (
            "What is in the store? The disk that did not change is there twice, and stored once.",
            f"list --output {FOLDER}/exports",
        ),
        ("Old exports are cleaned up by count.", f"--cleanup --output {FOLDER}/exports --cleanup-max-count 1"),
        (
            "The VM is deleted from disk in vSphere, restored from its last export, and powered on.",
            f"restore --vm {VM} --output {FOLDER}/exports --power-on",
        ),
        *booting(),
    )
    for number, (title, line) in enumerate(steps, start=1):
        if number == SERVER_FROM:
            console.print(
                "A command needs no Prefect. A Prefect server is started here, once, so that its UI has the next runs.",
                style="dim",
            )
            keep_prefect_quiet()
            start(0)
        if number == 4:
            vcenter.vm(VM).guest_write(1, 64 * MIB, b"a new order in the shop")
        if number == DELETED_AT:
            vcenter.vm(VM).destroy()
        console.print()
        console.print(Rule(f"[bold]{number}. {title}", align="left", style="dim"))
        console.print(f"[green]$[/] hyperexport {line}\n")
        code = run(shlex.split(line))
        if code:
            return code
    return 0


def booting() -> tuple[tuple[str, str], ...]:
    """The last step, where QEMU is installed."""
    if shutil.which(PROGRAM) is None:
        return ()
    title = "And it boots on QEMU, without VMware, straight from the store. The proof lies beside the export."
    return ((title, f"drill --vm {VM} --output {FOLDER}/exports --memory 256 --emulate"),)


def what_next() -> str:
    """Where to go from here."""
    return f"""
[bold]Done.[/] Look around in [bold]{FOLDER}/exports[/]: the disks, which qemu-img reads, and export.json, which says
everything about them. For govc, ovftool and vCenter, whole disks again:
  .venv/bin/hyperexport convert --vm {VM} --output {FOLDER}/exports --to ovf --into package

What to try next:
  [bold]Your own vCenter[/]     export GOVC_URL=vcenter.example.com GOVC_USERNAME=... GOVC_PASSWORD=...
                       .venv/bin/hyperexport --vm NAME --snapshot --dry-run
  [bold]The Prefect UI[/]       PREFECT_HOME=$PWD/{FOLDER}/prefect .venv/bin/hyperexport serve
                       and open http://127.0.0.1:4200: the exports of this demo are there
  [bold]A simulated vCenter[/]  .venv/bin/hyperexport simulate --port 8989 --vms 20
  [bold]All options[/]          .venv/bin/hyperexport --help
"""


if __name__ == "__main__":
    sys.exit(main())
