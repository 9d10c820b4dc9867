"""Which failed steps Prefect tries again."""

from typing import Any

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun

from hyperexport.base.retry import is_transient


def should_retry(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Tell Prefect whether a failed step may be tried again: the error's type decides, never its text.

    Prefect 3.8 takes nothing but a plain function here: any other callable means, silently, never.
    """
    del task, run
    return is_transient(state.result(raise_on_failure=False))
