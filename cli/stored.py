"""What is asked about exports that are stored: which there are, whether they are sound, which are to stay.

Listing and marking need no Prefect, unless a saved block or a profile is named.
"""

from collections.abc import Sequence

from hyperexport.cli import jobs, quiet, tables
from hyperexport.cli.output import Output
from hyperexport.cli.request import Request
from hyperexport.errors import VerificationFailed
from hyperexport.model.manifest import short_id
from hyperexport.results import VerifiedExport
from hyperexport.store.listing import StoreListing


def list_exports(request: Request, output: Output) -> None:
    """Show what the stores hold, also what cannot be read."""
    output.nothing("stores")
    for found in jobs.list_exports(request):
        listing = StoreListing(exports=found.exports, damaged=found.damaged)
        added, shared = found.added_bytes, found.shared_with
        output.answer(
            "stores",
            pretty=lambda console, url=found.store, listing=listing: tables.show_stored(console, url, listing),
            quiet=quiet.stored_lines(found.store, listing),
            document={
                "store": found.store,
                "stored_bytes": found.stored_bytes,
                "exports": [
                    {
                        **export.manifest.model_dump(mode="json"),
                        "id": short_id(str(export)),
                        "stored_bytes": added[str(export)],
                        "shares_with": list(shared[str(export)]),
                    }
                    for export in listing.exports
                ],
                "unreadable": [str(one) for one in listing.damaged],
                "damaged": [one.model_dump(mode="json") for one in listing.damaged],
            },
        )


def preserve(request: Request, output: Output) -> None:
    """Set or take away the mark of preservation, in every store that holds the export."""
    output.nothing("preserved")
    for store, export in jobs.preserve(request):
        output.answer(
            "preserved",
            pretty=lambda console, url=store.url, export=export: tables.show_preserved(console, url, export),
            quiet=quiet.preserved_lines(store.url, export),
            document={"store": store.url, "export": str(export), "preserved": export.manifest.preserve},
        )


def verify(request: Request, output: Output) -> None:
    """Have exports verified; where some are damaged, every one is shown all the same.

    Raises:
        VerificationFailed: Some are damaged.
    """
    output.nothing("verified")
    try:
        with output.progress():
            verified = jobs.verify_exports(request)
    except VerificationFailed as error:
        _show_verified(error.exports, output)
        raise
    _show_verified(verified, output)


def _show_verified(exports: Sequence[VerifiedExport], output: Output) -> None:
    for export in exports:
        output.answer(
            "verified",
            pretty=lambda console, export=export: tables.show_verified(console, export),
            quiet=quiet.verified_lines(export),
            document=export.model_dump(mode="json"),
        )
