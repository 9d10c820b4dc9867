"""A disk of vSphere, read through the user's own nbdkit with its ``vddk`` or ``nfc`` plugin.

nbdkit runs as a child for as long as the disk is read: single export, read-only, on a socket in a folder that only this
user may enter. A small process beside it kills it when we end, however we end: nbdkit's own ``--exit-with-parent`` only
asks it to end, which waits for a read that hangs in the plugin. The password goes through a pipe, so neither the
arguments nor the environment of any process have it.
Parameters: nbdkit-vddk-plugin(1), nbdkit(1), nbdkit-blocksize-filter(1), nbdkit-retry-filter(1).
"""

import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Final, Literal, NamedTuple

from pydantic import SecretStr

from hyperexport.base.private_folder import private_folder
from hyperexport.base.stop import StopSignal
from hyperexport.errors import TransferInterrupted, TransportUnavailable
from hyperexport.nbd.client import NbdClient
from hyperexport.transfer.ranges import Range

logger = logging.getLogger(__name__)

PROGRAM: Final = "nbdkit"
LIBRARY_FOLDER: Final = "HYPEREXPORT_VDDK_LIBDIR"
"""The variable that says where the VDDK lies. No option: who may start an export must not choose what code it loads."""

Plugin = Literal["vddk", "nfc"]

_FOLDER: Final = "hyperexport-nbdkit-"
_GUARDED: Final = """\
import ctypes, os, signal, sys
life, password, nbdkit = int(sys.argv[1]), int(sys.argv[2]), os.getpid()
if os.fork() == 0:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: it ends with nbdkit
    os.closerange(0, 3)
    os.close(password)
    os.read(life, 1)
    if os.getppid() == nbdkit:
        os.kill(nbdkit, signal.SIGKILL)
    os._exit(0)
os.close(life)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Becomes nbdkit, and leaves a child that kills it when the other end of the pipe ``life`` is closed, as by our death.

A program of its own, because a process with threads must do nothing like this between fork and exec.
"""
_SECONDS_TO_START: Final = 300.0
_SECONDS_TO_END: Final = 5.0
_LOOK: Final = 0.02
_MOST_SAID: Final = 64 << 10
"""Bytes at the end of its output in which the last line is looked for."""
_LONGEST_SAID: Final = 300
"""Characters of that line in a message."""
_SPECIAL_FORMS: Final = {"'": ("'\\''", "'\"'\"'"), " ": ("+",)}
_KEPT_VARIABLES: Final = ("PATH", "HOME", "LANG", "TZ", "LD_LIBRARY_PATH")
"""Of our own environment, which may hold passwords."""


class NbdkitDisk(NamedTuple):
    """What nbdkit needs to know to open a disk."""

    plugin: Plugin
    server: str
    """The vCenter's or host's name or address."""
    port: int
    user: str
    password: SecretStr
    thumbprint: str
    """SHA-1 of the server's certificate, as ``AB:CD:...``."""
    vm: str
    """The VM's managed object id."""
    snapshot: str | None
    """The snapshot's; None for a VM that is off."""
    file: str
    """Such as ``[datastore1] db01/db01.vmdk``."""
    capacity: int
    label: str
    """The disk, in messages."""


