"""The mails and events of a job: at its start, at its end, and after the cleanup of one that failed.

Mails go out as the options ask; an event for automations is always emitted.
"""

import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from hyperexport.errors import DrillFailed, FleetFailure, Interrupted, NotificationFailed, note_cleanup
from hyperexport.jobs.runner import StepRunner
from hyperexport.model.drill import DrillPlan
from hyperexport.model.restore import RestorePlan, RestoreResult
from hyperexport.model.vm import VmRef
from hyperexport.notify import SECONDS_TO_SEND, SECONDS_WHEN_STOPPED, Notifier, notify
from hyperexport.options.groups import Email
from hyperexport.options.precedence import ExportOptions
from hyperexport.results import DrillResult, ExportResult, FailureReport, FleetResult
from hyperexport.store.base import StoredExport

if TYPE_CHECKING:
    from hyperexport.steps.job import Job
    from hyperexport.views.mail import Mail

logger = logging.getLogger("hyperexport.notify")


def notifying(run: StepRunner, vm: str, options: ExportOptions) -> AbstractContextManager["Notices"]:
    """Email the progress of a VM's export as the options ask, and last of all why the block failed.

    Args:
        run: Carries out the steps.
        vm: The VM, as it was asked for.
        options: Those in force. A dry run checks them and sends nothing.

    Raises:
        UsageError: The options ask for a mail that could not be sent; nothing has been touched.
    """
    notices = Notices(run, vm, options.email, run.notifiers(options.email), silent=options.execution.dry_run)
    return _notifying(notices)


class _TellsFailure(Protocol):
    def failed(self, error: BaseException) -> None: ...


N = TypeVar("N", bound=_TellsFailure)


@contextmanager
def _notifying(notices: N) -> Generator[N]:
    """Where the block fails, report that last of all: by then it is known what was cleaned up."""
    try:
        yield notices
    except BaseException as error:
        notices.failed(error)
        raise


class Notices:
    """The notices of one export."""

    def __init__(
        self, run: StepRunner, vm: str, email: Email, notifiers: tuple[Notifier, ...], *, silent: bool
    ) -> None:
        self._run: Final = run
        self._vm: Final = vm
        self._email: Final = email
        self._notifiers: Final = () if silent else notifiers
        self._silent: Final = silent
        self._began: Final = datetime.now(UTC)
        self._job: Job | None = None

    def started(self, job: "Job") -> None:
        """Say that the export begins; what could not be sent is a warning of the export."""
        self._job = job
        vcenter, export_format = job.session.address, job.options.destination.format
        for warning in self._say_start(job.ref.path, vcenter, export_format, job.started):
            job.warn(warning)

    def fleet_started(self, vms: str, *, vcenter: str, export_format: str) -> list[str]:
        """Say that the export of several VMs begins; returns a warning for each mail that could not be sent."""
        return self._say_start(vms, vcenter, export_format, self._began)

    def _say_start(self, vm: str, vcenter: str, export_format: str, started: datetime) -> list[str]:
        if not self._email.on_start or self._run.attempt > 1:
            return []

        def mail() -> "Mail":
            from hyperexport.views.mail import start_mail  # noqa: PLC0415 - templates are loaded only to be sent

            return start_mail(vm=vm, vcenter=vcenter, export_format=export_format, started=started, run=self._run.run)

        return self._send(mail)

    def fleet_ended(self, result: FleetResult) -> FleetResult:
        """Say in one mail how all VMs fared; what could not be sent is a warning of the result."""
        wanted = self._email.on_failure if result.failed else self._email.on_complete
        if not wanted or (result.failed and self._will_retry()):
            return result

        def mail() -> "Mail":
            from hyperexport.views.fleet import mail_rows  # noqa: PLC0415
            from hyperexport.views.mail import fleet_mail  # noqa: PLC0415

            rows = mail_rows(result.members)
            return fleet_mail(
                rows,
                started=self._began,
                seconds=result.seconds,
                run=self._run.run,
                redo=result.redo,
                retry=result.retry,
            )

        return result.model_copy(update={"warnings": (*result.warnings, *self._send(mail))})

    def completed(self, result: ExportResult) -> ExportResult:
        """Say that the export is complete; what could not be sent is a warning of the result."""
        manifest = result.manifest
        self._run.export_completed(result)
        if not self._email.on_complete or manifest is None:
            return result

        def mail() -> "Mail":
            from hyperexport.views.mail import success_mail  # noqa: PLC0415

            return success_mail(result, manifest, run=self._run.run)

        return result.model_copy(update={"warnings": (*result.warnings, *self._send(mail))})

    def failed(self, error: BaseException) -> None:
        """Email that the export failed or was stopped. A mail that fails does not hide the error."""
        stopped = isinstance(error, Interrupted) or not isinstance(error, Exception)
        if self._job:
            note_cleanup(error, self._job.cleaned_up)
        failure = FailureReport.of(error)
        if not stopped and self._will_retry():
            return
        # Each member of a fleet has sent its own.
        if not self._silent and not isinstance(error, FleetFailure):
            self._run.export_failed(self._job.ref if self._job else self._vm, error, stopped=stopped)
        if not self._email.on_failure:
            return

        def mail() -> "Mail":
            from hyperexport.views.mail import failure_mail  # noqa: PLC0415

            return failure_mail(
                error,
                vm=self._job.ref.path if self._job else self._vm,
                step=failure.step,
                started=self._began,
                failed=datetime.now(UTC),
                cleaned_up=failure.cleaned_up,
                stopped=stopped,
                run=self._run.run,
            )

        self._send(mail, seconds=SECONDS_WHEN_STOPPED if stopped else SECONDS_TO_SEND)

    def _will_retry(self) -> bool:
        """Whether the last attempt will tell how the run failed, so that this one does not."""
        if self._run.will_retry:
            logger.warning("attempt %d failed, and the run is retried: mails wait for the end", self._run.attempt)
        return self._run.will_retry

    def _send(self, mail: Callable[[], "Mail"], seconds: float = SECONDS_TO_SEND) -> list[str]:
        return notify_all(self._run, self._notifiers, mail, seconds=seconds)


