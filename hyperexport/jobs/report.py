"""The job that says how well the VMs of the stores, and of a vCenter, are protected."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from hyperexport.errors import HyperExportError, Interrupted, StoreUnusable
from hyperexport.jobs.list import stores_of
from hyperexport.jobs.runner import StepRunner
from hyperexport.options.precedence import ExportOptions
from hyperexport.options.selection import Selection
from hyperexport.store.cached_store import CachedStore
from hyperexport.views.coverage import Coverage, ListedVm, coverage, coverage_page
from hyperexport.views.survey import StoreSurvey, survey, survey_page


class Reported(NamedTuple):
    """What a report says, and what kept it from saying all."""

    surveys: list[StoreSurvey]
    coverage: Coverage | None = None
    """The VMs of vCenter; None where it was not asked, or could not be."""
    error: HyperExportError | None = None
    """Why a store, or vCenter, could not be read."""


def survey_stores(run: StepRunner, options: ExportOptions) -> list[StoreSurvey]:
    """Look at each store; one that cannot be read says so in its survey."""
    return [survey(CachedStore(store)) for store in stores_of(run, options)]


def unread_error(surveys: Sequence[StoreSurvey]) -> StoreUnusable | None:
    """The error of a store that could not be read: of what is in it nothing is known."""
    problems = [f"{found.store}: {found.problem}" for found in surveys if found.problem]
    return StoreUnusable(f"not every store could be read: {problems[0]}") if problems else None


def report(run: StepRunner, options: ExportOptions, *, inventory: bool) -> Reported:
    """Say of each VM how old its newest good export is; with the inventory also which VMs have none.

    Args:
        run: Carries out the steps.
        options: Where the exports are.
        inventory: Whether vCenter is asked which VMs there are.
    """
    surveys = survey_stores(run, options)
    error = unread_error(surveys)
    if not inventory:
        return Reported(surveys, error=error)
    try:
        return Reported(surveys, _covered(run, surveys), error)
    except Interrupted:
        raise
    except HyperExportError as failure:
        return Reported(surveys, error=error or failure)


def report_as_page(run: StepRunner, options: ExportOptions, *, inventory: bool, rpo: timedelta) -> Reported:
    """Make the report and leave it as a page with the run.

    Raises:
        HyperExportError: A store, or vCenter, could not be read; the page has what the others say.
    """
    found = report(run, options, inventory=inventory)

    def page() -> str:
        from hyperexport.views.markdown import pages_markdown  # noqa: PLC0415 - only where pages are kept

        covered = [coverage_page(found.coverage, rpo)] if found.coverage else []
        return pages_markdown([*covered, *(survey_page(each, rpo) for each in found.surveys)])

    run.show_markdown(("report",), page, "How well the VMs are protected")
    if found.error:
        raise found.error
    return found


def _covered(run: StepRunner, surveys: list[StoreSurvey]) -> Coverage:
    # pyVmomi takes a third of a second, and the report on stores does without.
    from hyperexport.steps.selection import choose_vms  # noqa: PLC0415
    from hyperexport.vsphere.session import connect  # noqa: PLC0415

    with run.stop_signal() as stop, connect(run.endpoint(), stop=stop, run=run.id) as session:
        rows = run(choose_vms, session, Selection(match=("*",))).rows
        return coverage(
            [ListedVm(row.ref, row.uuid_unread) for row in rows],
            surveys,
            server=session.address,
            server_uuid=session.instance_uuid,
            taken=datetime.now(UTC),
            templates=frozenset(row.ref.moref for row in rows if row.template),
        )