def find_nbdkit(plugin: Plugin) -> str | None:
    """Say why nbdkit cannot be used on this machine; None where it can."""
    program = shutil.which(PROGRAM)
    if program is None:
        return f"{PROGRAM} is not installed"
    library = os.environ.get(LIBRARY_FOLDER)
    parameters = [f"libdir={library}"] if library and plugin == "vddk" else []
    try:
        asked = subprocess.run(
            [program, plugin, *parameters, "--dump-plugin"],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=60,
            env=_environment(),
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{PROGRAM} does not run: {error}"
    if asked.returncode:
        said = asked.stderr.strip().splitlines()
        return f"{PROGRAM} has no plugin {plugin} that works: {said[-1][:300] if said else 'it gives no reason'}"
    return None


class NbdkitSource:
    """A disk behind an nbdkit of its own, which is started anew after a failure; used by one thread, cut by any.

    Raises:
        TransportUnavailable: nbdkit does not start, or its disk is another one.
        TransferInterrupted: It does not give the disk.
    """

    def __init__(self, disk: NbdkitDisk, *, stop: StopSignal) -> None:
        self.name: Final = f"{PROGRAM} ({disk.plugin})"
        self.capacity: Final = disk.capacity
        self._disk = disk
        self._stop = stop
        self._running = ExitStack()
        self._process: _Process | None = None
        self._is_cut = False
        self._client: NbdClient | None = self._start()

    def ask(self, part: Range) -> None:
        """Send a request, to a new nbdkit where there is none any more."""
        self._check_open()
        if self._client is None:
            logger.warning("%s: starting %s again", self._disk.label, self.name)
            self._client = self._start()
        with self._checked():
            self._client.ask(part.offset, part.length)

    def answer(self) -> bytes:
        """Take the answer to the oldest request.

        Raises:
            TransferInterrupted: As for the class.
            Interrupted: The run was asked to stop.
        """
        self._check_open()
        assert self._client, "something was asked for"
        with self._checked():
            return self._client.answer()

    def reset(self) -> None:
        """End the process."""
        client, self._client = self._client, None
        if client is not None:
            client.close()
        self._running.close()

    close = reset

    def cut(self) -> None:
        """End the reading for good, from any thread."""
        self._is_cut = True
        if process := self._process:
            process.kill()

    def _check_open(self) -> None:
        self._stop.check()
        if self._is_cut:
            raise TransportUnavailable(f"the reading of {self._disk.label} by {self.name} was ended")

    @contextmanager
    def _checked(self) -> Generator[None]:
        try:
            yield
        except TransferInterrupted as error:
            self._check_open()
            assert self._process, "it was started"
            raise TransferInterrupted(f"{error.what}{self._process.said()}") from error

    def _start(self) -> NbdClient:
        with ExitStack() as stack, ExitStack() as starting:
            try:
                # Of no use once we are connected, and gone then: who is killed later leaves nothing.
                folder = starting.enter_context(private_folder(_FOLDER))
                said = stack.enter_context(tempfile.TemporaryFile())
            except OSError as error:
                raise TransportUnavailable(f"{PROGRAM} gets no temporary folder: {error}") from error
            self._process = process = stack.enter_context(_Process(self._disk, folder, said))
            stack.enter_context(self._stop.waking(process.kill))
            self._check_open()
            process.wait_until_ready(self._stop)
            try:
                client = NbdClient(folder / "socket", stop=self._stop, name=self.name)
            except TransferInterrupted as error:
                raise TransferInterrupted(f"{process.without_password(error.what)}{process.said()}") from error
            if client.size != self.capacity:
                client.close()
                raise TransportUnavailable(
                    f"{self._disk.label} has {client.size} bytes by {self.name}, and {self.capacity} by vSphere"
                )
            self._running = stack.pop_all()
            return client


class _Process:
    """The child; a context manager that ends it, whatever happens.

    Args:
        disk: What it serves.
        folder: Where its socket is.
        said: Takes what it writes.
    """

    def __init__(self, disk: NbdkitDisk, folder: Path, said: IO[bytes]) -> None:
        self._disk = disk
        self._folder = folder
        self._said = said
        self._process: subprocess.Popen[bytes] | None = None
        self._life = -1

    def __enter__(self) -> "_Process":
        program = shutil.which(PROGRAM)
        if program is None:
            raise TransportUnavailable(f"{PROGRAM} is not installed")
        reader, writer = os.pipe()
        life, self._life = os.pipe()
        guard = (sys.executable, "-I", "-S", "-c", _GUARDED, str(life), str(reader))
        try:
            os.write(writer, self._disk.password.get_secret_value().encode() + b"\n")
            os.close(writer)
            self._process = subprocess.Popen(
                [*guard, *_command(program, self._disk, self._folder, password=reader)],
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._said,
                env=_environment(),
                pass_fds=(reader, life),
                start_new_session=True,  # Ctrl-C is ours to act on
            )
        except OSError as error:
            os.close(self._life)
            raise TransportUnavailable(f"{PROGRAM} does not start: {error}") from error
        finally:
            os.close(reader)
            os.close(life)
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        finally:
            os.close(self._life)

    def kill(self) -> None:
        """End it at once, from any thread."""
        if self._process:
            self._process.kill()

    def wait_until_ready(self, stop: StopSignal) -> None:
        """Wait until it accepts a connection.

        Raises:
            TransportUnavailable: It ended, or does not become ready.
            Interrupted: The run was asked to stop.
        """
        assert self._process
        end = time.monotonic() + _SECONDS_TO_START
        while not (self._folder / "pid").exists():
            stop.check()
            if self._process.poll() is not None:
                stop.check()
                raise TransportUnavailable(f"{PROGRAM} ended as it started{self.said()}")
            if time.monotonic() > end:
                raise TransportUnavailable(f"{PROGRAM} was not ready within {_SECONDS_TO_START:.0f} s{self.said()}")
            stop.wait(_LOOK)

    def said(self) -> str:
        """The last line that it wrote, as the end of a message."""
        # Not with seek(): the child writes where the same open file stands.
        size = os.fstat(self._said.fileno()).st_size
        text = os.pread(self._said.fileno(), _MOST_SAID, max(size - _MOST_SAID, 0))
        lines = self.without_password(text.decode(errors="replace")).strip().splitlines()
        return f" ({lines[-1][:_LONGEST_SAID]})" if lines else ""

    def without_password(self, text: str) -> str:
        """Hide the password in what it wrote, before any of it is cut off: a part of it would not be found."""
        forms = "".join(map(_forms, self._disk.password.get_secret_value()))
        return re.sub(forms, "***", text) if forms else text


def _forms(char: str) -> str:
    """A regular expression of a character as programs print it: as it is, in an address, in a string, for a shell."""
    in_an_address = "".join(f"%{byte:02x}" for byte in char.encode(errors="replace"))
    forms = (*_SPECIAL_FORMS.get(char, ()), char, f"\\{char}")
    return f"(?:{'|'.join(map(re.escape, forms))}|(?i:{in_an_address}))"


def _command(program: str, disk: NbdkitDisk, folder: Path, *, password: int) -> list[str]:
    library = os.environ.get(LIBRARY_FOLDER)
    # An nfc plugin is known only to take a file's name; the pipe has one.
    secret = f"-{password}" if disk.plugin == "vddk" else f"+/dev/fd/{password}"
    own: Sequence[str] = ("transports=nbdssl:nbd", *([f"libdir={library}"] if library else []))
    return [
        program,
        "--foreground",
        "--exit-with-parent",
        "--readonly",
        *("--unix", str(folder / "socket")),
        *("--pidfile", str(folder / "pid")),
        # The retry filter has to be next to the plugin (V2V, XO); hosts allocate no more than 2 MiB at once.
        *("--filter", "blocksize", "--filter", "retry"),
        disk.plugin,
        *("minblock=512", "maxdata=2M", "retries=2", "retry-delay=1"),
        f"server={disk.server}",
        *([f"port={disk.port}"] if disk.port != 443 else []),
        f"user={disk.user}",
        f"password={secret}",
        f"thumbprint={disk.thumbprint}",
        f"vm=moref={disk.vm}",
        *([f"snapshot={disk.snapshot}"] if disk.snapshot else []),
        *(own if disk.plugin == "vddk" else ()),
        f"file={disk.file}",
    ]


def _environment() -> dict[str, str]:
    return {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
