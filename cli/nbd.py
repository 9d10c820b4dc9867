"""``hyperexport nbd``: disks of an export served read-only until Ctrl-C."""

import shlex
import threading
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from hyperexport.base.text import escape_controls
from hyperexport.base.units import format_bytes
from hyperexport.cli.command import Command
from hyperexport.cli.execution import store_runner
from hyperexport.cli.failures import Failure
from hyperexport.cli.flags import WHAT, CommandLine, Disks, Given, reading_options
from hyperexport.cli.output import Output, key_value
from hyperexport.errors import UsageError
from hyperexport.model.restore_point import RestorePoint

if TYPE_CHECKING:
    from hyperexport.jobs.read import ServedExport

_LAST_PORT: Final = 65_535
_DEVICES: Final = {
    "ParaVirtualSCSI": ("pvscsi", "scsi-hd"),
    "VirtualLsiLogicSAS": ("mptsas1068", "scsi-hd"),
    "VirtualLsiLogic": ("lsi53c895a", "scsi-hd"),
    "VirtualAHCI": ("ich9-ahci", "ide-hd"),
    "VirtualIDE": ("", "ide-hd"),
    "VirtualNVME": ("", "nvme"),
}
"""QEMU's controller and disk device, by the type of the VM's controller."""


@dataclass(frozen=True, kw_only=True)
class ServeNbd(Command):
    """Serve the disks of an export.

    Args:
        wanted: Which export.
        disks: Only the disks with these numbers; all if empty.
        socket: The Unix socket to serve on.
        port: The TCP port to serve on, in place of a socket; 0 for any that is free.
    """

    wanted: RestorePoint
    disks: tuple[int, ...] = ()
    socket: Path | None = None
    port: int | None = None

    def run(self, output: Output) -> list[Failure]:
        """Serve until the user, or SIGTERM, ends it."""
        from hyperexport.jobs.read import served

        run, options = store_runner(self)
        with ExitStack() as stack:
            with output.progress():
                disks = stack.enter_context(
                    served(run, self.wanted, options, disks=self.disks, socket=self.socket, port=self.port)
                )
            with suppress(KeyboardInterrupt):  # Ctrl-C, or SIGTERM: this is how serving ends
                output.say(*(_lines(disks) if output.is_quiet else _words(disks)))
                threading.Event().wait()
        return []


def arguments(
    given: Given,
    wanted: RestorePoint,
    *,
    disk: Disks = (),
    socket: Annotated[
        Path | None,
        Parameter(group=WHAT, metavar="PATH", help="Unix socket for this user only. [default: in a new folder]"),
    ] = None,
    port: Annotated[
        int | None,
        Parameter(group=WHAT, metavar="N", help="Instead, a TCP port of 127.0.0.1, open to every local user; 0: any."),
    ] = None,
) -> ServeNbd:
    """Serve the disks of an export read-only over NBD until Ctrl-C, for qemu, qemu-img, guestfish and nbdcopy.

    Each disk is first read once and proved by its SHA-256; from then on every block is checked before it is sent.
    """
    if socket is not None and port is not None:
        raise UsageError("--socket and --port exclude each other", fix="Choose one")
    if port is not None and not 0 <= port <= _LAST_PORT:
        raise UsageError(f"--port: {port} is not a TCP port", fix=f"Give one from 0 to {_LAST_PORT}")
    return given.command(ServeNbd, wanted=wanted, disks=disk, socket=socket, port=port)


LINE = CommandLine(arguments, reading_options, one_export=True, json=False)


def _words(served: "ServedExport") -> list[str]:
    name = served.export.manifest.vm.name
    return [
        escape_controls(f"Serving {name}, export {served.export.export_id}, read-only. Ctrl-C ends it."),
        *(escape_controls(f"  {disk.name}  {format_bytes(disk.capacity)}  {disk.uri}") for disk in served.disks),
        "Boot it without a restore; what the guest writes is discarded (EFI firmware: add -bios OVMF.fd):",
        f"  {_qemu(served)}",
    ]


def _lines(served: "ServedExport") -> list[str]:
    lines = [key_value("vm", served.export.manifest.vm.name), key_value("export", served.export.export_id)]
    for number, disk in enumerate(served.disks, start=1):
        suffix = "" if number == 1 else f"_{number}"
        lines += [key_value(f"disk{suffix}", disk.name), key_value(f"uri{suffix}", disk.uri)]
    return [*lines, key_value("qemu", _qemu(served))]


def _qemu(served: "ServedExport") -> str:
    """A command that boots from the disks, on the controllers that the VM had, without a network."""
    words = ["qemu-system-x86_64", "-m", "2048", "-nic", "none"]
    made: set[str] = set()
    for disk in served.disks:
        controller, device = _device_of(disk.controller or "")
        if controller and controller not in made:
            words += ["-device", f"{controller},id={controller}"]
            made.add(controller)
        name = f"d{disk.number}"
        words += ["-drive", f"id={name},if=none,format=raw,snapshot=on,file={disk.uri.replace(',', ',,')}"]
        words += ["-device", f"{device},drive={name}{f',serial={name}' if device == 'nvme' else ''}"]
    return shlex.join(words)


def _device_of(controller: str) -> tuple[str, str]:
    """QEMU's devices for a disk's controller (none where its board has it) and for the disk."""
    return next(
        (devices for kind, devices in _DEVICES.items() if controller.startswith(kind)), _DEVICES["ParaVirtualSCSI"]
    )