def notifying_of_restore(
    run: StepRunner, source: str, options: ExportOptions
) -> AbstractContextManager["RestoreNotices"]:
    """Email the progress of a restore as the options ask, and last of all why the block failed.

    Args:
        run: Carries out the steps.
        source: The export or VM, as it was asked for.
        options: Those in force. A dry run checks them and sends nothing.
    """
    notices = RestoreNotices(run, source, options.email, run.notifiers(options.email), options.execution.dry_run)
    return _notifying(notices)


class RestoreNotices:
    """The notices of one restore."""

    def __init__(
        self, run: StepRunner, source: str, email: Email, notifiers: tuple[Notifier, ...], silent: bool
    ) -> None:
        self._run: Final = run
        self._email: Final = email
        self._notifiers: Final = () if silent else notifiers
        self._silent: Final = silent
        self._began: Final = datetime.now(UTC)
        self.vm: VmRef | str = source
        """The exported VM, as soon as it is known."""
        self.cleaned_up: Sequence[str] = ()
        """What became of the half-made VM."""

    def started(self, plan: RestorePlan) -> list[str]:
        """Say that the restore begins; returns a warning for each mail that could not be sent."""
        if not self._email.on_start or self._run.attempt > 1:
            return []

        def mail() -> "Mail":
            from hyperexport.views.restore_mails import restoring_mail  # noqa: PLC0415

            return restoring_mail(plan, run=self._run.run)

        return notify_all(self._run, self._notifiers, mail, seconds=SECONDS_TO_SEND)

    def completed(self, result: RestoreResult) -> RestoreResult:
        """Say that the VM is there; what could not be sent is a warning of the result."""
        if self._silent:
            return result
        self._run.restore_completed(result)
        if not self._email.on_complete:
            return result

        def mail() -> "Mail":
            from hyperexport.views.restore_mails import restored_mail  # noqa: PLC0415

            return restored_mail(result, run=self._run.run)

        sent = notify_all(self._run, self._notifiers, mail, seconds=SECONDS_TO_SEND)
        return result.model_copy(update={"warnings": (*result.warnings, *sent)})

    def failed(self, error: BaseException) -> None:
        """Email that the restore failed or was stopped. A mail that fails does not hide the error."""
        stopped = isinstance(error, Interrupted) or not isinstance(error, Exception)
        note_cleanup(error, self.cleaned_up)
        failure = FailureReport.of(error)
        if not stopped and self._run.will_retry:
            logger.warning("attempt %d failed, and the run is retried: mails wait for the end", self._run.attempt)
            return
        if not self._silent:
            self._run.restore_failed(self.vm, error, stopped=stopped)
        if not self._email.on_failure:
            return

        def mail() -> "Mail":
            from hyperexport.views.mail import failure_mail  # noqa: PLC0415

            return failure_mail(
                error,
                vm=self.vm.path if isinstance(self.vm, VmRef) else self.vm,
                step=failure.step,
                started=self._began,
                failed=datetime.now(UTC),
                cleaned_up=failure.cleaned_up,
                stopped=stopped,
                run=self._run.run,
                what_failed="Restore",
            )

        seconds = SECONDS_WHEN_STOPPED if stopped else SECONDS_TO_SEND
        notify_all(self._run, self._notifiers, mail, seconds=seconds)


