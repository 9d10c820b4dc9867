"""The jobs that mail people about no export: a test, and the notice of an automation."""

from datetime import UTC, datetime

from hyperexport.jobs.notices import send_to_recipients
from hyperexport.jobs.runner import StepRunner
from hyperexport.options.precedence import ExportOptions
from hyperexport.views.mail import notice_mail, probe_mail


def send_test_email(run: StepRunner, options: ExportOptions) -> list[str]:
    """Send a test message to all recipients of an export with these options.

    Returns:
        What was sent, and to whom.

    Raises:
        UsageError: Something is missing or contradictory; the message names the option.
        NotificationFailed: Not everything was sent.
    """
    run.check_options(options)
    return send_to_recipients(run, options.email, lambda: probe_mail(sent=datetime.now(UTC), run=run.run))


def send_notice(run: StepRunner, subject: str, message: str, options: ExportOptions) -> list[str]:
    """Send a notice to everyone whom an export with these options would tell. Errors as of :func:`send_test_email`."""
    run.check_options(options)
    return send_to_recipients(run, options.email, lambda: notice_mail(subject, message, run=run.run))
