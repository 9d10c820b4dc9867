"""What an export would meet tonight, tried now: the server, its hosts, the VMs, the stores. Nothing is changed.

Each part gives findings in place of errors, so that one that fails hides none of the others. What only Prefect knows
(mails, workers) is looked at by its tasks.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import repeat
from typing import Final

from hyperexport.base.stop import StopSignal
from hyperexport.base.units import format_bytes
from hyperexport.errors import HyperExportError
from hyperexport.model.vm import VmInfo
from hyperexport.options.precedence import ExportOptions
from hyperexport.options.selection import Selection
from hyperexport.results import Level, SetupFinding
from hyperexport.steps.check_certificates import check_certificate
from hyperexport.steps.check_restore import check_restore, check_vsphere_drill
from hyperexport.steps.check_vms import check_vms
from hyperexport.steps.selection import choose_vms
from hyperexport.steps.step import step
from hyperexport.store.base import Store
from hyperexport.vsphere.endpoint import VSphereEndpoint
from hyperexport.vsphere.hosts import HostAddress, hosts_of
from hyperexport.vsphere.inventory import describe_many
from hyperexport.vsphere.licence import licence_refusal
from hyperexport.vsphere.session import Session, connect

SKEW: Final = timedelta(seconds=60)
"""A larger difference between two clocks is reported: times in logs and of snapshots can then not be compared."""

_MAX_CONCURRENCY: Final = 8
_BEST_COMPRESSION: Final = 10
_PIN: Final = (
    "Compare the thumbprint with the one on the server's own console, and pin it: "
    "HYPEREXPORT_VSPHERE_THUMBPRINT={thumbprint}. Or give the CA that signed it: GOVC_TLS_CA_CERTS=FILE.pem"
)
_PIN_HOST: Final = (
    "Reconnect the host in vCenter, which then knows its certificate, or give the CA that signed it: "
    "GOVC_TLS_CA_CERTS=FILE.pem"
)


def failed(what: str, error: HyperExportError) -> SetupFinding:
    """An error of ours as a finding."""
    return SetupFinding(what=what, level=Level.FAIL, words=error.what, fix=error.fix)


@step("check-vsphere", run_name="check vSphere")
def check_vsphere(
    endpoint: VSphereEndpoint,
    selection: Selection,
    options: ExportOptions,
    *,
    stop: StopSignal,
    restore: bool = False,
    drill: bool = False,
) -> tuple[list[SetupFinding], list[VmInfo]]:
    """Try everything that an export asks of vSphere, as far as one thing after the other works.

    Returns:
        The findings, and the VMs that are chosen, as far as that could be found out.
    """
    what = f"certificate of {endpoint.address}"
    try:
        findings = [check_certificate(what, endpoint.host, endpoint.port, endpoint.trust, fix=_PIN)]
    except HyperExportError as error:  # a CA file that cannot be read
        return [failed(what, error)], []
    if findings[0].level is Level.FAIL:
        return findings, []
    vms: list[VmInfo] = []
    try:
        with connect(endpoint, stop=stop) as session:
            login = f"{session.user} is logged in to {session.address} (API {session.api_version})"
            findings.append(SetupFinding(what="login", level=Level.OK, words=login))
            findings.append(check_clock(session))
            chosen, vms = _choose(session, selection)
            findings += chosen
            if vms:
                findings += _guarded("hosts", lambda: check_hosts(session, vms))
                findings += _guarded("licence", lambda: check_licence(session, vms))
                findings += _guarded("VMs", lambda: check_vms(session, vms, options, stop=stop))
                if restore:
                    findings += _guarded("restore", lambda: check_restore(session, vms, stop=stop))
                if drill:
                    findings += _guarded("drill", lambda: check_vsphere_drill(session, vms, stop=stop))
    except HyperExportError as error:
        stop.check()
        findings.append(failed("login", error))
    return findings, vms


def check_clock(session: Session) -> SetupFinding:
    """Compare the server's clock with this machine's."""
    what = f"clock of {session.address}"
    asked = datetime.now(UTC)
    theirs = session.time()
    answered = datetime.now(UTC)
    apart = asked - theirs if theirs < asked else theirs - answered if theirs > answered else timedelta(0)
    if apart <= SKEW:
        return SetupFinding(what=what, level=Level.OK, words=f"it is within {SKEW.total_seconds():.0f} s of this one")
    direction = "behind" if theirs < asked else "ahead of"
    return SetupFinding(
        what=what,
        level=Level.WARN,
        words=f"it is {apart.total_seconds():.0f} s {direction} this machine's: ages and schedules are off by as much,"
        " and S3 refuses a machine whose clock is 15 minutes wrong",
        fix="Synchronize both with a time server (NTP)",
    )


def _choose(session: Session, selection: Selection) -> tuple[list[SetupFinding], list[VmInfo]]:
    """Find the VMs that are meant; with ``--tag`` that tries the tagging API, too."""
    if not selection:
        words = "none is named, so neither their privileges nor their hosts and datastores were looked at"
        return [SetupFinding(what="choice", level=Level.WARN, words=words, fix="Name them as for the export")], []
    what = "tags and choice" if selection.tag else "choice"
    try:
        chosen = choose_vms(session, selection)
        vms = describe_many(session, [row.ref for row in chosen.rows])
    except HyperExportError as error:
        return [failed(what, error)], []
    findings = [failed(what, error) for error in chosen.missing.values()]
    read = {vm.ref.moref for vm in vms}
    for row in chosen.rows:
        if row.ref.moref not in read:
            words = f"{row.ref.path} cannot be read, and may be gone or inaccessible"
            findings.append(SetupFinding(what=what, level=Level.FAIL, words=words, fix="Check it in vSphere"))
    if vms:
        count = f"{len(vms)} VM is" if len(vms) == 1 else f"{len(vms)} VMs are"
        findings.append(SetupFinding(what=what, level=Level.OK, words=f"{count} chosen by {selection}"))
    return findings, vms


def check_licence(session: Session, vms: Sequence[VmInfo]) -> list[SetupFinding]:
    """Find out whether the licence lets anything be exported; that of a free ESXi does not."""
    refusal = licence_refusal(session, vms)
    return [failed("licence", refusal)] if refusal else []


def check_hosts(session: Session, vms: Sequence[VmInfo]) -> list[SetupFinding]:
    """Try to reach each host that keeps one of the VMs: bytes are read from hosts, not from vCenter."""
    if not session.is_vcenter:
        return []
    hosts, unseen = hosts_of(session, [vm.ref for vm in vms])
    with ThreadPoolExecutor(_MAX_CONCURRENCY, thread_name_prefix="host") as pool:
        findings = list(pool.map(_check_host, hosts, repeat(session.endpoint)))
    if unseen:
        words = f"{session.user} may not see {unseen} of the hosts, so whether they can be reached is not known"
        findings.append(
            SetupFinding(what="hosts", level=Level.WARN, words=words, fix="Give the user the role Read-only on them")
        )
    return findings


def _check_host(host: HostAddress, endpoint: VSphereEndpoint) -> SetupFinding:
    what = f"host {host.name}"
    if not host.connected:
        return SetupFinding(
            what=what,
            level=Level.FAIL,
            words="vCenter has lost its connection, so nothing on it can be exported",
            fix="Reconnect it",
        )
    return check_certificate(what, host.address, host.port, host.trust(endpoint), fix=_PIN_HOST)


@step("check-store", run_name="check store {store.url}")
def check_store(store: Store, vms: Sequence[VmInfo]) -> list[SetupFinding]:
    """Write, read and delete a probe, and see whether there is room."""
    what = f"store {store.url}"
    try:
        store.check()
        free = store.free_bytes()
    except HyperExportError as error:
        return [failed(what, error)]
    findings = [SetupFinding(what=what, level=Level.OK, words="a probe was written, read and deleted")]
    needed = sum(disk.capacity if disk.used is None else disk.used for vm in vms for disk in vm.disks)
    if free is not None and vms:
        findings.append(_room(f"room in {store.url}", free, needed))
    return findings


def _room(what: str, free: int, needed: int) -> SetupFinding:
    words = f"{format_bytes(free)} are free, and the disks hold {format_bytes(needed)} before compression"
    if free < needed / _BEST_COMPRESSION:
        return SetupFinding(what=what, level=Level.FAIL, words=words, fix="Free some space, or choose another --output")
    if free < needed:
        return SetupFinding(what=what, level=Level.WARN, words=f"{words}, so a full export may not fit")
    return SetupFinding(what=what, level=Level.OK, words=words)


def _guarded(what: str, check: Callable[[], list[SetupFinding]]) -> list[SetupFinding]:
    try:
        return check()
    except HyperExportError as error:
        return [failed(what, error)]
