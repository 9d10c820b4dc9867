"""Which machine, which boot, which process: what the kernel says, and None wherever it does not say all of it.

Neither id is written anywhere as it is: a tag holds keyed digests (machine-id(5) asks for that). What is signed with
the ids themselves can only be made on this machine, in this boot.
"""

import hashlib
import hmac
import os
import re
from pathlib import Path
from typing import Final, NamedTuple

_DIGITS: Final = 30
_MACHINE_ID: Final = re.compile(r"[0-9a-f]{32}")
_MACHINE_ID_FILES: Final = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
_PROC: Final = Path("/proc")


class ProcessIdentity(NamedTuple):
    """What tells a process from any other that ever had its number. No clock has a part in it."""

    boot: str
    """A digest of the boot's id, which a restart changes (Linux: random(4), boot_id)."""
    namespace: str
    """Where the number and the ticks mean anything: the inodes of the PID and the time namespace."""
    ticks: int
    """When the process began, in the kernel's own ticks since the boot (proc(5), stat, field 22)."""

    def __str__(self) -> str:
        return f"{self.boot}/{self.namespace}/{self.ticks}"

    @classmethod
    def parse(cls, text: str) -> "ProcessIdentity | None":
        """Read what ``str`` made; None for anything else."""
        boot, _, rest = text.partition("/")
        namespace, _, ticks = rest.partition("/")
        return (
            cls(boot, namespace, int(ticks))
            if boot and namespace and ticks.isdecimal() and ticks.isascii() and len(ticks) < _DIGITS
            else None
        )


class Machine(NamedTuple):
    """This machine in this boot, as a process in these namespaces sees it."""

    id: str
    """A digest of the machine id."""
    boot: str
    """A digest of the boot id."""
    namespace: str
    network: str
    """The network namespace, to which abstract sockets belong (unix(7))."""
    boot_id: str
    key: bytes
    """What signs tags: known to this machine in this boot alone."""


class Process(NamedTuple):
    """A process, looked up."""

    ticks: int
    ended: bool
    """It is a zombie of which no thread is left."""


def this_machine() -> Machine | None:
    """Look this machine up; None where a part of it cannot be read, or /proc is another namespace's."""
    machine_id, boot = _machine_id(), _boot()
    if machine_id is None or boot is None:
        return None
    key = hashlib.sha256(f"hyperexport owner tag\n{machine_id}\n{boot.id}".encode()).digest()
    return Machine(
        id=_digest(machine_id, "hyperexport machine"),
        boot=_digest(boot.id, "hyperexport boot"),
        namespace=boot.namespace,
        network=boot.network,
        boot_id=boot.id,
        key=key,
    )


class _Boot(NamedTuple):
    id: str
    namespace: str
    network: str


def _boot() -> _Boot | None:
    if not _proc_is_ours():
        return None
    try:
        boot_id = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        namespace = f"{_namespace('pid')}-{_namespace('time', missing='0')}"
        network = _namespace("net")
    except OSError:
        return None
    return _Boot(boot_id, namespace, network) if boot_id else None


def process(pid: int) -> Process | None:
    """Look a process up in /proc; None where it is not shown, for whatever reason."""
    try:
        # The second field, the program's name, may hold anything but ends with the last parenthesis.
        fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
        # A zombie may be the main thread alone: others can still be moving bytes (field 20, num_threads).
        return Process(ticks=int(fields[19]), ended=fields[0] in "ZX" and int(fields[17]) <= 1)
    except (OSError, IndexError, ValueError):
        return None


def identity_of(pid: int) -> ProcessIdentity | None:
    """Identify a process of this machine; None where it is gone (a zombie is), or where the system does not tell."""
    boot, found = _boot(), process(pid)
    if boot is None or found is None or found.ended:
        return None
    return ProcessIdentity(_digest(boot.id, "hyperexport boot"), boot.namespace, found.ticks)


def _machine_id() -> str | None:
    for path in _MACHINE_ID_FILES:
        try:
            text = path.read_text().strip()
        except FileNotFoundError:
            continue
        except (OSError, ValueError):
            return None
        if _MACHINE_ID.fullmatch(text):
            return text
    return None


def _proc_is_ours() -> bool:
    """Tell whether /proc shows this process's own PID namespace, and not one around it."""
    try:
        status = (_PROC / "self/status").read_text(errors="replace")
        if (_PROC / "self").readlink().name != str(os.getpid()):
            return False
    except OSError:
        return False
    numbers = next((line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:")), None)
    return numbers == [str(os.getpid())]


def _namespace(kind: str, *, missing: str | None = None) -> str:
    try:
        return (_PROC / "self/ns" / kind).readlink().name.strip(f"{kind}:[]")
    except FileNotFoundError:
        if missing is None:
            raise
        return missing  # this kernel has none of that kind


def _digest(secret: str, purpose: str) -> str:
    return hmac.new(secret.encode(), purpose.encode(), hashlib.sha256).hexdigest()[:32]
