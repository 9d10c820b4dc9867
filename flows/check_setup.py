"""The flow that tries tonight's export without exporting: what would fail, in plain words. Made to be scheduled."""

from prefect import flow

from hyperexport.base.stop import StopSignal
from hyperexport.errors import HyperExportError, SetupUnfit
from hyperexport.flows.connections import (
    OPTIONS,
    Profile,
    VSphere,
    endpoint_of,
    options_in_force,
    s3_settings,
    stop_signal,
)
from hyperexport.flows.outcome import told_in_words
from hyperexport.model.vm import VmInfo
from hyperexport.options.precedence import ExportOptions
from hyperexport.options.selection import Selection, selection_from_environment
from hyperexport.results import Level, SetupFinding, SetupReport
from hyperexport.steps.check import failed
from hyperexport.steps.stores import open_stores
from hyperexport.tasks.artifacts import artifact_key, show_table
from hyperexport.tasks.check import check_mail, check_prefect, check_store, check_vsphere
from hyperexport.transfer.bandwidth.throttle import Throttle


@flow(name="check-setup", persist_result=False)
@told_in_words
def check_setup(
    selection: Selection = Selection(),  # noqa: B008
    options: ExportOptions = OPTIONS,
    vsphere: VSphere = None,
    profile: Profile = None,
) -> SetupReport:
    """Try everything that an export with these options would need, and change nothing.

    Tried are: the vCenter's certificate, login and clock; the hosts that the bytes would come from; for each VM the
    user's privileges, whether it can be exported, and the room on its datastores; tags, where they choose; each store,
    with a probe that is written, read and deleted; the mail server, without sending; Prefect's limits and workers.

    Args:
        selection: The VMs, as for the export. The environment chooses if empty; without any, no VM is looked at.
        options: As for the export. What is not set comes from the environment, the profile, the defaults.
        vsphere: The vSphere credentials block to use, or its name. The worker's environment (GOVC_URL, ...) if empty.
        profile: A saved export profile, or its name.

    Raises:
        SetupUnfit: Something would fail; everything has been tried all the same, and the artifact has all of it.
    """
    options = options_in_force(options, profile)
    with stop_signal() as stop:
        findings, vcenter, vms = _check_vsphere(vsphere, selection or selection_from_environment(), options, stop)
        findings += _check_stores(options, vms, stop)
        findings += check_mail(options.email)
        findings += check_prefect(options, vcenter, vms)
    report = SetupReport(findings=tuple(findings))
    show_table(artifact_key("check"), [finding.row() for finding in report.findings], report.summary)
    conclude(report)
    return report


def _check_vsphere(
    vsphere: VSphere, selection: Selection, options: ExportOptions, stop: StopSignal
) -> tuple[list[SetupFinding], str | None, list[VmInfo]]:
    try:
        endpoint = endpoint_of(vsphere)
    except HyperExportError as error:
        return [failed("vSphere", error)], None, []
    except ValueError:
        words = f"there is no vSphere credentials block {vsphere!r} in Prefect"
        return [SetupFinding(what="vSphere", level=Level.FAIL, words=words, fix="Save one under Blocks")], None, []
    findings, vms = check_vsphere(endpoint, selection, options, stop)
    return list(findings), endpoint.address, list(vms)


def _check_stores(options: ExportOptions, vms: list[VmInfo], stop: StopSignal) -> list[SetupFinding]:
    place = options.destination
    try:
        stores = open_stores(place, throttle=Throttle(None), stop=stop, s3=s3_settings(place))
    except HyperExportError as error:
        return [failed("stores", error)]
    return [finding for store in stores for finding in check_store(store, vms)]


def conclude(report: SetupReport) -> None:
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
