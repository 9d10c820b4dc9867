"""Which attempt of its run a flow is in: Prefect retries a run by itself (``retries=``) or by its Retry button."""

from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext


def attempt() -> int:
    """The number of this attempt, from 1; 1 outside of a run."""
    run = _run()
    return max(run.run_count, 1) if run else 1


def will_retry() -> bool:
    """Whether Prefect retries this run by itself, should this attempt fail: the server's own rule for ``retries``."""
    run = _run()
    return run is not None and run.run_count <= (run.empirical_policy.retries or 0)


def _run() -> FlowRun | None:
    context = FlowRunContext.get()
    return context.flow_run if context else None
