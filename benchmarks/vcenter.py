"""A simulated vCenter in a process of its own, which every client of the benchmarks is pointed to."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import psutil

from hyperexport.simulator.control import Control

VM = "vm-01"
USED = 0.25
"""The part of each disk that holds data; about 0.55 of that is what it deflates to."""


@dataclass(frozen=True)
class VCenter:
    """One that serves."""

    environment: Mapping[str, str]
    """What govc, and ours after it, read: address, user, password, authority."""
    control: Control
    process: psutil.Process

    @contextmanager
    def named_by_environment(self) -> Generator[None]:
        """Have this process find it, as a worker finds its own."""
        with mock.patch.dict(os.environ, self.environment):
            yield


@contextmanager
def vcenter(folder: Path, *, disks: int, disk_size: int, vms: int = 1, used: float = USED) -> Generator[VCenter]:
    """Serve running VMs, the first of them :data:`VM`.

    Args:
        folder: For what it writes; made here.
        disks: How many disks the VM has.
        disk_size: The capacity of each, in bytes.
        vms: How many VMs there are.
        used: The part of each disk that holds data.
    """
    folder.mkdir()
    ready_file = folder / "ready.json"
    # Without manifests: a real host hashes in hardware of its own, and here it would be the clients' two cores.
    given = {
        "vms": vms,
        "disks": disks,
        "disk-size": disk_size,
        "used": used,
        "ready-file": ready_file,
        "directory": folder,
    }
    command = [
        sys.executable,
        "-m",
        "simulator",
        "--no-manifests",
        *(f"--{key}={value}" for key, value in given.items()),
    ]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            ready = _await(ready_file, process)
            environment = {
                "GOVC_URL": ready["url"],
                "GOVC_USERNAME": ready["username"],
                "GOVC_PASSWORD": ready["password"],
                "GOVC_TLS_CA_CERTS": ready["ca_file"],
                "GOVMOMI_HOME": str(folder / "govmomi"),
            }
            control = Control(ready["url"], ready["token"], ca_file=ready["ca_file"])
            yield VCenter(environment, control, psutil.Process(process.pid))
        finally:
            process.terminate()


def _await(ready_file: Path, process: "subprocess.Popen[bytes]") -> dict[str, str]:
    while not ready_file.exists():
        if process.poll() is not None:
            sys.exit("the simulated vCenter did not start")
        time.sleep(0.05)
    return json.loads(ready_file.read_text())
