"""The flow that proves stored exports again, long after they were made."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Unpack

from pydantic import Field

from hyperexport.base.display import Listing
from hyperexport.flows.job_flow import job_flow
from hyperexport.flows.runtime import OPTIONS, Profile, options_in_force, runner_for
from hyperexport.jobs import verify
from hyperexport.options.form import Shown
from hyperexport.options.keywords import OptionKeywords
from hyperexport.options.precedence import ExportOptions
from hyperexport.results import VerifiedExport


def _run_name(parameters: Mapping[str, Any]) -> str:
    exports = parameters["exports"] or ()
    return (
        f"verify {len(exports)} exports" if len(exports) > 1 else f"verify {exports[0] if exports else 'all exports'}"
    )


@job_flow("verify-exports", _run_name)
def verify_exports(
    exports: list[str] | None = None,
    options: Annotated[ExportOptions, Shown("destination", "bandwidth", "execution")] = OPTIONS,
    profile: Profile = None,
    sample_days: Annotated[float, Field(ge=1)] | None = None,
    **_: Unpack[OptionKeywords],
) -> Listing[VerifiedExport]:
    """Read stored exports back and prove them, in the local store and in S3.

    Args:
        exports: Export ids, or paths that end in them. Every export of the store if empty.
        options: Where the exports are. With verify set to deep, what is in S3 is downloaded.
        profile: A saved export profile, or its name.
        sample_days: Verify a random part, so that all exports are verified within so many days of daily runs.

    Returns:
        The findings for each export.

    Raises:
        UsageError: A sample was asked for, and exports were named.
        ExportNotFound: One of them is not there.
        VerificationFailed: At least one is damaged; all were looked at first.
    """
    sample = None if sample_days is None else timedelta(days=sample_days)
    return verify.verify_exports(runner_for(), exports or [], options_in_force(options, profile), sample=sample)
