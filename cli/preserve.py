"""``hyperexport preserve``: mark exports that no cleanup deletes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console

from hyperexport.cli.command import Command
from hyperexport.cli.execution import store_runner
from hyperexport.cli.failures import Failure
from hyperexport.cli.flags import WHAT, CommandLine, Given, store_options
from hyperexport.cli.output import Output, key_value, say
from hyperexport.errors import UsageError

if TYPE_CHECKING:
    from hyperexport.store.base import StoredExport


@dataclass(frozen=True, kw_only=True)
class Preserve(Command):
    """Mark these exports as preserved, or with ``on`` false take the mark away."""

    exports: tuple[str, ...]
    on: bool = True

    def run(self, output: Output) -> list[Failure]:
        """Set or take away the mark, in every store that holds the export."""
        from hyperexport.jobs.preserve import preserve

        output.nothing("preserved")
        run, options = store_runner(self)
        for store, export in preserve(run, self.exports, options, on=self.on):
            output.answer(
                "preserved",
                pretty=lambda console, url=store.url, export=export: show_preserved(console, url, export),
                quiet=preserved_lines(store.url, export),
                document={"store": store.url, "export": str(export), "preserved": export.manifest.preserve},
            )
        return []


def arguments(
    given: Given,
    *exports: Annotated[str, Parameter(name="EXPORT", help="An export's id or path, as hyperexport list shows it.")],
    off: Annotated[bool, Parameter(group=WHAT, negative=(), help="Remove the mark.")] = False,
) -> Preserve:
    """Mark exports as preserved, wherever they are stored: no cleanup deletes them."""
    if not exports:
        raise UsageError("no export is named", fix="Name one as hyperexport list shows it")
    return given.command(Preserve, exports=exports, on=not off)


LINE = CommandLine(arguments, store_options)


def show_preserved(console: Console, store: str, export: "StoredExport") -> None:
    """Say whether cleanups now spare an export."""
    words = "preserved: no cleanup deletes it" if export.manifest.preserve else "no longer preserved"
    say(console, f"{store}/{export}: {words}")


def preserved_lines(store: str, export: "StoredExport") -> list[str]:
    """An export that was marked as preserved, or is so no longer."""
    return [key_value("store", store), key_value("export", export), key_value("preserved", export.manifest.preserve)]
