"""``hyperexport config``: every option, the value in force, and where that came from."""

import os
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console

from hyperexport.base.text import escape_controls
from hyperexport.cli.command import Command
from hyperexport.cli.execution import options_of_profile, place_of
from hyperexport.cli.failures import Failure
from hyperexport.cli.flags import CommandLine, Given, all_options
from hyperexport.cli.output import Output, as_flag, key_value, make_table
from hyperexport.options.environment import SECRETS, warn_of_unknown_variables
from hyperexport.options.precedence import Leaf, Resolved, leaves, resolve


class ShowConfig(Command):
    """Show what would be in force for a command with these flags, and where it would run; no secret is shown."""

    def run(self, output: Output) -> list[Failure]:
        """Show the options, the secrets that are set, and the place."""
        warn_of_unknown_variables()
        resolved = resolve(self.options, profile=options_of_profile(self) if self.profile else None)
        document = resolved.options.model_dump(mode="json")
        values = [(leaf, document[leaf.group][leaf.name]) for leaf in leaves()]
        secrets = {name: "set" if os.environ.get(name) else "not set" for name in SECRETS}
        place = place_of(self)
        output.answer(
            "config",
            pretty=lambda console: show_config(
                console,
                [(leaf.flag, as_flag(value), _source(resolved, leaf, self.profile)) for leaf, value in values],
                secrets,
                str(place),
            ),
            quiet=config_lines(
                [(leaf.key, as_flag(value), resolved.sources[leaf.key]) for leaf, value in values],
                secrets,
                str(place),
            ),
            document={
                "options": {leaf.key: {"value": value, "source": resolved.sources[leaf.key]} for leaf, value in values},
                "secrets": secrets,
                "runs": {"prefect": place.url, "why": place.why},
            },
        )
        return []


def arguments(given: Given) -> ShowConfig:
    """Show every option with the value in force, and where that came from; nothing else is done."""
    return given.command(ShowConfig)


LINE = CommandLine(arguments, all_options)


def _source(resolved: Resolved, leaf: Leaf, profile: str | None) -> str:
    """Where a value came from: with the variable's or the profile's name beside it."""
    source = resolved.sources[leaf.key]
    if source == "environment":
        return next(f"environment, {name}" for name in leaf.environment if os.environ.get(name))
    return f"profile {profile}" if source == "profile" else source


def show_config(
    console: Console, values: Iterable[tuple[str, str, str]], secrets: Mapping[str, str], runs: str
) -> None:
    """Show every option's flag, value and source, then which secrets are set, and where a command runs."""
    console.print(make_table("Options in force", ("Option", "Value", "From"), values))
    console.print(make_table("Secrets", ("Variable", "State"), secrets.items()))
    console.print(f"A command runs {escape_controls(runs)}", markup=False, soft_wrap=True)


def config_lines(values: Sequence[tuple[str, str, str]], secrets: Mapping[str, str], runs: str) -> list[str]:
    """Every option's value and source, then which secrets are set, and where a command runs."""
    lines = [
        line for key, value, source in values for line in (key_value(key, value), key_value(f"{key}.source", source))
    ]
    return [*lines, *(key_value(name, state) for name, state in secrets.items()), key_value("runs", runs)]
