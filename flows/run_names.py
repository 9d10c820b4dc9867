"""What a flow run is called: by what it does, unless it was given a name when it was started."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from prefect.runtime import flow_run

from hyperexport.workarounds.made_up_names import is_made_up

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
