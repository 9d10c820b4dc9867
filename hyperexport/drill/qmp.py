"""Speaks QMP to a running QEMU: one command, one answer (https://www.qemu.org/docs/master/interop/qmp-spec.html)."""

import json
import socket
from pathlib import Path
from typing import Any, Final, Self, cast

from hyperexport.errors import DrillFailed

_SECONDS: Final = 60.0
"""How long QEMU may take to answer; an emulated machine on a busy host takes its time."""
_LARGEST: Final = 16 << 20


class Qmp:
    """A connection; a context manager that closes it.

    Args:
        path: The socket, on which QEMU listens.

    Raises:
        DrillFailed: QEMU does not speak QMP there.
    """

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_SECONDS)
        try:
            self._socket.connect(str(path))
            self._lines = self._socket.makefile("rb")
            self._next()
        except OSError as error:
            self._socket.close()
            raise DrillFailed(f"QEMU does not answer on its control socket: {error}") from error
        self.events: list[str] = []
        """The names of the events since they were last looked at, such as ``RESET``."""
        self.run("qmp_capabilities")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._socket.close()

    def run(self, command: str, **arguments: Any) -> Any:
        """Have QEMU do something.

        Returns:
            What it answers.

        Raises:
            DrillFailed: It refuses, or is gone.
        """
        request = json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n"
        try:
            self._socket.sendall(request)
            while True:
                message = self._next()
                if "return" in message:
                    return message["return"]
                if "error" in message:
                    raise DrillFailed(f"QEMU refuses {command}: {message['error'].get('desc')}")
                if "event" in message:
                    self.events.append(str(message["event"]))
        except OSError as error:
            raise DrillFailed(f"QEMU ended while it was asked for {command}") from error

    def _next(self) -> dict[str, Any]:
        line = self._lines.readline(_LARGEST)
        if not line:
            raise ConnectionResetError
        try:
            return cast("dict[str, Any]", json.loads(line))
        except ValueError as error:
            raise DrillFailed(f"QEMU said {line[:80]!r} on its control socket") from error
