"""The job that deletes old exports."""

from hyperexport.base.display import Listing
from hyperexport.jobs.runner import StepRunner
from hyperexport.options.precedence import ExportOptions
from hyperexport.results import CleanupResult
from hyperexport.steps import cleanup
from hyperexport.steps.stores import open_stores


def cleanup_exports(run: StepRunner, options: ExportOptions) -> Listing[CleanupResult]:
    """Delete the exports that the limits give up, in every store that the options name.

    Raises:
        StoreUnusable, StoreUnreachable: A store could not be listed; nothing was deleted in it.
    """
    run.check_options(options)
    place, dry_run = options.destination, options.execution.dry_run
    with run.stop_signal() as stop:
        stores = open_stores(place, stop=stop, s3=run.s3_settings(place))
        done = Listing(
            run(cleanup.clean_up_store, store, options.cleanup, dry_run, cleanup.STANDALONE, run.is_over, run=run.id)
            for store in stores
        )

    for result in done:
        run.show_result(("cleanup",), result, f"Cleanup of {result.store}")
    return done
