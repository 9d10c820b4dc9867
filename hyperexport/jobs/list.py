"""The job that lists what stores hold."""

from collections.abc import Iterator

from hyperexport.base.stop import StopSignal
from hyperexport.jobs.runner import StepRunner
from hyperexport.options.precedence import ExportOptions
from hyperexport.steps.stores import open_stores
from hyperexport.store.base import Store
from hyperexport.store.contents import StoreContents
from hyperexport.store.records import drills_of, proved_drills


def stores_of(run: StepRunner, options: ExportOptions) -> tuple[Store, ...]:
    """Open the stores that the options name, to look at; nothing is touched yet."""
    run.check_options(options)
    place = options.destination
    return open_stores(place, stop=StopSignal(), s3=run.s3_settings(place))


def list_exports(run: StepRunner, options: ExportOptions) -> Iterator[StoreContents]:
    """Read what each store holds, from its manifests, one store after the other.

    Raises:
        StoreUnusable, StoreUnreachable: A store could not be listed.
    """
    return (read_store(store) for store in stores_of(run, options))


def read_store(store: Store) -> StoreContents:
    """Read what one store holds."""
    listing = store.listing()
    drills = proved_drills(store.records(listing))
    drilled = {
        str(export): max(passed)
        for export in listing.exports
        if (passed := [drill.started for drill in drills_of(export, drills) if drill.passed])
    }
    return StoreContents(store=store.url, exports=listing.exports, damaged=listing.damaged, drilled=drilled)
