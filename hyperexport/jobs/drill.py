"""The job that boots exports and records what that proves."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, Self

from pydantic import Field, ValidationError

from hyperexport.base.display import Listing
from hyperexport.base.stop import StopSignal
from hyperexport.drill import Expectation, QemuHost, find_qemu
from hyperexport.errors import DrillFailed, HyperExportError, Interrupted, UsageError
from hyperexport.jobs.runner import StepRunner
from hyperexport.model.restore_point import RestorePoint
from hyperexport.model.vm import Value
from hyperexport.options.precedence import ExportOptions
from hyperexport.results import DrillResult
from hyperexport.steps import drilling
from hyperexport.steps.choosing import ChosenExport, choose_export
from hyperexport.steps.stores import open_stores
from hyperexport.store.base import Store

TIMEOUT: Final = timedelta(minutes=10)


class DrillPlan(Value):
    """What is drilled, and what counts as life."""

    wanted: RestorePoint | None = Field(default=None, description="This export; the VMs whose proof is oldest if None.")
    within: timedelta | None = Field(default=None, description="Leave out VMs with a proof that is not older.")
    most: int | None = Field(default=None, ge=1, description="How many VMs at the most.")
    expect: str | None = Field(
        default=None, min_length=1, max_length=1000, description="Only this text counts, on the console or the screen."
    )
    timeout: timedelta = Field(default=TIMEOUT, gt=timedelta(0), description="How long to wait for a sign of life.")
    memory_mib: int | None = Field(default=None, ge=16, description="MiB of memory, if not as much as the VM had.")
    emulate: bool = Field(default=False, description="Emulate the processor even if KVM is there.")

    @classmethod
    def of(cls, **values: object) -> Self:
        """Make a plan of what a person gave.

        Raises:
            UsageError: A value is invalid; the message names it.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise UsageError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def restore_drill(run: StepRunner, plan: DrillPlan, options: ExportOptions) -> Listing[DrillResult]:
    """Boot exports on QEMU straight from their store, and record beside each what that proved.

    Nothing is written to an export, and the machines have no network.

    Args:
        run: Carries out the steps.
        plan: Which exports, and what counts as life.
        options: Where the exports are, and whether it is a dry run.

    Returns:
        What came of each. Empty where every VM has a proof that is young enough.

    Raises:
        UsageError: Neither an export nor a number of VMs is given.
        ExportNotFound: There is no such export, or no good one at all.
        ToolMissing: QEMU is not installed; nothing was done.
        DrillFailed: At least one did not come up; all were tried first.
        StoreUnusable, StoreUnreachable: A store could not be listed.
    """
    if plan.wanted is None and plan.within is None and plan.most is None:
        raise UsageError(
            "nothing says which exports are to be drilled",
            fix="Name an export or --vm, or give --max or --within for the VMs whose proof is oldest",
        )
    run.check_options(options)
    host = find_qemu()
    host = host._replace(kvm=host.kvm and not plan.emulate)
    place = options.destination
    expected = Expectation(plan.expect, plan.timeout.total_seconds())
    results: list[DrillResult] = []
    with run.stop_signal() as stop, run.bandwidth(options.bandwidth) as throttle:
        stores = open_stores(place, throttle=throttle, stop=stop, s3=run.s3_settings(place))
        for store, export in _chosen(stores, plan):
            location = f"{store.url}/{export}"
            if options.execution.dry_run:
                results.append(DrillResult(location=location, vm=export.manifest.vm, platform=host.words, dry_run=True))
                continue
            with run.progress(export.manifest.vm):
                results.append(_drilled(run, ChosenExport(store, export), host, expected, plan, stop=stop))
    drilled = Listing(results)
    run.show_table(("drill",), lambda: [item.row() for item in drilled], "Restore drills")
    _fail_on_any(drilled)
    return drilled


def _chosen(stores: Sequence[Store], plan: DrillPlan) -> list[ChosenExport]:
    if plan.wanted is not None:
        wanted = plan.wanted
        return [choose_export(stores, export=wanted.export, vm=wanted.vm, at=wanted.at)]
    return drilling.due(stores, datetime.now(UTC), within=plan.within, most=plan.most)


def _drilled(
    run: StepRunner,
    chosen: ChosenExport,
    host: QemuHost,
    expected: Expectation,
    plan: DrillPlan,
    *,
    stop: StopSignal,
) -> DrillResult:
    """Drill one. What fails of one does not keep the others from their turn."""
    store, export = chosen
    location, vm = f"{store.url}/{export}", export.manifest.vm
    try:
        drilled = run(drilling.boot_export, store, export, host, expected, stop=stop, memory_mib=plan.memory_mib)
    except Interrupted:
        raise
    except HyperExportError as error:
        return DrillResult(location=location, vm=vm, platform=host.words, problem=str(error))
    unrecorded = drilling.keep(store, export, drilled)
    run.drill_finished(drilled.record)
    return DrillResult(location=location, vm=vm, platform=host.words, record=drilled.record, unrecorded=unrecorded)


def _fail_on_any(drilled: Sequence[DrillResult]) -> None:
    failed = [one for one in drilled if one.failed]
    if failed:
        words = "; ".join(f"{one.location}: {one.words}" for one in failed[:3])
        more = f"; and {len(failed) - 3} more" if len(failed) > 3 else ""
        error = DrillFailed(
            f"{len(failed)} of {len(drilled)} did not come up: {words}{more}",
            fix="Look at the console and the screenshot beside the export; then try an older export with --at",
        )
        error.drills = tuple(drilled)
        raise error
