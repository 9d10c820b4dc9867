"""Several runs of one task side by side, which stop together."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Final, TypeVar, cast

from prefect import Task
from prefect.futures import PrefectFuture, as_completed, wait
from prefect.task_runners import ThreadPoolTaskRunner

from hyperexport.base.stop import StopSignal

R = TypeVar("R")

SECONDS_TO_STOP: Final = 8.0
"""How long threads that move bytes are waited for when a run is stopped, so that its cleanup begins within ten seconds;
Prefect kills the process after 30."""


def side_by_side(task: Task[..., R], calls: Sequence[Mapping[str, Any]], *, at_once: int, stop: StopSignal) -> list[R]:
    """Run a task once for each set of arguments.

    On the first failure, or when the flow is cancelled, the others are told to stop and are waited for, so that
    nothing reads any more from what the caller then cleans up: a cancellation reaches only the main thread.

    Args:
        task: The task.
        calls: Its arguments, one set for each run.
        at_once: How many runs there may be at a time.
        stop: The run's stop signal, which the task obeys.

    Returns:
        The results, in the order of the calls.
    """
    with ExitStack() as stack:
        runner = cast("ThreadPoolTaskRunner[R]", stack.enter_context(ThreadPoolTaskRunner(max_workers=at_once)))  # pyright: ignore[reportUnknownArgumentType]
        futures = [cast("PrefectFuture[R]", runner.submit(task, dict(call))) for call in calls]  # pyright: ignore[reportUnknownMemberType]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            stop.set()
            if wait(futures, timeout=SECONDS_TO_STOP).not_done:
                # Its socket is closed, so what hangs is a question to a server; the runner's own end would wait for it.
                stack.pop_all()
            raise
        return [future.result() for future in futures]
