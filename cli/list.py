"""``hyperexport list``: the exports that the stores hold."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console

from hyperexport.cli.command import Command
from hyperexport.cli.execution import store_runner
from hyperexport.cli.failures import Failure
from hyperexport.cli.flags import CommandLine, Given, store_options
from hyperexport.cli.output import Output, key_value, numbered, show

if TYPE_CHECKING:
    from hyperexport.model.damaged import DamagedExport
    from hyperexport.store.base import StoredExport
    from hyperexport.store.contents import StoreContents


class ListExports(Command):
    """Show what the stores hold."""

    def run(self, output: Output) -> list[Failure]:
        """Show what the stores hold, also what cannot be read."""
        from hyperexport.jobs.list import list_exports

        output.nothing("stores")
        for found in list_exports(*store_runner(self)):
            output.answer(
                "stores",
                pretty=partial(show_stored, found=found),
                quiet=partial(stored_lines, found),
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


def show_stored(console: Console, found: "StoreContents") -> None:
    """Show the exports that a store holds, and what cannot be relied on last."""
    import hyperexport.views.stored  # noqa: F401  # pyright: ignore[reportUnusedImport] - registers the page

    show(console, found)


def stored_lines(found: "StoreContents") -> list[str]:
    """What a store holds: a block for each export, with an empty line between them."""
    added, shared = found.added_bytes, found.shared_with
    blocks = [_stored(found, export, added[str(export)], shared[str(export)]) for export in found.exports]
    blocks += [damaged_lines(found.store, one) for one in found.damaged]
    return [line for block in blocks for line in ("", *block)][1:]


def _stored(found: "StoreContents", export: "StoredExport", added: int, shared: Sequence[str]) -> list[str]:
    from hyperexport.model.history import is_of_the_future
    from hyperexport.model.manifest import short_id

    manifest = export.manifest
    return [
        key_value("store", found.store),
        key_value("vm", manifest.vm.name),
        key_value("path", manifest.vm.path),
        key_value("export", export),
        key_value("id", short_id(str(export))),
        key_value("started", manifest.started.isoformat()),
        key_value("kind", manifest.kind),
        *([key_value("deltas", manifest.deltas)] if manifest.deltas else []),
        *([key_value("synthetic", True)] if manifest.is_synthetic else []),
        key_value("stored_bytes", added),
        key_value("bytes_transferred", manifest.transfer.bytes_transferred),
        key_value("verified", manifest.verified.isoformat() if manifest.verified else ""),
        key_value("drilled", time.isoformat() if (time := found.drilled.get(str(export))) else ""),
        key_value("preserved", manifest.preserve),
        *numbered("shares_with", shared),
        *([key_value("in_future", True)] if is_of_the_future(manifest, datetime.now(UTC)) else []),
        *numbered("damage", manifest.damage),
    ]


def damaged_lines(store: str, damaged: "DamagedExport") -> list[str]:
    """An export, or a VM's folder, that cannot be relied on."""
    return [
        key_value("store", store),
        key_value("export", damaged),
        key_value("damage", damaged.reason),
        key_value("problem", damaged.problem),
    ]
