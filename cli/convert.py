"""``hyperexport convert``: an export as disk images, or as a self-contained OVF package or OVA."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from rich.console import Console

from hyperexport.base.units import format_bytes, format_elapsed
from hyperexport.cli.flags import WHAT, Asked
from hyperexport.cli.output import Output
from hyperexport.cli.reading import At, Export, Vm, key_value, reading_of, restore_point, say
from hyperexport.cli.request import Mode, Reading, Request

if TYPE_CHECKING:
    from hyperexport.convert import Conversion

Format = Literal["raw", "qcow2", "vhdx", "vmdk", "ovf", "ova"]


def arguments(
    asked: Asked,
    export: Export = None,
    /,
    *,
    to: Annotated[
        Format,
        Parameter(
            group=WHAT,
            metavar="raw|qcow2|vhdx|vmdk|ovf|ova",
            show_choices=False,
            help="Format: one image for each disk, or a whole OVF package or OVA.",
        ),
    ],
    into: Annotated[Path, Parameter(group=WHAT, metavar="DIR", help="Folder for the files; created if missing.")],
    vm: Vm = None,
    at: At = None,
    disk: Annotated[
        tuple[int, ...],
        Parameter(name="--disk", group=WHAT, metavar="N", help="Only this disk, from 0; repeatable. [default: all]"),
    ] = (),
    libvirt: Annotated[
        bool, Parameter(group=WHAT, negative=(), help="Also write a libvirt domain definition for virsh define.")
    ] = False,
) -> Request:
    """Convert an export to disk images for KVM, Proxmox, Hyper-V or a cloud, or to a self-contained OVF or OVA.

    Every byte is proved before a file gets its name; a file that exists is never overwritten.
    """
    reading = Reading(restore_point(export, vm, at), disks=disk, to=to, into=into, libvirt=libvirt)
    return asked.request(Mode.CONVERT, reading=reading)


def perform(request: Request, output: Output) -> None:
    """Convert the export, and show the files."""
    from hyperexport.cli import jobs

    output.nothing("conversions")
    with output.progress():
        result = jobs.convert_export(request, reading_of(request))
    output.answer(
        "conversions",
        pretty=lambda console: _show(console, result),
        quiet=_lines(result),
        document=result.model_dump(mode="json"),
    )


def _show(console: Console, result: "Conversion") -> None:
    done = "Would convert" if result.dry_run else "Converted"
    took = "" if result.dry_run else f" in {format_elapsed(result.seconds)}"
    say(console, f"{done} {result.vm.name}, export {result.export_id}, to {result.to}{took}:")
    for file in result.files:
        most = "at most " if result.dry_run else ""
        say(console, f"  {file.path}  ({format_bytes(file.size)}, {most}{format_bytes(file.allocated)} on disk)")
    for warning in result.warnings:
        say(console, f"  Note: {warning}")


def _lines(result: "Conversion") -> list[str]:
    lines = [
        key_value("vm", result.vm.name),
        key_value("export", result.export_id),
        key_value("to", result.to),
        key_value("dry_run", result.dry_run),
    ]
    for number, file in enumerate(result.files, start=1):
        suffix = "" if number == 1 else f"_{number}"
        lines += [key_value(f"file{suffix}", file.path), key_value(f"size{suffix}", file.size)]
    lines += [key_value("warning", warning) for warning in result.warnings[:1]]
    lines += [key_value(f"warning_{number}", warning) for number, warning in enumerate(result.warnings[1:], start=2)]
    return lines
