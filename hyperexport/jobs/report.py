"""The job that says how well the VMs of the stores are protected."""

from hyperexport.jobs.list import stores_of
from hyperexport.jobs.runner import StepRunner
from hyperexport.options.precedence import ExportOptions
from hyperexport.store.cached_store import CachedStore
from hyperexport.views.survey import StoreSurvey, survey


def survey_stores(run: StepRunner, options: ExportOptions) -> list[StoreSurvey]:
    """Look at each store; one that cannot be read says so in its survey."""
    return [survey(CachedStore(store)) for store in stores_of(run, options)]
