"""Deleting old exports, as planned."""

from prefect.runtime import flow_run

from hyperexport.options.groups import Cleanup
from hyperexport.results import CleanupResult
from hyperexport.steps import cleanup
from hyperexport.steps.cleanup import BY_ITSELF, Occasion
from hyperexport.store.base import Store
from hyperexport.tasks.liveness import run_is_over
from hyperexport.tasks.step import step


@step(name="clean-up", task_run_name="clean up {store.url}")
def clean_up(store: Store, options: Cleanup, dry_run: bool, occasion: Occasion = BY_ITSELF) -> CleanupResult:
    """Delete the exports that the policy gives up, or only say which they are."""
    return cleanup.clean_up(store, options, dry_run, occasion, run_is_over, run=str(flow_run.id or ""))
