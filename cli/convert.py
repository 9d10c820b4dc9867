"""``hyperexport convert``: an export as disk images, or as a self-contained OVF package or OVA."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from hyperexport.cli.command import Command
from hyperexport.cli.execution import direct_runner, options_in_force, uses_prefect
from hyperexport.cli.failures import Failure
from hyperexport.cli.flags import WHAT, CommandLine, Disks, Given, dry_run_option, reading_options
from hyperexport.cli.output import Output
from hyperexport.model.restore_point import RestorePoint

if TYPE_CHECKING:
    from hyperexport.convert.values import Conversion

Format = Literal["raw", "qcow2", "vhdx", "vmdk", "ovf", "ova"]


@dataclass(frozen=True, kw_only=True)
class Convert(Command):
    """Convert an export.

    Args:
        wanted: Which export.
        to: The format.
        into: The folder for the files.
        disks: Only the disks with these numbers; all if empty.
        libvirt: Also write a libvirt domain definition.
    """

    wanted: RestorePoint
    to: str
    into: Path
    disks: tuple[int, ...] = ()
    libvirt: bool = False

    def run(self, output: Output) -> list[Failure]:
        """Convert the export, and show the files."""
        import hyperexport.views.conversions  # noqa: F401  # pyright: ignore[reportUnusedImport] - registers the page

        output.nothing("conversions")
        with output.progress():
            result = self._convert()
        output.result("conversions", result)
        return []

    def _convert(self) -> "Conversion":
        from hyperexport.convert.values import Target

        to, into = Target(self.to), self.into.absolute()
        if uses_prefect(self):
            from hyperexport.flows import convert_export

            return convert_export(
                self.wanted.export or "",
                self.wanted.vm or "",
                self.wanted.at,
                to=to,
                into=into,
                disks=list(self.disks),
                libvirt=self.libvirt,
                options=self.options,
                profile=self.profile,
            )
        from hyperexport.jobs.convert import convert_export

        options = options_in_force(self)
        return convert_export(
            direct_runner(self), self.wanted, options, to=to, into=into, disks=self.disks, libvirt=self.libvirt
        )


def arguments(
    given: Given,
    wanted: RestorePoint,
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
    disk: Disks = (),
    libvirt: Annotated[
        bool, Parameter(group=WHAT, negative=(), help="Also write a libvirt domain definition for virsh define.")
    ] = False,
) -> Convert:
    """Convert an export to disk images for KVM, Hyper-V or a cloud, or to a self-contained OVF or OVA.

    Every byte is proved before a file gets its name; a file that exists is never overwritten.
    """
    return given.command(Convert, wanted=wanted, to=to, into=into, disks=disk, libvirt=libvirt)


LINE = CommandLine(arguments, lambda: (*reading_options(), *dry_run_option()), one_export=True)
