"""``hyperexport list``: the exports that the stores hold."""

from functools import partial
from typing import TYPE_CHECKING

from hyperexport.cli.command import Command
from hyperexport.cli.execution import store_runner
from hyperexport.cli.failures import Failure
from hyperexport.cli.flags import CommandLine, Given, store_options
from hyperexport.cli.output import Output, pair_lines, show

if TYPE_CHECKING:
    from hyperexport.store.contents import StoreContents


class ListExports(Command):
    """Show what the stores hold."""

    def run(self, output: Output) -> list[Failure]:
        """Show what the stores hold, also what cannot be read."""
        import hyperexport.views.stored  # noqa: F401  # pyright: ignore[reportUnusedImport] - registers page and pairs
        from hyperexport.jobs.list import list_exports

        output.nothing("stores")
        for found in list_exports(*store_runner(self)):
            output.answer(
                "stores",
                pretty=lambda console, found=found: show(console, found),
                quiet=partial(pair_lines, found),
                document=partial(_document, found),
            )
        return []


def arguments(given: Given) -> ListExports:
    """Show the exports that the local store and, with --upload, the bucket hold."""
    return given.command(ListExports)


LINE = CommandLine(arguments, store_options)


def _document(found: "StoreContents") -> dict[str, object]:
    from hyperexport.model.manifest import short_id

    added, shared = found.added_bytes, found.shared_with
    return {
        "store": found.store,
        "stored_bytes": found.stored_bytes,
        "exports": [
            {
                **export.manifest.model_dump(mode="json"),
                "id": short_id(str(export)),
                "stored_bytes": added[str(export)],
                "shares_with": list(shared[str(export)]),
                "drilled": time.isoformat() if (time := found.drilled.get(str(export))) else None,
            }
            for export in found.exports
        ],
        "unreadable": [str(one) for one in found.damaged],
        "damaged": [one.model_dump(mode="json") for one in found.damaged],
    }
