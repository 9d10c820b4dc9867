"""What a flow run is called: by what it does, unless it was given a name when it was started."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, cast

from coolname.data import config  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
from prefect.runtime import flow_run

LONGEST: Final = 120
"""Characters of a name."""


def run_name(describe: Callable[[Mapping[str, Any]], str]) -> Callable[[], str]:
    """Make what Prefect takes as ``flow_run_name``.

    Prefect calls it for every run, also for one that was named by hand; only a name that Prefect made up is replaced.

    Args:
        describe: Names a run by its parameters.
    """

    def name() -> str:
        given = str(flow_run.name or "")
        return given if given and not is_made_up(given) else describe(flow_run.parameters)[:LONGEST]

    return name


def is_made_up(name: str) -> bool:
    """Whether Prefect made the name up: two words of its lists, such as ``aquatic-teal``."""
    words = name.split("-")
    return len(words) >= 2 and set(words) <= _words()


@cache
def _words() -> frozenset[str]:
    lists = cast("dict[str, dict[str, Any]]", config).values()
    return frozenset(word for each in lists for word in each.get("words", ()))
