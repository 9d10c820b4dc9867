"""What a step declares about itself: its name, the name of one run of it, and whether it is retried.

The decorator only attaches data. The runners read it: the direct one (:mod:`hyperexport.jobs.direct`) and the one that
makes a Prefect task of the same function (``tasks/runner.py``).
"""

import inspect
from collections.abc import Callable
from typing import Any, Final, NamedTuple, ParamSpec, TypeVar, cast

P = ParamSpec("P")
R = TypeVar("R")

_ATTRIBUTE: Final = "hyperexport_step"


class Policy(NamedTuple):
    """How a step is run."""

    name: str
    """As it is called in Prefect, in mails and in events, such as ``take-snapshot``."""
    run_name: str
    """The name of one run, with the step's parameters in braces, such as ``verify {export.export_id}``."""
    retried: bool
    """Whether a transient failure is retried: only where each attempt starts from nothing."""

    def describe(self, step: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
        """The name of the run with these arguments."""
        return self.run_name.format(**inspect.signature(step).bind(*args, **kwargs).arguments)


def step(
    name: str, *, run_name: str | None = None, retried: bool = False
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Declare a function as a step of a job.

    Args:
        name: Its stable name, in lower case with dashes.
        run_name: The name of one run of it; the name with spaces for dashes if None.
        retried: Retry it after a transient error. What must not be repeated, or retries by itself, is not.
    """
    policy = Policy(name, run_name or name.replace("-", " "), retried)

    def mark(function: Callable[P, R]) -> Callable[P, R]:
        setattr(function, _ATTRIBUTE, policy)
        return function

    return mark


def policy_of(function: Callable[..., Any]) -> Policy:
    """What a step declares.

    Raises:
        AttributeError: The function is no step.
    """
    return cast("Policy", getattr(function, _ATTRIBUTE))
