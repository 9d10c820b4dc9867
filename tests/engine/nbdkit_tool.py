"""A real nbdkit that has the stand-in for its vddk plugin, found first on the PATH."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hyperexport.simulator import Simulator
from tests.peers import require_program

STAND_IN = Path(__file__).with_name("nbdkit_stand_in.py")
_WRAPPER = """#!/bin/sh
# Its Python looks for its library by the PATH, where a virtual environment of another Python may come first.
PATH=/usr/bin:/bin
for word do
    shift
    case $word in
        vddk | nfc) set -- "$@" python "{plugin}" "standin={settings}" ;;
        *) set -- "$@" "$word" ;;
    esac
done
exec "{nbdkit}" "$@"
"""


class Nbdkit:
    """What the stand-in is to do, and what it was called with."""

    def __init__(self, folder: Path, vcenter: Simulator) -> None:
        self._folder = folder
        self._settings: dict[str, Any] = {
            "url": vcenter.url.removesuffix("/sdk"),
            "token": vcenter.control_token,
            "ca_file": str(vcenter.ca_file),
            "password": vcenter.password,
            "log": str(folder / "log"),
        }
        self.set()

    def set(self, **changes: Any) -> None:
        """Have it behave otherwise: ``wrong``, ``larger``, ``fails`` (with these words)."""
        self._settings.update(changes)
        (self._folder / "settings.json").write_text(json.dumps(self._settings))

    def die(self, *, after: int, always: bool = False) -> None:
        """Be killed after some reads, once or each time."""
        self.set(dies={"after": after, "always": always, "marker": str(self._folder / "died")})

    def hang(self, *, after: int) -> Path:
        """Answer no read after so many; returns a file that is there from then on."""
        marker = self._folder / "hangs"
        self.set(hangs={"after": after, "marker": str(marker)})
        return marker

    @property
    def started(self) -> list[Mapping[str, Any]]:
        """Each start: its parameters, argv, environment and process id."""
        log = self._folder / "log"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    @property
    def alive(self) -> list[int]:
        """Those that still run; what has ended and waits for its parent has no command line any more."""
        return [each["pid"] for each in self.started if _command_line(each["pid"])]


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def install(folder: Path, vcenter: Simulator, monkeypatch: pytest.MonkeyPatch) -> Nbdkit:
    """Put a wrapper on the PATH, in front of the real nbdkit, that has it load the stand-in."""
    nbdkit = prepare(folder, vcenter)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return nbdkit


def prepare(folder: Path, vcenter: Simulator) -> Nbdkit:
    """Make the wrapper; it is of use to whoever has the folder on the PATH."""
    real = require_program("nbdkit", "nothing else runs plugins for vSphere")
    folder.mkdir()
    wrapper = folder / "nbdkit"
    wrapper.write_text(_WRAPPER.format(plugin=STAND_IN, settings=folder / "settings.json", nbdkit=real))
    wrapper.chmod(0o755)
    return Nbdkit(folder, vcenter)
