"""The tests' side of the victim: starts the fork server, asks for a run, hears how it ended."""

import json
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.peers import ROOT


@dataclass(frozen=True)
class Outcome:
    """How a run in a process of its own ended."""

    killed: bool = False
    """Whether it killed itself, as it was told to."""
    signal: int | None = None
    """What it died of, whoever sent it."""
    count: int = 0
    """Events that there were, up to the one that was the last."""
    step: str = ""
    event: str = ""
    events: dict[str, int] = field(default_factory=dict[str, int])
    """Events in each step, of a run that was not killed."""
    code: str | None = None
    """The error's name for searching; None for a run that went well."""
    exit_code: int | None = None
    message: str = ""
    warnings: tuple[str, ...] = ()
    mischief: tuple[str, ...] = ()
    """What was done to it, in words."""

    @property
    def ok(self) -> bool:
        """Whether it ended well."""
        return self.exit_code == 0


class Victims:
    """Runs flows in processes that may be killed. Made by :func:`victims`."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path, scratch: Path) -> None:
        self._process = process
        self._log = log
        self.scratch = scratch
        """Where the processes have their temporary files, and no other process has any."""

    def run(
        self,
        flow: str,
        *,
        environment: dict[str, str],
        options: dict[str, Any],
        vm: str = "",
        kill_at: int | None = None,
        kill_in: tuple[str, int] | None = None,
        kill_after: float | None = None,
        mischief: dict[str, Any] | None = None,
        restore: dict[str, Any] | None = None,
    ) -> Outcome:
        """Run a flow to its end, or to its death.

        Args:
            flow: ``export``, ``restore``, ``drill``, ``reap``, ``cleanup`` or ``verify``.
            environment: What the process finds in its environment: the vCenter, the credentials of S3.
            options: The options, by their keys.
            vm: The VM to export.
            kill_at: Kill it just before this event, counted from 1.
            kill_in: Or before this event of this step.
            kill_after: Or after so many seconds, wherever it is then.
            mischief: What else is done to it (tests/faults/mischief.py).
            restore: What becomes of the export that is restored, or how it is drilled.
        """
        request = {
            "flow": flow,
            "environment": environment,
            "options": options,
            "vm": vm,
            "kill_at": kill_at,
            "kill_in": kill_in,
            "kill_after": kill_after,
            "mischief": mischief or {},
            "restore": restore or {},
        }
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        facts = json.loads(self._process.stdout.readline() or "{}")
        assert facts, f"the fork server is gone: {self._log.read_text()[-4000:]}"
        assert facts.get("code") != "traceback", self._log.read_text()[-6000:]
        facts["warnings"] = tuple(facts.pop("warnings", ()))
        facts["mischief"] = tuple(facts.pop("mischief", ()))
        return Outcome(**facts)

    def log(self) -> str:
        """What the processes wrote to standard error."""
        return self._log.read_text()


@contextmanager
def victims(folder: Path) -> Generator[Victims]:
    """Start the fork server for the time of the block."""
    log = folder / "victims.log"
    with (
        log.open("w") as errors,
        # A path that is short: QEMU's sockets lie in it.
        TemporaryDirectory(prefix="victims-", ignore_cleanup_errors=True) as scratch,
        subprocess.Popen(
            [sys.executable, "-m", "tests.faults.victim"],
            cwd=ROOT,
            env=os.environ | {"PYTHONFAULTHANDLER": "1", "TMPDIR": scratch},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        try:
            yield Victims(process, log, Path(scratch))
        finally:
            process.kill()
