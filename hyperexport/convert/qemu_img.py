"""Formats that qemu-img writes: it reads the disk from our own NBD server, so no raw copy is made on the way."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

from hyperexport.base.stop import StopSignal
from hyperexport.convert.values import Target
from hyperexport.errors import ConversionFailed, DiskFull, ToolMissing
from hyperexport.images.disk import Disk
from hyperexport.nbd.server import NbdServer, socket_folder

_OPTIONS: Final = {
    Target.QCOW2: "compat=1.1",
    Target.VHDX: "subformat=dynamic",
    Target.VMDK: "subformat=monolithicSparse",
}


def find_qemu_img() -> str:
    """The program's path.

    Raises:
        ToolMissing: It is not installed.
    """
    found = shutil.which("qemu-img")
    if found is None:
        raise ToolMissing(
            "qemu-img is not installed; qcow2, vhdx and vmdk are written by it",
            fix="Install qemu-utils (Debian, Ubuntu) or qemu-img (Red Hat, SUSE), or convert to raw",
        )
    return found


def write_with_qemu_img(
    disk: Disk, path: Path, to: Target, *, stop: StopSignal, progress: Callable[[int], None] | None = None
) -> None:
    """Have qemu-img write a disk into a file that is there and empty.

    Args:
        disk: The disk; each block is proved before qemu-img is given it.
        path: The file.
        to: In which format.
        stop: Ends the program.
        progress: Called with how many of the guest's bytes were read so far.

    Raises:
        VerificationFailed: A file of the disk is damaged.
        ConversionFailed: qemu-img failed; the message has its words.
        ToolMissing: It is not installed.
        UsageError: No temporary folder can be made.
    """
    program = find_qemu_img()
    read = 0

    def count(length: int) -> None:
        nonlocal read
        read += length
        if progress is not None:
            progress(read)

    with socket_folder() as folder, NbdServer({"disk": disk}, socket_path=folder / "disk", on_read=count) as server:
        command = [program, "convert", "-f", "raw", "-O", to.value, "-o", _OPTIONS[to], server.uri(), str(path)]
        code, said = _run(command, stop)
    if server.error is not None:
        raise server.error
    stop.check()
    if code:
        failed = DiskFull if "No space left" in said else ConversionFailed
        raise failed(f"qemu-img could not write {path}: {said or f'it ended with {code}'}")


def _run(command: list[str], stop: StopSignal) -> tuple[int, str]:
    """Run a program to its end; returns its exit code and what it said.

    Raises:
        ConversionFailed: It could not be started.
    """
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    try:
        process = subprocess.Popen(command, stdin=null, stdout=null, stderr=pipe, text=True, errors="replace")
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConversionFailed(f"qemu-img could not be started: {reason}", fix=f"Check {command[0]}") from error
    with process:
        try:
            with stop.waking(process.terminate):
                _, said = process.communicate()
        except BaseException:
            process.kill()
            raise
    return process.returncode, said.strip()
