"""Who is told of a run, and when: at its start, at its end, and after the cleanup of one that failed.

People are told as the options ask; automations always are, by an event.
"""

import logging
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

from prefect.runtime import flow_run
from prefect.utilities.urls import url_for

from hyperexport.errors import FleetFailure, Interrupted, NotificationFailed, PartialFleetFailure
from hyperexport.options.groups import Email
from hyperexport.options.precedence import ExportOptions
from hyperexport.results import ExportResult, FleetResult
from hyperexport.steps.job import Job
from hyperexport.tasks.channels import Channel, open_channels
from hyperexport.tasks.events import tell_of_export, tell_of_failure
from hyperexport.tasks.notify import SECONDS_TO_SEND, SECONDS_WHEN_STOPPED, notify
from hyperexport.views.fleet import mail_rows
from hyperexport.views.mail import Mail, Run, failure_mail, fleet_mail, start_mail, success_mail

logger = logging.getLogger("hyperexport.notify")


@contextmanager
def notifying(vm: str, options: ExportOptions) -> Generator["Notices"]:
    """Tell how the export of a VM goes, as the options ask; where the block fails, that is told last of all.

    Args:
        vm: The VM, as it was asked for.
        options: Those in force. In a dry run they are checked, and nobody is told anything.

    Raises:
        UsageError: The options ask for a mail that could not be sent; nothing has been touched.
    """
    notices = Notices(vm, options.email, open_channels(options.email), silent=options.execution.dry_run)
    try:
        yield notices
    except BaseException as error:
        notices.failed(error)
        raise


class Notices:
    """The notices of one export."""

    def __init__(self, vm: str, email: Email, channels: tuple[Channel, ...], *, silent: bool) -> None:
        self._vm: Final = vm
        self._email: Final = email
        self._channels: Final = () if silent else channels
        self._silent: Final = silent
        self._began: Final = datetime.now(UTC)
        self._job: Job | None = None

    def started(self, job: Job) -> None:
        """Say that the export begins; what could not be sent is a warning of the export."""
        self._job = job
        if self._email.on_start:
            mail = start_mail(
                vm=job.ref.path,
                vcenter=job.session.address,
                export_format=job.options.destination.format,
                started=job.started,
                run=this_run(),
            )
            for warning in self._send(lambda: mail):
                job.warn(warning)

    def fleet_started(self, vms: str, *, vcenter: str, export_format: str) -> list[str]:
        """Say that the export of several VMs begins; returns a warning for each mail that could not be sent."""
        if not self._email.on_start:
            return []
        return self._send(
            lambda: start_mail(
                vm=vms, vcenter=vcenter, export_format=export_format, started=self._began, run=this_run()
            )
        )

    def fleet_ended(self, result: FleetResult) -> FleetResult:
        """Say in one mail how all VMs fared; what could not be sent is a warning of the result."""
        wanted = self._email.on_failure if result.failed else self._email.on_complete
        if not wanted:
            return result
        rows = mail_rows(result.members)
        warnings = self._send(lambda: fleet_mail(rows, started=self._began, seconds=result.seconds, run=this_run()))
        return result.model_copy(update={"warnings": (*result.warnings, *warnings)})

    def completed(self, result: ExportResult) -> ExportResult:
        """Say that the export is complete; what could not be sent is a warning of the result."""
        manifest = result.manifest
        tell_of_export(result)
        if not self._email.on_complete or manifest is None:
            return result
        warnings = self._send(lambda: success_mail(result, manifest, run=this_run()))
        return result.model_copy(update={"warnings": (*result.warnings, *warnings)})

    def failed(self, error: BaseException) -> None:
        """Say that the export failed or was stopped. The error goes on its way, whatever comes of the mail."""
        stopped = isinstance(error, Interrupted) or not isinstance(error, Exception)
        # A fleet's members have told each for itself.
        if not self._silent and not isinstance(error, FleetFailure | PartialFleetFailure):
            vm = self._job.ref if self._job else self._vm
            tell_of_failure(vm, error, step=failed_step(error), stopped=stopped)
        if not self._email.on_failure:
            return
        self._send(
            lambda: failure_mail(
                error,
                vm=self._job.ref.path if self._job else self._vm,
                step=failed_step(error),
                started=self._began,
                failed=datetime.now(UTC),
                cleaned_up=self._job.aftermath if self._job else (),
                stopped=stopped,
                run=this_run(),
            ),
            seconds=SECONDS_WHEN_STOPPED if stopped else SECONDS_TO_SEND,
        )

    def _send(self, mail: Callable[[], Mail], seconds: float = SECONDS_TO_SEND) -> list[str]:
        if not self._channels:
            return []
        try:
            return notify(self._channels, mail(), seconds=seconds)
        except Exception as error:  # an export is no worse for a mail that could not be written
            logger.warning("nobody was told: %s", type(error).__name__, exc_info=True)
            return [f"nobody was told: an unforeseen {type(error).__name__}; the run's log has its traceback"]


def tell_everyone(email: Email, mail: Mail) -> list[str]:
    """Send a mail that is about no export, by mail unless only webhooks are named, and to these.

    Returns:
        What was sent, and to whom.

    Raises:
        UsageError: Something is missing or contradictory; the message names the option.
        NotificationFailed: Not everything was sent.
    """
    channels = open_channels(email, mails=email.notify or bool(email.to) or not email.webhooks)
    failed = notify(channels, mail)
    if failed:
        raise NotificationFailed("; ".join(failed))
    return [channel.name for channel in channels]


def this_run() -> Run:
    """The flow run that calls, as people find it again."""
    return Run(str(flow_run.name or flow_run.id), url_for("flow-run", obj_id=flow_run.id) if flow_run.id else None)


def failed_step(error: BaseException) -> str | None:
    """Find the step that an error comes from: the task in its traceback, or else the innermost part of the runbook.

    Prefect's hooks would not do: they are not called for a task that a cancellation ends.
    """

    def functions_in(room: str) -> list[str]:
        frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
        return [frame.f_code.co_name for frame in frames if frame.f_globals.get("__name__", "").startswith(room)]

    names = functions_in("tasks.")[:1] or functions_in("hyperexport.runbook")[-1:] or functions_in("flows.")[-1:]
    return names[0].replace("_", "-") if names else None
