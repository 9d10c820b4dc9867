"""Boots a machine from an export's disks and watches it until it lives, is dead, or time is up."""

import json
import socket
import subprocess
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from hyperexport.base.private_folder import private_folder
from hyperexport.base.stop import StopSignal
from hyperexport.drill.qemu import BootDisk, QemuHost, compose
from hyperexport.drill.qmp import Qmp
from hyperexport.drill.serial_console import Console, Expectation, screen_text
from hyperexport.errors import DrillFailed, HyperExportError
from hyperexport.images.disk import Disk
from hyperexport.model.drill import Sign
from hyperexport.model.hardware import Hardware
from hyperexport.model.manifest import FileEntry
from hyperexport.nbd.server import NbdServer

_FOLDER: Final = "hyperexport-drill-"
_SECONDS_BETWEEN_LOOKS: Final = 0.5
_SECONDS_TO_START: Final = 60.0
_SCREEN: Final = 0xB8000
"""Where VGA's text mode has its characters."""
_MOST_RESETS: Final = 5
"""A guest may restart itself after a restore (Windows' disk check, SELinux' labels), but not more often than this."""
_WRITING_LOOKS: Final = 5
"""How many looks have to find new writes to the disks, a few seconds apart, before they count as a sign of life."""
_SECONDS_BETWEEN_WRITING_LOOKS: Final = 5.0


class Boot(NamedTuple):
    """The result of booting an export on QEMU: whether the guest lives, and what shows it."""

    sign: Sign
    """What proved that the guest lives."""
    reason: str
    """In words, how it ended; a sentence without a full stop."""
    seconds: float
    """From power-on to the verdict."""
    console: str
    """The end of what it wrote on its serial console."""
    screenshot: bytes | None
    """Its screen at the end, as PNG; None where QEMU did not give it."""
    bytes_read: int
    """What it read of its disks."""
    warnings: tuple[str, ...]
    """What is not as it was on vSphere."""

    @property
    def passed(self) -> bool:
        """Whether the guest lives."""
        return self.sign is not Sign.NONE


def boot_on_qemu(
    host: QemuHost,
    hardware: Hardware,
    disks: Sequence[tuple[FileEntry, Disk]],
    expected: Expectation,
    *,
    stop: StopSignal,
    memory_mib: int | None = None,
) -> Boot:
    """Boot from an export's disks. Nothing of the export is written, and the machine has no network.

    Args:
        host: What this machine has.
        hardware: What the VM had.
        disks: The disks, in the VM's order; each block is proved before the guest is given it.
        expected: What is waited for, and for how long.
        stop: Ends the machine.
        memory_mib: MiB of memory, if not as much as the VM had.

    Raises:
        ToolMissing: The VM needs EFI firmware, and none is installed.
        DrillFailed: QEMU did not start.
        VerificationFailed: A disk is damaged.
        Interrupted: The run was asked to stop.
    """
    read = 0

    def count(length: int) -> None:
        nonlocal read
        read += length

    images = {f"disk-{number}": disk for number, (_, disk) in enumerate(disks)}
    with private_folder(_FOLDER) as folder, NbdServer(images, socket_path=folder / "nbd", on_read=count) as server:
        uris = [BootDisk(entry, server.uri(f"disk-{number}")) for number, (entry, _) in enumerate(disks)]
        command, warnings = compose(host, hardware, uris, folder=folder, memory_mib=memory_mib)
        with _running(command, folder) as process, stop.waking(process.kill):
            try:
                watch = _Watch(process, folder, expected, stop)
                with watch:
                    watch.until_verdict(server)
            except HyperExportError:
                stop.check()
                raise
        if server.error is not None:
            raise server.error
        stop.check()
    return Boot(watch.sign, watch.reason, watch.seconds, watch.console.tail, watch.screenshot, read, tuple(warnings))


@contextmanager
def _running(command: Sequence[str], folder: Path) -> Generator[subprocess.Popen[bytes]]:
    """The process, which ends with the block. Its temporary files are made in the folder."""
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "TMPDIR": str(folder)},
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


