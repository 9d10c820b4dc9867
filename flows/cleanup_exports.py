"""The flow that deletes old exports."""

from typing import Annotated

from prefect import flow
from prefect.runtime import flow_run

from hyperexport.base.display import Listing
from hyperexport.flows.connections import OPTIONS, Profile, options_in_force, s3_settings, stop_signal
from hyperexport.flows.outcome import told_in_words
from hyperexport.options.form import Shown
from hyperexport.options.precedence import ExportOptions
from hyperexport.results import CleanupResult
from hyperexport.steps.stores import open_stores
from hyperexport.tasks.artifacts import artifact_key, show_markdown
from hyperexport.tasks.cleanup import clean_up
from hyperexport.transfer.bandwidth.throttle import Throttle
from hyperexport.views.summary import cleanup_markdown


def _run_name() -> str:
    options = ExportOptions.model_validate(flow_run.parameters["options"])
    return "clean up (dry run)" if options.cleanup.dry_run or options.execution.dry_run else "clean up"


@flow(name="cleanup-exports", flow_run_name=_run_name, persist_result=False)
@told_in_words
def cleanup_exports(
    options: Annotated[ExportOptions, Shown("destination", "cleanup")] = OPTIONS,
    profile: Profile = None,
) -> Listing[CleanupResult]:
    """Delete the exports that the limits give up, in the local store and in S3.

    Never deleted: the newest export of each VM, what is preserved, and what a kept export refers to.

    Args:
        options: Where the exports are, and the limits. What is not set comes from the environment, the
            profile, the defaults.
        profile: A saved export profile, or its name.

    Raises:
        StoreUnusable, StoreUnreachable: A store could not be listed; nothing was deleted in it.
    """
    options = options_in_force(options, profile)
    with stop_signal() as stop:
        stores = open_stores(
            options.destination, throttle=Throttle(None), stop=stop, s3=s3_settings(options.destination)
        )
        done = Listing(clean_up(store, options.cleanup, options.execution.dry_run) for store in stores)
    for result in done:
        show_markdown(artifact_key("cleanup"), cleanup_markdown(result), f"Cleanup of {result.store}")
    return done
