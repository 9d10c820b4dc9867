"""``hyperexport files``: files of the guest, listed and extracted from an export."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console

from hyperexport.base.units import format_bytes
from hyperexport.cli.command import Command
from hyperexport.cli.execution import store_runner
from hyperexport.cli.failures import Failure
from hyperexport.cli.flags import WHAT, At, CommandLine, Given, Vm, reading_options, restore_point
from hyperexport.cli.output import Output, pair_lines, say
from hyperexport.errors import UsageError
from hyperexport.model.restore_point import RestorePoint

if TYPE_CHECKING:
    from hyperexport.files.extraction import Extracted
    from hyperexport.files.guest import GuestEntry, VolumeInfo


@dataclass(frozen=True, kw_only=True)
class GuestFiles(Command):
    """List or extract files of the guest.

    Args:
        wanted: Which export.
        path: The folder or file to list; the volumes if None.
        get: Files and folders to extract.
        into: The folder for what is extracted.
    """

    wanted: RestorePoint
    path: str | None = None
    get: tuple[str, ...] = ()
    into: Path | None = None

    def run(self, output: Output) -> list[Failure]:
        """List volumes or a folder, or extract."""
        if self.into is not None:
            self._extract(output, self.into)
        elif self.path is None:
            self._list_volumes(output)
        else:
            self._list_files(output, self.path)
        return []

    def _extract(self, output: Output, into: Path) -> None:
        from hyperexport.jobs.read import extract_files

        output.nothing("extracted")
        run, options = store_runner(self)
        with output.progress():
            extracted = extract_files(run, self.wanted, options, self.get, into)
        for each in extracted:
            document = {**asdict(each), "path": str(each.path)}
            output.answer("extracted", pretty=_showing(*_extracted(each)), quiet=pair_lines(each), document=document)

    def _list_volumes(self, output: Output) -> None:
        from hyperexport.jobs.read import list_volumes

        output.nothing("volumes")
        run, options = store_runner(self)
        with output.progress():
            volumes = list_volumes(run, self.wanted, options)
        for each in volumes:
            document = each.model_dump(mode="json")
            output.answer("volumes", pretty=_showing(_volume(each)), quiet=pair_lines(each), document=document)

    def _list_files(self, output: Output, path: str) -> None:
        from hyperexport.jobs.read import list_files

        output.nothing("files")
        run, options = store_runner(self)
        with output.progress():
            found = list_files(run, self.wanted, options, path)
        for each in found:
            document = each.model_dump(mode="json")
            output.answer("files", pretty=_showing(_entry(each)), quiet=pair_lines(each), document=document)


def arguments(
    given: Given,
    *words: Annotated[
        str,
        Parameter(
            name="EXPORT PATH",
            help="An export's id or path, as hyperexport list shows it, unless --vm names it; then the folder of the "
            "guest to list, such as /disk0p1/etc. Without one the volumes are listed.",
        ),
    ],
    vm: Vm = None,
    at: At = None,
    get: Annotated[
        tuple[str, ...],
        Parameter(group=WHAT, metavar="PATH", help="Extract this file or folder of the guest; repeatable."),
    ] = (),
    into: Annotated[Path | None, Parameter(group=WHAT, metavar="DIR", help="Folder for what is extracted.")] = None,
) -> GuestFiles:
    """List or extract files of the guest from an export, without a restore and without root.

    Needs pip install 'hyperexport[files]'. Each disk is first read once and proved by its SHA-256.
    """
    export, paths = (None, words) if vm is not None else (words[0] if words else None, words[1:])
    if len(paths) > 1:
        raise UsageError(f"files lists one path at a time, and {len(paths)} were given", fix="Leave the others out")
    if get and paths:
        raise UsageError("--get extracts, so there is no path to list", fix=f"Leave out {paths[0]}")
    if bool(get) != (into is not None):
        raise UsageError("--get and --into belong together", fix="Give both: --get /disk0p1/etc --into DIR")
    path = paths[0] if paths else None
    return given.command(GuestFiles, wanted=restore_point(export, vm, at), path=path, get=get, into=into)


LINE = CommandLine(arguments, reading_options)


def _showing(*lines: str) -> Callable[[Console], None]:
    def show(console: Console) -> None:
        for line in lines:
            say(console, line)

    return show


def _volume(volume: "VolumeInfo") -> str:
    return f"{volume.name:<16} {volume.filesystem or 'not readable':<12} {format_bytes(volume.size):>10}"


def _entry(entry: "GuestEntry") -> str:
    size = format_bytes(entry.size) if entry.kind == "file" else ""
    modified = f"{entry.modified:%Y-%m-%d %H:%M}" if entry.modified else ""
    target = f" -> {entry.target}" if entry.target else ""
    return f"{entry.kind:<6} {size:>10}  {modified:<16}  {entry.path}{target}"


def _extracted(result: "Extracted") -> list[str]:
    files = "1 file" if result.files == 1 else f"{result.files} files"
    return [f"{result.path}: {files}, {format_bytes(result.bytes)}", *(f"  left out: {one}" for one in result.skipped)]
