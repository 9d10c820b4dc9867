"""The Prefect task of each step, made from the step's own function and what it declares.

Nothing is cached, nothing persisted, and a step is retried only where it says that repeating it is safe.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, ParamSpec, TypeVar, cast

from prefect import Task
from prefect.cache_policies import NO_CACHE

from hyperexport.base import retry as repeating
from hyperexport.steps.step import policy_of
from hyperexport.workarounds.retry_condition import should_retry

P = ParamSpec("P")
R = TypeVar("R")


def task_of(step: Callable[P, R]) -> Task[P, R]:
    """The task of a step; always the same one."""
    return cast("Task[P, R]", _task_of(step))


@cache
def _task_of(step: Callable[..., Any]) -> Task[..., Any]:
    policy = policy_of(step)
    retries: dict[str, Any] = {
        "retries": len(repeating.RETRY_DELAYS),
        "retry_delay_seconds": list(repeating.RETRY_DELAYS),
        "retry_jitter_factor": repeating.JITTER,
        "retry_condition_fn": should_retry,
    }
    return Task(
        step,
        name=policy.name,
        task_run_name=policy.run_name,
        cache_policy=NO_CACHE,
        persist_result=False,
        **(retries if policy.retried else {}),
    )
