"""What is asked about exports that are stored: which there are, whether they are sound, which are to stay.

Listing and marking need no Prefect, unless a saved block or a profile is named.
"""

from collections.abc import Sequence

from hyperexport.base.stop import StopSignal
from hyperexport.cli import quiet, tables
from hyperexport.cli.output import Output
from hyperexport.cli.profiles import options_of_profile
from hyperexport.cli.progress_view import showing_progress
from hyperexport.cli.request import Request
from hyperexport.errors import VerificationFailed
from hyperexport.options.environment import warn_of_unknown_variables
from hyperexport.options.groups import Destination
from hyperexport.options.precedence import resolve
from hyperexport.results import StoreContents, VerifiedExport
from hyperexport.steps import preservation
from hyperexport.steps.stores import open_stores
from hyperexport.store.base import Store
from hyperexport.store.s3_settings import S3Settings
from hyperexport.transfer.bandwidth.throttle import Throttle


def list_exports(request: Request, output: Output) -> None:
    """Show what the stores hold, also what cannot be read."""
    output.nothing("stores")
    for store in stores_of(request):
        listing = store.listing()
        contents = StoreContents(store=store.url, exports=listing.exports)
        added, shared = contents.added_bytes, contents.shared_with
        output.answer(
            "stores",
            pretty=lambda console, url=store.url, listing=listing: tables.show_stored(console, url, listing),
            quiet=quiet.stored_lines(store.url, listing),
            document={
                "store": store.url,
                "stored_bytes": contents.stored_bytes,
                "exports": [
                    {
                        **export.manifest.model_dump(mode="json"),
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
    for store, export in preservation.preserve(stores_of(request), request.exports, on=request.preserving):
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
    from hyperexport.flows import verify_exports

    output.nothing("verified")
    try:
        with showing_progress(output.errors, quiet=output.is_quiet):
            verified = verify_exports(list(request.exports), request.options, profile=request.profile)
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


def stores_of(request: Request) -> tuple[Store, ...]:
    """Open the stores that the request, the environment and the profile name."""
    warn_of_unknown_variables()
    profile = options_of_profile(request.profile) if request.profile else None
    destination = resolve(request.options, profile=profile).options.destination
    return open_stores(destination, throttle=Throttle(None), stop=StopSignal(), s3=_s3_settings(destination))


def _s3_settings(destination: Destination) -> S3Settings | None:
    if destination.s3_credentials is None:
        return None
    from hyperexport.flows.connections import s3_settings

    return s3_settings(destination)
