"""What every task of ours has in common: nothing cached, nothing persisted, retried only where repeating is safe."""

from functools import partial
from typing import Any

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from hyperexport.base.retry import JITTER, RETRY_DELAYS, may_pass

step = partial(task, cache_policy=NO_CACHE, persist_result=False)
"""Declare a task that runs once: what it does must not be repeated, or the engine itself repeats it."""


def worth_repeating(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Tell Prefect whether a failed step may be tried again: the error's type decides, never its text.

    Prefect 3.8 takes nothing but a plain function here: any other callable means, silently, never.
    """
    del task, run
    error = state.result(raise_on_failure=False)
    return may_pass(error)


repeatable = partial(
    step,
    retries=len(RETRY_DELAYS),
    retry_delay_seconds=list(RETRY_DELAYS),
    retry_jitter_factor=JITTER,
    retry_condition_fn=worth_repeating,
)
"""Declare a task that starts from nothing each time, so that a transient failure may be tried again."""