class _Watch:
    """Looks at a machine that runs; a context manager that closes what it looks through."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, expected: Expectation, stop: StopSignal) -> None:
        self._process = process
        self._folder = folder
        self._expected = expected
        self._stop = stop
        self._agent = _Agent()
        self._resets = 0
        self._written = 0
        self._writing_looks = 0
        self._look_at_writes = 0.0
        self.console = Console(expected.text)
        self.sign = Sign.NONE
        self.reason = ""
        self.seconds = 0.0
        self.screenshot: bytes | None = None

    def __enter__(self) -> "_Watch":
        answering = Retrying(
            retry=retry_if_exception_type((DrillFailed, OSError)),
            wait=wait_fixed(0.05),
            stop=stop_after_delay(_SECONDS_TO_START),
            sleep=self._wait_for_start,
            reraise=True,
        )
        self._qmp = answering(lambda: Qmp(self._folder / "qmp"))
        self._serial = _connected(self._folder / "console")
        self._agent.connect(self._folder / "agent")
        return self

    def __exit__(self, *_: object) -> None:
        self._agent.close()
        self._serial.close()
        self._qmp.__exit__()

    def _wait_for_start(self, seconds: float) -> None:
        self._stop.wait(seconds)
        self._stop.check()
        if self._process.poll() is not None:
            raise DrillFailed(f"QEMU did not start: {self._said()}")

    def _said(self) -> str:
        return (self._folder / "said").read_text(errors="replace").strip()[-500:] or "it says nothing"

    def until_verdict(self, server: NbdServer) -> None:
        """Switch the machine on, and watch it."""
        began = time.monotonic()
        self._qmp.run("cont")
        while self.sign is Sign.NONE and not self.reason:
            self._stop.check()
            self._listen()
            self.seconds = time.monotonic() - began
            self.sign = self.console.sign
            if self.sign is not Sign.NONE or server.error is not None:
                break
            if self.console.end is not None:
                self.reason = self.console.end
            elif self._process.poll() is not None:
                self.reason = "it switched itself off before it gave a sign of life"
            elif self.seconds > self._expected.seconds:
                self.reason = f"no sign of life within {self._expected.seconds:.0f} s"
            else:
                self._look()
        self.reason = self.reason or _WORDS.get(self.sign, "")
        self._take_screenshot()

    def _listen(self) -> None:
        """Take what comes on the console, for a moment."""
        end = time.monotonic() + _SECONDS_BETWEEN_LOOKS
        while (left := end - time.monotonic()) > 0:
            self._serial.settimeout(left)
            try:
                data = self._serial.recv(1 << 16)
            except TimeoutError:
                return
            except OSError:
                data = b""
            if not data:  # QEMU has ended
                self._process.wait(timeout=_SECONDS_TO_START)
                return
            self.console.add(data)
            if self.console.sign is not Sign.NONE:
                return

    def _look(self) -> None:
        """Look at the screen, the agent and the disks."""
        with suppress(DrillFailed):  # it may end at any moment; the loop sees it
            self.console.look(self._screen())
            self._resets += self._qmp.events.count("RESET")
            self._qmp.events.clear()
            if self._resets > _MOST_RESETS:
                self.reason = f"it restarted {self._resets} times"
            if self._expected.text is not None:
                return
            if self._agent.answers():
                self.sign = Sign.GUEST_AGENT
            elif self._writes():
                self.sign = Sign.DISK_WRITES

    def _screen(self) -> str:
        dump = self._folder / "screen"
        self._qmp.run("pmemsave", val=_SCREEN, size=4000, filename=str(dump))
        return screen_text(dump.read_bytes())

    def _writes(self) -> bool:
        if time.monotonic() < self._look_at_writes:
            return False
        self._look_at_writes = time.monotonic() + _SECONDS_BETWEEN_WRITING_LOOKS
        written = sum(int(one["stats"]["wr_bytes"]) for one in self._qmp.run("query-blockstats"))
        self._writing_looks += written > self._written
        self._written = written
        return self._writing_looks >= _WRITING_LOOKS

    def _take_screenshot(self) -> None:
        picture = self._folder / "screen.png"
        with suppress(DrillFailed, OSError):
            self._qmp.run("screendump", filename=str(picture), format="png")
            self.screenshot = picture.read_bytes() or None


_WORDS: Final = {
    Sign.EXPECTED_TEXT: "it showed the expected text",
    Sign.CONSOLE: "it shows a started system on its console",
    Sign.GUEST_AGENT: "its guest agent answers",
    Sign.DISK_WRITES: "it keeps writing to its disks",
}


class _Agent:
    """QEMU's guest agent, if the guest has one: it answers a ping with the number that it was given."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._heard = b""

    def connect(self, path: Path) -> None:
        self._socket = _connected(path)
        self._socket.setblocking(False)

    def answers(self) -> bool:
        """Ask, and look whether an earlier question was answered."""
        if self._socket is None:
            return False
        with suppress(OSError):
            self._heard = (self._heard + self._socket.recv(1 << 12))[-(1 << 12) :]
        with suppress(OSError):
            self._socket.send(json.dumps({"execute": "guest-sync", "arguments": {"id": 4711}}).encode() + b"\n")
        return any(line.strip() == b'{"return": 4711}' for line in self._heard.splitlines())

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()


def _connected(path: Path) -> socket.socket:
    found = socket.socket(socket.AF_UNIX)
    try:
        found.connect(str(path))
    except OSError:
        found.close()
        raise
    return found
