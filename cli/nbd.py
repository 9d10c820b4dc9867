"""``hyperexport nbd``: disks of an export served read-only until Ctrl-C."""

import shlex
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from hyperexport.base.text import visible
from hyperexport.base.units import format_bytes
from hyperexport.cli.flags import WHAT, Asked
from hyperexport.cli.output import Output
from hyperexport.cli.reading import At, Export, Vm, key_value, reading_of, restore_point
from hyperexport.cli.request import Mode, Reading, Request
from hyperexport.errors import UsageError

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


def arguments(
    asked: Asked,
    export: Export = None,
    /,
    *,
    vm: Vm = None,
    at: At = None,
    disk: Annotated[
        tuple[int, ...],
        Parameter(name="--disk", group=WHAT, metavar="N", help="Only this disk, from 0; repeatable. [default: all]"),
    ] = (),
    socket: Annotated[
        Path | None,
        Parameter(group=WHAT, metavar="PATH", help="Unix socket for this user only. [default: in a new folder]"),
    ] = None,
    port: Annotated[
        int | None,
        Parameter(group=WHAT, metavar="N", help="Instead, a TCP port of 127.0.0.1, open to every local user; 0: any."),
    ] = None,
) -> Request:
    """Serve the disks of an export read-only over NBD until Ctrl-C, for qemu, qemu-img, guestfish and nbdcopy.

    Each disk is first read once and proved by its SHA-256; from then on every block is checked before it is sent.
    """
    if socket is not None and port is not None:
        raise UsageError("--socket and --port exclude each other", fix="Choose one")
    if port is not None and not 0 <= port <= _LAST_PORT:
        raise UsageError(f"--port: {port} is not a TCP port", fix=f"Give one from 0 to {_LAST_PORT}")
    reading = Reading(restore_point(export, vm, at), disks=disk, socket=socket, port=port)
    return asked.request(Mode.NBD, reading=reading)


def perform(request: Request, output: Output) -> None:
    """Serve until the user, or SIGTERM, ends it."""
    from hyperexport.cli import jobs

    with ExitStack() as stack:
        with output.progress():
            served = stack.enter_context(jobs.serve_disks(request, reading_of(request)))
        with suppress(KeyboardInterrupt):  # Ctrl-C, or SIGTERM: this is how serving ends
            output.say(*(_lines(served) if output.is_quiet else _words(served)))
            threading.Event().wait()


def _words(served: "ServedExport") -> list[str]:
    name = served.export.manifest.vm.name
    return [
        visible(f"Serving {name}, export {served.export.export_id}, read-only. Ctrl-C ends it."),
        *(visible(f"  {disk.name}  {format_bytes(disk.capacity)}  {disk.uri}") for disk in served.disks),
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
