"""A ``hyperexport serve`` of the tests' own, with a simulated vCenter that it exports from."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil

from hyperexport.simulator import DiskSpec, Simulator, VmSpec

SECONDS = 150
"""However busy the machine is, it has come to it by then."""

T = TypeVar("T")


@dataclass(frozen=True)
class Service:
    """A serving process and how to reach what it serves."""

    process: subprocess.Popen[str]
    prefect_api: str
    jobs_api: str
    simulator: Simulator
    folder: Path

    def processes_of(self, run: str) -> list[int]:
        """The processes of a run that it has started."""
        found: list[int] = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.Error):
                if child.environ().get("PREFECT__FLOW_RUN_ID") == run:
                    found.append(child.pid)
        return found


@contextmanager
def serving(folder: Path, *flags: str, **environment: str) -> Generator[Service]:
    """Serve until the block ends; what it prints is in ``serve.log`` of the folder, which is its own."""
    folder.mkdir(parents=True, exist_ok=True)
    vms = [VmSpec("db01", disks=(DiskSpec(8 << 20),)), VmSpec("big", disks=(DiskSpec(256 << 20, used=1.0),))]
    with Simulator(vms) as simulator, (folder / "serve.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "hyperexport.cli.main", "serve", "--quiet", "--api-port=0", *flags],
            cwd=folder,
            env={**os.environ, **simulator.environment(), **environment},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
        try:
            assert process.stdout
            said = dict(process.stdout.readline().strip().split("=", 1) for _ in range(2))
            yield Service(process, said["prefect_api"], said["jobs_api"], simulator, folder)
        finally:
            process.terminate()
            try:
                process.wait(SECONDS)
            finally:
                process.kill()
                process.wait()
                if process.stdout:
                    process.stdout.close()


def eventually(question: Callable[[], T | None], what: str) -> T:
    """Wait until there is an answer, and give it; fail when there is none for long.

    A question costs a Prefect server up to 50 ms of processor, so it is asked more and more rarely.
    """
    end = time.monotonic() + SECONDS
    pause = 0.05
    while True:
        answer = question()
        if answer:
            return answer
        assert time.monotonic() < end, f"it never came to this: {what}"
        time.sleep(pause)
        pause = min(pause * 1.5, 0.3)
