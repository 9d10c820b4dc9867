"""Options in words: as the command line takes them, and which are in force and where each came from."""

from datetime import timedelta
from enum import Enum

from hyperexport.base.units import format_duration
from hyperexport.options.precedence import ExportOptions, Resolved, leaves


def options_line(resolved: Resolved, *, profile: str | None = None) -> str:
    """Name the options that are set, each with where it came from.

    Args:
        resolved: The options, and their sources.
        profile: The name of the profile, if one was used.
    """
    named = {"profile": f"profile {profile}"} if profile else {}
    given = resolved.options.given_keys()
    parts = [
        f"{' '.join(option_words_of(leaf.flag, given[leaf.key])) or f'no {leaf.flag}'} ({named.get(source, source)})"
        for leaf in leaves()
        if leaf.key in given and (source := resolved.sources[leaf.key]) != "default"
    ]
    return f"options: {', '.join([*parts, 'defaults for all others'] if parts else ['defaults for all'])}"


def option_words(options: ExportOptions) -> list[str]:
    """The options that are set, as the command line takes them."""
    given = options.given_keys()
    return [word for leaf in leaves() if leaf.key in given for word in option_words_of(leaf.flag, given[leaf.key])]


def option_words_of(flag: str, value: object) -> list[str]:
    """One option as the command line takes it; nothing for None."""
    match value:
        case None:
            return []
        case bool():
            return [flag if value else f"--no-{flag.removeprefix('--')}"]
        case tuple():
            return [f"{flag}={part}" for part in value]  # pyright: ignore[reportUnknownVariableType]
        case timedelta():
            return [f"{flag}={format_duration(value)}"]
        case Enum():
            return [f"{flag}={value.value}"]
        case _:
            return [f"{flag}={value}"]
