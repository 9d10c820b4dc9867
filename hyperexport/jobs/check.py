"""The job that tries tonight's export without exporting: what would fail, in plain words."""

from hyperexport.base.stop import StopSignal
from hyperexport.errors import HyperExportError, SetupUnfit
from hyperexport.jobs.runner import StepRunner
from hyperexport.model.drill import DrillTarget
from hyperexport.model.vm import VmInfo
from hyperexport.notify import check_mail
from hyperexport.options.precedence import ExportOptions
from hyperexport.options.selection import Selection
from hyperexport.results import Level, SetupFinding, SetupReport
from hyperexport.steps import check
from hyperexport.steps.check_restore import check_qemu_drill
from hyperexport.steps.stores import open_stores


def check_setup(
    run: StepRunner,
    selection: Selection,
    options: ExportOptions,
    *,
    restore: bool = False,
    drill: DrillTarget | None = None,
) -> SetupReport:
    """Try everything that an export with these options would need, and change nothing.

    Args:
        run: Carries out the steps.
        selection: The VMs.
        options: Those in force.
        restore: Also look whether the VMs could be restored to where they are.
        drill: Also look whether their exports could be drilled there: on QEMU here, or in vSphere.

    Raises:
        SetupUnfit: Something would fail. Every check has run; the error carries the report.
    """
    run.check_options(options)
    with run.stop_signal() as stop:
        findings, vcenter, vms = _check_vsphere(
            run, selection, options, stop, restore=restore, drill=drill is DrillTarget.VSPHERE
        )
        if drill is DrillTarget.QEMU:
            findings += run(check_qemu_drill, vms)
        findings += _check_stores(run, options, vms, stop)
        findings += run(check_mail, lambda: run.notifiers(options.email))
        findings += run.check_orchestrator(options, vcenter, vms)
    report = SetupReport(findings=tuple(findings))
    run.show_result(("check",), report, report.summary)
    fail_on_unfit(report)
    return report


def _check_vsphere(
    run: StepRunner, selection: Selection, options: ExportOptions, stop: StopSignal, *, restore: bool, drill: bool
) -> tuple[list[SetupFinding], str | None, list[VmInfo]]:
    try:
        endpoint = run.endpoint()
    except HyperExportError as error:
        return [check.failed("vSphere", error)], None, []
    findings, vms = run(check.check_vsphere, endpoint, selection, options, stop=stop, restore=restore, drill=drill)
    return list(findings), endpoint.address, list(vms)


def _check_stores(run: StepRunner, options: ExportOptions, vms: list[VmInfo], stop: StopSignal) -> list[SetupFinding]:
    place = options.destination
    try:
        stores = open_stores(place, stop=stop, s3=run.s3_settings(place))
    except HyperExportError as error:
        return [check.failed("stores", error)]
    return [finding for store in stores for finding in run(check.check_store, store, vms)]


def fail_on_unfit(report: SetupReport) -> None:
    """End as failed where an export would.

    Raises:
        SetupUnfit: It would.
    """
    wrong = report.having(Level.FAIL)
    if wrong:
        first = wrong[0]
        error = SetupUnfit(f"{report.summary}: {first.what}: {first.words}", fix=first.fix)
        error.report = report
        raise error