def notifying_of_drills(
    run: StepRunner, plan: DrillPlan, options: ExportOptions
) -> AbstractContextManager["DrillNotices"]:
    """Email the progress of restore drills as the options ask, and last of all why the block failed.

    Args:
        run: Carries out the steps.
        plan: What is drilled.
        options: Those in force. A dry run checks them and sends nothing.
    """
    notices = DrillNotices(run, plan, options.email, run.notifiers(options.email), options.execution.dry_run)
    return _notifying(notices)


class DrillNotices:
    """The notices of one run's drills; the event of each is the job's."""

    def __init__(
        self, run: StepRunner, plan: DrillPlan, email: Email, notifiers: tuple[Notifier, ...], silent: bool
    ) -> None:
        wanted = plan.wanted
        self._run: Final = run
        self._email: Final = email
        self._notifiers: Final = () if silent else notifiers
        self._began: Final = datetime.now(UTC)
        self._what: Final = (wanted.vm or wanted.export or "") if wanted else "the VMs whose proof is oldest"

    def started(self, exports: Sequence[StoredExport], target: str) -> None:
        """Email that the drills start."""
        if not self._email.on_start or not exports or self._run.attempt > 1:
            return

        def mail() -> "Mail":
            from hyperexport.views.restore_mails import drilling_mail  # noqa: PLC0415

            return drilling_mail(exports, target, run=self._run.run)

        self._send(mail)

    def passed(self, drills: Sequence[DrillResult]) -> list[str]:
        """Email that every export came up; returns a warning for each mail that could not be sent."""
        return self._send(self._of(drills)) if self._email.on_complete and drills else []

    def failed(self, error: BaseException) -> None:
        """Email which exports did not come up, or why none was drilled. A mail that fails does not hide the error."""
        stopped = isinstance(error, Interrupted) or not isinstance(error, Exception)
        if not self._email.on_failure or (self._run.will_retry and not stopped):
            return
        if isinstance(error, DrillFailed) and error.drills:
            self._send(self._of(error.drills))
            return
        failure = FailureReport.of(error)

        def mail() -> "Mail":
            from hyperexport.views.mail import failure_mail  # noqa: PLC0415

            return failure_mail(
                error,
                vm=self._what,
                step=failure.step,
                started=self._began,
                failed=datetime.now(UTC),
                cleaned_up=failure.cleaned_up,
                stopped=stopped,
                run=self._run.run,
                what_failed="Restore drill",
            )

        self._send(mail, seconds=SECONDS_WHEN_STOPPED if stopped else SECONDS_TO_SEND)

    def _of(self, drills: Sequence[DrillResult]) -> "Callable[[], Mail]":
        def mail() -> "Mail":
            from hyperexport.views.restore_mails import drilled_mail  # noqa: PLC0415

            seconds = (datetime.now(UTC) - self._began).total_seconds()
            return drilled_mail(drills, seconds=seconds, run=self._run.run)

        return mail

    def _send(self, mail: Callable[[], "Mail"], seconds: float = SECONDS_TO_SEND) -> list[str]:
        return notify_all(self._run, self._notifiers, mail, seconds=seconds)


def notify_all(
    run: StepRunner, notifiers: tuple[Notifier, ...], mail: Callable[[], "Mail"], *, seconds: float
) -> list[str]:
    """Send a mail by every way; returns a warning for each that failed. Never raises."""
    if not notifiers:
        return []
    try:
        return run(notify, notifiers, mail(), seconds=seconds)
    except Exception as error:  # a job is no worse for a mail that could not be written
        logger.warning("no notification was sent: %s", type(error).__name__, exc_info=True)
        return [f"no notification was sent: unexpected {type(error).__name__}; the run's log has its traceback"]


def send_to_recipients(run: StepRunner, email: Email, mail: Callable[[], "Mail"]) -> list[str]:
    """Send a mail that is about no export, by mail unless only webhooks are named, and to these.

    Returns:
        What was sent, and to whom.

    Raises:
        UsageError: Something is missing or contradictory; the message names the option.
        NotificationFailed: Not everything was sent.
    """
    notifiers = run.notifiers(email, mails=email.notify or bool(email.to) or not email.webhooks)
    failed = run(notify, notifiers, mail())
    if failed:
        raise NotificationFailed("; ".join(failed))
    return [notifier.name for notifier in notifiers]
