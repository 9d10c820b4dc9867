"""What every flow begins with: the options in force, and the runner that carries out its job's steps as tasks."""

import logging
from contextvars import ContextVar
from typing import Annotated, Final

from pydantic import model_serializer

from hyperexport.blocks import ExportProfile
from hyperexport.blocks.export_profile import load_profile
from hyperexport.jobs.runner import Shared
from hyperexport.options.environment import warn_of_unknown_variables
from hyperexport.options.form import Tabs
from hyperexport.options.precedence import ExportOptions, resolve
from hyperexport.tasks.runner import PrefectRunner, VSphere
from hyperexport.views.options import options_line

logger = logging.getLogger("hyperexport.options")

__all__ = ["OPTIONS", "Profile", "VSphere", "name_of", "options_in_force", "runner_for", "shared_by_fleet"]

Profile = Annotated[ExportProfile | str | None, Tabs("Saved block", "Name", "None")]
"""A saved profile, its name, or None."""


class _NothingGiven(ExportOptions):
    """Options that are all unset. Written down, they are ``{}``: a form that starts from them sends nothing."""

    @model_serializer
    def _nothing(self) -> dict[str, object]:
        return {}


OPTIONS: Final[ExportOptions] = _NothingGiven()
"""What a flow's options are declared with: nothing given."""


def options_in_force(options: ExportOptions, profile: Profile) -> ExportOptions:
    """Merge what the caller gave with the environment of this process, the profile and the defaults.

    Raises:
        UsageError: A value is invalid, options contradict each other, or there is no such profile.
    """
    warn_of_unknown_variables()
    loaded = load_profile(profile) if isinstance(profile, str) else profile
    resolved = resolve(options, profile=loaded.get_options() if loaded else None)
    name = profile.name if isinstance(profile, ExportProfile) else profile
    logger.info("%s", options_line(resolved, profile=name))
    return resolved.options


shared_by_fleet: Final[ContextVar[Shared | None]] = ContextVar("what a fleet shares with its exports", default=None)
"""A flow takes nothing but parameters, which are stored and shown: so what cannot be stored comes to a child here."""


def runner_for(vsphere: VSphere = None) -> PrefectRunner:
    """The runner of the flow run that calls."""
    return PrefectRunner(vsphere, shared=shared_by_fleet.get())


def name_of(block: object) -> str | None:
    """The name by which a block was given; None where it was given itself, or not at all."""
    return block if isinstance(block, str) else None
