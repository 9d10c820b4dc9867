"""Trying out what an export will need. Nothing is changed, and what fails is a finding, never an error."""

import contextvars
import threading
from collections.abc import Sequence
from typing import Final

from hyperexport.base.stop import StopSignal
from hyperexport.errors import HyperExportError, NotificationFailed
from hyperexport.model.vm import VmInfo
from hyperexport.options.groups import Email
from hyperexport.options.precedence import ExportOptions
from hyperexport.options.selection import Selection
from hyperexport.results import Level, SetupFinding
from hyperexport.steps import check as steps
from hyperexport.store.base import Store
from hyperexport.tasks.channels import Channel, open_channels
from hyperexport.tasks.check_prefect import look_at_prefect
from hyperexport.tasks.step import step
from hyperexport.vsphere.endpoint import VSphereEndpoint

SECONDS_FOR_MAIL: Final = 30.0
"""A connection by prefect-email knows no timeout of its own."""


@step(name="check-vsphere", task_run_name="check vSphere")
def check_vsphere(
    endpoint: VSphereEndpoint, selection: Selection, options: ExportOptions, stop: StopSignal
) -> tuple[list[SetupFinding], list[VmInfo]]:
    """Try the server, its hosts, and whether the VMs can be exported."""
    return steps.check_vsphere(endpoint, selection, options, stop=stop)


@step(name="check-store", task_run_name="check store {store.url}")
def check_store(store: Store, vms: Sequence[VmInfo]) -> list[SetupFinding]:
    """Write, read and delete a probe."""
    return steps.check_store(store, vms)


@step(name="check-mail", task_run_name="check mail")
def check_mail(email: Email) -> list[SetupFinding]:
    """Connect and log in as for a mail, and send none."""
    try:
        channels = open_channels(email)
    except HyperExportError as error:
        return [steps.failed("mail", error)]
    probes = [_Probe(channel) for channel in channels]
    return [probe.finding(SECONDS_FOR_MAIL) for probe in probes]


@step(name="check-prefect", task_run_name="check Prefect")
def check_prefect(options: ExportOptions, vcenter: str | None, vms: Sequence[VmInfo]) -> list[SetupFinding]:
    """Ask the Prefect server for what an export asks of it."""
    return look_at_prefect(options, vcenter, vms)


class _Probe:
    """One channel that is tried in a thread which nobody has to wait for: a server may keep silent for ever."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._level, self._words = Level.FAIL, "the server does not answer"
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=lambda: context.run(self._try), name="check-mail", daemon=True)
        self._thread.start()

    def _try(self) -> None:
        try:
            words = self._channel.probe()
        except NotificationFailed as error:
            self._words = error.what
        except Exception as error:  # noqa: BLE001 - an export would go on without the mail
            self._words = f"it cannot be used: {type(error).__name__}"
        else:
            self._level, self._words = Level.OK, words

    def finding(self, seconds: float) -> SetupFinding:
        self._thread.join(seconds)
        fix = None if self._level is Level.OK else "Check the --email options; hyperexport send-test-email sends one"
        return SetupFinding(what=self._channel.name, level=self._level, words=self._words, fix=fix)
