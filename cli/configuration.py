"""``hyperexport config``: every option, the value in force, and where that came from."""

import os

from hyperexport.cli import jobs, quiet, tables
from hyperexport.cli.output import Output
from hyperexport.cli.profiles import options_of_profile
from hyperexport.cli.request import Request
from hyperexport.options.environment import SECRETS, warn_of_unknown_variables
from hyperexport.options.precedence import Leaf, Resolved, leaves, resolve


def show(request: Request, output: Output) -> None:
    """Show what would be in force for a command with these flags, and where it would run; no secret is shown."""
    warn_of_unknown_variables()
    resolved = resolve(request.options, profile=options_of_profile(request) if request.profile else None)
    document = resolved.options.model_dump(mode="json")
    values = [(leaf, document[leaf.group][leaf.name]) for leaf in leaves()]
    secrets = {name: "set" if os.environ.get(name) else "not set" for name in SECRETS}
    place = jobs.place_of(request)
    output.answer(
        "config",
        pretty=lambda console: tables.show_config(
            console,
            [(leaf.flag, quiet.as_flag(value), _where(resolved, leaf, request)) for leaf, value in values],
            secrets,
            str(place),
        ),
        quiet=quiet.config_lines(
            [(leaf.key, quiet.as_flag(value), resolved.sources[leaf.key]) for leaf, value in values],
            secrets,
            str(place),
        ),
        document={
            "options": {leaf.key: {"value": value, "source": resolved.sources[leaf.key]} for leaf, value in values},
            "secrets": secrets,
            "runs": {"prefect": place.url, "why": place.why},
        },
    )


def _where(resolved: Resolved, leaf: Leaf, request: Request) -> str:
    """Where a value came from: with the variable's or the profile's name beside it."""
    source = resolved.sources[leaf.key]
    if source == "environment":
        return next(f"environment, {name}" for name in leaf.environment if os.environ.get(name))
    return f"profile {request.profile}" if source == "profile" else source
