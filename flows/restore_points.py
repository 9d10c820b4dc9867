"""The flow that lists what can be restored, for people and for the form that picks a restore point. To be scheduled."""

from typing import Annotated, Unpack

from hyperexport.base.display import Listing
from hyperexport.flows.job_flow import job_flow
from hyperexport.flows.runtime import OPTIONS, Profile, options_in_force, runner_for
from hyperexport.jobs import restore_points as job
from hyperexport.options.form import Shown
from hyperexport.options.keywords import OptionKeywords
from hyperexport.options.precedence import ExportOptions


@job_flow("restore-points", "restore points".format_map)
def restore_points(
    options: Annotated[ExportOptions, Shown("destination")] = OPTIONS,
    profile: Profile = None,
    **_: Unpack[OptionKeywords],
) -> Listing[job.OfferedPoint]:
    """List the good exports of the stores as a table, and in the form of restore-vm/restore-from-list.

    Args:
        options: Where the exports are. What is not set comes from the environment, the profile, the defaults.
        profile: A saved export profile, or its name.

    Returns:
        The restore points, newest first.

    Raises:
        StoreUnusable, StoreUnreachable: A store could not be listed; what was offered before stays.
    """
    return job.restore_points(runner_for(), options_in_force(options, profile))
