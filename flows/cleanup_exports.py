"""The flow that deletes old exports."""

from collections.abc import Mapping
from typing import Annotated, Any, Unpack

from hyperexport.base.display import Listing
from hyperexport.flows.job_flow import job_flow
from hyperexport.flows.runtime import OPTIONS, Profile, options_in_force, runner_for
from hyperexport.jobs import cleanup
from hyperexport.options.form import Shown
from hyperexport.options.keywords import OptionKeywords
from hyperexport.options.precedence import ExportOptions
from hyperexport.results import CleanupResult


def _run_name(parameters: Mapping[str, Any]) -> str:
    options = ExportOptions.model_validate(parameters["options"])
    return "clean up (dry run)" if options.cleanup.dry_run or options.execution.dry_run else "clean up"


@job_flow("cleanup-exports", _run_name)
def cleanup_exports(
    options: Annotated[ExportOptions, Shown("destination", "cleanup")] = OPTIONS,
    profile: Profile = None,
    **_: Unpack[OptionKeywords],
) -> Listing[CleanupResult]:
    """Delete the exports that the limits give up, in the local store and in S3.

    Never deleted: the newest export of each VM, what is preserved, and what a kept export refers to.

    Args:
        options: Where the exports are, and the limits. What is not set comes from the environment, the
            profile, the defaults.
        profile: A saved export profile, or its name.

    Returns:
        What was deleted in each store, or in a dry run would be.

    Raises:
        StoreUnusable, StoreUnreachable: A store could not be listed; nothing was deleted in it.
    """
    return cleanup.cleanup_exports(runner_for(), options_in_force(options, profile))
