"""The job that boots exports and records what that proves."""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime

from hyperexport.base.display import Listing
from hyperexport.errors import DrillFailed, HyperExportError, Interrupted
from hyperexport.jobs.drill_targets import Target, open_target
from hyperexport.jobs.notices import notifying_of_drills
from hyperexport.jobs.runner import StepRunner
from hyperexport.model.drill import DrillPlan
from hyperexport.options.precedence import ExportOptions
from hyperexport.results import DrillResult
from hyperexport.steps import drilling
from hyperexport.steps.choosing import ChosenExport, choose_export
from hyperexport.steps.stores import open_stores
from hyperexport.store.base import Store

logger = logging.getLogger(__name__)


def restore_drill(run: StepRunner, plan: DrillPlan, options: ExportOptions) -> Listing[DrillResult]:
    """Boot exports, and record beside each what that proved.

    On QEMU they boot straight from their store; in vSphere they are restored under another name, without a connected
    network adapter, and destroyed at the end. Nothing is written to an export, and no other VM is touched.

    Args:
        run: Carries out the steps.
        plan: Which exports, where, and what counts as life.
        options: Where the exports are, the recipients of mails, and whether it is a dry run.

    Returns:
        What came of each. Empty where every VM has a proof that is young enough.

    Raises:
        UsageError: Neither an export nor a number of VMs is given, or something has no effect on this target.
        ExportNotFound: There is no such export, or no good one at all.
        ToolMissing: QEMU is not installed; nothing was done.
        DrillFailed: At least one did not come up, or its VM could not be destroyed; all were tried first.
        StoreUnusable, StoreUnreachable: A store could not be listed.
        ServerUnreachable, LoginRefused: vSphere could not be reached; nothing was done.
    """
    run.check_options(options)
    place = options.destination
    results: list[DrillResult] = []
    with notifying_of_drills(run, plan, options) as notices:
        with run.stop_signal() as stop, run.bandwidth(options.bandwidth) as throttle:
            stores = open_stores(place, throttle=throttle, stop=stop, s3=run.s3_settings(place))
            with open_target(run, plan, options, throttle=throttle, stop=stop) as target:
                chosen = _chosen(stores, plan)
                notices.started([one.export for one in chosen], target.words)
                for one in chosen:
                    with run.progress(one.export.manifest.vm):
                        results.append(_drilled(run, one, target, dry_run=options.execution.dry_run))
        drilled = Listing(results)
        run.show_rows(("drill",), drilled, "Restore drills")
        _fail_on_any(drilled)
        for warning in notices.passed(drilled):
            logger.warning("%s", warning)
    return drilled


def _chosen(stores: Sequence[Store], plan: DrillPlan) -> list[ChosenExport]:
    if plan.wanted is not None:
        wanted = plan.wanted
        return [choose_export(stores, export=wanted.export, vm=wanted.vm, at=wanted.at)]
    return drilling.due(stores, datetime.now(UTC), within=plan.within, most=plan.most)


def _drilled(run: StepRunner, chosen: ChosenExport, target: Target, *, dry_run: bool) -> DrillResult:
    """Drill one. What fails of one does not keep the others from their turn."""
    store, export = chosen
    location, vm = f"{store.url}/{export}", export.manifest.vm
    result = DrillResult(location=location, vm=vm, platform=target.words, dry_run=dry_run)
    try:
        if dry_run:
            return result.model_copy(update={"plan": target.planned(chosen)})
        drilled = target.drilled(chosen)
    except Interrupted:
        raise
    except HyperExportError as error:
        return result.model_copy(update={"problem": str(error)})
    unrecorded = drilling.keep(store, export, drilled)
    run.drill_finished(drilled.record)
    return result.model_copy(
        update={
            "platform": drilled.record.platform,
            "record": drilled.record,
            "unrecorded": unrecorded,
            "leaked": drilled.leaked,
        }
    )


def _fail_on_any(drilled: Sequence[DrillResult]) -> None:
    failed = [one for one in drilled if one.failed]
    if failed:
        words = "; ".join(f"{one.location}: {one.words}" for one in failed[:3])
        more = f"; and {len(failed) - 3} more" if len(failed) > 3 else ""
        fix = "Look at the console and the screenshot beside the export; then try an older export with --at"
        if all(one.record is None for one in failed):
            fix = "Nothing is proved of these exports; fix what is named, and drill them again"
        elif any(one.leaked for one in failed):
            fix = "Delete the VM in vSphere, or run hyperexport reap-snapshots"
        error = DrillFailed(f"{len(failed)} of {len(drilled)} did not come up: {words}{more}", fix=fix)
        error.drills = tuple(drilled)
        raise error
