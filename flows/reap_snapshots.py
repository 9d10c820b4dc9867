"""The flow that finds what dead runs left on a vCenter and in the stores, and removes it. Made to be scheduled."""

from collections.abc import Mapping
from typing import Annotated, Any, Unpack

from pydantic import Field

from hyperexport.flows.job_flow import job_flow
from hyperexport.flows.runtime import OPTIONS, Profile, VSphere, options_in_force, runner_for
from hyperexport.jobs import reap
from hyperexport.options.form import Shown
from hyperexport.options.keywords import DestinationKeywords
from hyperexport.options.precedence import ExportOptions
from hyperexport.results import ReapResult

Runs = Annotated[tuple[str, ...], Field(title="Runs that are over")]


def _run_name(parameters: Mapping[str, Any]) -> str:
    return "reap snapshots (dry run)" if parameters["dry_run"] else "reap snapshots"


@job_flow("reap-snapshots", _run_name)
def reap_snapshots(
    vsphere: VSphere = None,
    dry_run: bool = False,
    options: Annotated[ExportOptions, Shown("destination")] = OPTIONS,
    profile: Profile = None,
    runs: Runs = (),
    **_: Unpack[DestinationKeywords],
) -> ReapResult:
    """Remove the snapshots and half-written exports that runs left which are provably over.

    Only what has this tool's own owner tag is considered. A snapshot that was kept on purpose stays; one whose run is
    not provably over is left alone, and reported with its age.

    Args:
        vsphere: The vSphere credentials block to use, or its name. The worker's environment (GOVC_URL, ...) if empty.
        dry_run: Only say what would be removed.
        options: Where the exports are. What is not set comes from the environment, the profile, the defaults.
        profile: A saved export profile, or its name.
        runs: Runs that are over, though nothing here can prove it: what they left goes, too, and what they kept.

    Returns:
        What was found, and what was done about it.

    Raises:
        SnapshotLeaked: Something could not be removed; everything else was.
    """
    options = options_in_force(options, profile)
    if dry_run:
        options = ExportOptions.from_keys({**options.given_keys(), "dry_run": True})
    return reap.reap_snapshots(runner_for(vsphere), options, runs)
