"""Child runs that stay apart."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from prefect import Flow, Task
from prefect.context import FlowRunContext


@contextmanager
def own_child_run(child: Flow[..., Any]) -> Generator[None]:
    """Have the child flow that the block calls get a run of its own, whatever other threads and attempts do.

    Prefect 3.8 finds a child's run again by counting the calls of its parent. Threads of a fleet may count the same
    number, and a retry counts anew with other VMs: a child would take another VM's run for its own.
    """
    context = FlowRunContext.get()
    if context is None:
        yield
        return
    tracking = Task(child.fn, name=child.name, version=child.version)
    with context.model_copy(update={"task_run_dynamic_keys": {tracking.task_key: uuid4().int}}):
        yield
