"""Deleting old exports, as planned."""

from collections.abc import Sequence

from prefect.runtime import flow_run

from hyperexport.option_groups import Cleanup
from hyperexport.policy.retention import Incoming
from hyperexport.results import CleanupResult
from hyperexport.steps import cleanup
from hyperexport.steps.leftovers import abandoned_stagings
from hyperexport.store.base import Store
from tasks.liveness import run_is_over
from tasks.step import step


@step(name="clean-up", task_run_name="clean up {store.url}")
def clean_up(store: Store, options: Cleanup, *, dry_run: bool, incoming: Sequence[Incoming] = ()) -> CleanupResult:
    """Delete the exports that the policy gives up, or only say which they are."""
    plan = cleanup.plan_store_cleanup(store, options, incoming)
    if dry_run or options.dry_run:
        abandoned = abandoned_stagings(store, None, run_is_over)
        return CleanupResult(store=store.url, dry_run=True, plan=plan, abandoned=tuple(map(str, abandoned)))
    return cleanup.clean_store(store, plan, run_is_over, run=str(flow_run.id or ""))
