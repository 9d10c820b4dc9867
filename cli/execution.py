"""Where a command runs: as a flow run where a Prefect API is in use, else directly in this process.

Where that is, ``deployments/orchestrator.py`` decides; both ways call the same job (``hyperexport/jobs/``). Whatever a
way needs is imported when it is taken.
"""

import logging
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING

from hyperexport.cli.command import Command
from hyperexport.deployments.orchestrator import Place, find_place, prefect_has_profile, use
from hyperexport.errors import UsageError
from hyperexport.options.environment import warn_of_unknown_variables
from hyperexport.options.precedence import ExportOptions, resolve
from hyperexport.views.options import options_line
from hyperexport.workarounds.environment import keep_prefect_quiet

if TYPE_CHECKING:
    from hyperexport.blocks import ExportProfile
    from hyperexport.jobs.direct import DirectRunner
    from hyperexport.profiles import Profile

logger = logging.getLogger("hyperexport.options")


def place_of(command: Command) -> Place:
    """Where the command runs, and why."""
    return find_place(no_prefect=command.no_prefect)


def uses_prefect(command: Command) -> bool:
    """Whether the command runs as a flow run; then Prefect is made ready to be imported."""
    place = place_of(command)
    if place.url is None:
        return False
    use(place)
    keep_prefect_quiet()
    return True


def require_prefect(command: Command, what: str) -> None:
    """See that there is a Prefect server, for what only one can do.

    Raises:
        UsageError: There is none; the message names the command that brings one.
    """
    if not uses_prefect(command):
        from hyperexport.jobs.direct import refuse

        refuse(what)


def options_in_force(command: Command, options: ExportOptions | None = None) -> ExportOptions:
    """Merge what was given with the environment, the profile and the defaults."""
    warn_of_unknown_variables()
    profile = options_of_profile(command) if command.profile else None
    resolved = resolve(options or command.options, profile=profile)
    logger.info("%s", options_line(resolved, profile=command.profile))
    return resolved.options


def direct_runner(command: Command) -> "DirectRunner":
    """What runs the steps of a job in this process.

    Raises:
        UsageError: A saved block is named, which only a Prefect server has.
    """
    from hyperexport.jobs.direct import DirectRunner, refuse

    if command.vsphere:
        refuse("--vsphere-block")
    return DirectRunner()


def store_runner(command: Command) -> "tuple[DirectRunner, ExportOptions]":
    """What reads stores: always in this process, with Prefect only where a saved block says how to log in."""
    from hyperexport.jobs.direct import DirectRunner

    options = options_in_force(command)
    place = options.destination
    if place.s3_credentials is None or not uses_prefect(command):
        return DirectRunner(), options
    from hyperexport.blocks.s3_credentials import load_s3_settings

    settings = load_s3_settings(place.s3_credentials, endpoint=place.s3_endpoint)
    plain = place.model_copy(update={"s3_credentials": None})
    return DirectRunner(s3=settings), options.model_copy(update={"destination": plain})


def profile_store(command: Command) -> ModuleType:
    """The module that keeps profiles: Prefect blocks or files of this user. Both have the same functions."""
    place = find_place(no_prefect=command.no_prefect)
    if place.url is None:
        from hyperexport import profiles

        return profiles
    use(place)
    from hyperexport.blocks import export_profile

    return export_profile


def load_profile(command: Command, name: str) -> "Profile | ExportProfile":
    """Load a saved profile.

    Raises:
        UsageError: There is none of this name, or its values are no longer valid.
    """
    from hyperexport import profiles

    store = profile_store(command)
    if store is profiles and not profiles.has_file(name) and prefect_has_profile(profiles.profile_name(name)):
        raise UsageError(
            f"there is no profile {name} in {profiles.folder()}, but Prefect has one of this name",
            fix="Leave --no-prefect out or start hyperexport serve to use it, or save it here with --save-profile",
        )
    return store.load_profile(name)


def options_of_profile(command: Command) -> dict[str, object]:
    """What the profile that the command names sets, by key."""
    return load_profile(command, command.profile or "").get_options()


def ask_for_password(command: Command) -> None:
    """Ask at the terminal for the vSphere password that nothing else gives. It stays in this process."""
    variables = os.environ
    url = variables.get("HYPEREXPORT_VSPHERE_URL") or variables.get("GOVC_URL")
    known = variables.get("HYPEREXPORT_VSPHERE_PASSWORD") or variables.get("GOVC_PASSWORD")
    if command.vsphere or known or not url or not sys.stdin.isatty():
        return
    from hyperexport.vsphere.endpoint import read_address

    try:
        parts = read_address(url)
    except ValueError:
        return  # the next reader reports what is wrong with it
    import getpass

    user = variables.get("HYPEREXPORT_VSPHERE_USERNAME") or variables.get("GOVC_USERNAME") or parts.username
    if user and not parts.password:
        variables["GOVC_PASSWORD"] = getpass.getpass(f"Password of {user} at {parts.host}: ")
