"""The flow that an automation runs to tell people something: Prefect has no notification block that sends mail."""

from typing import Annotated, Unpack

from hyperexport.flows.job_flow import job_flow
from hyperexport.flows.runtime import OPTIONS, Profile, options_in_force, runner_for
from hyperexport.jobs import mail
from hyperexport.options.form import Shown
from hyperexport.options.keywords import OptionKeywords
from hyperexport.options.precedence import ExportOptions


@job_flow("send-notice", "notice: {subject}".format_map)
def send_notice(
    subject: str,
    message: str,
    options: Annotated[ExportOptions, Shown("email")] = OPTIONS,
    profile: Profile = None,
    **_: Unpack[OptionKeywords],
) -> list[str]:
    """Send a notice to everyone whom an export with these options would tell.

    Args:
        subject: What it is about, in one line.
        message: A sentence, and below it a line for each detail.
        options: The mail server, the recipients, the webhooks. Mails are sent unless only webhooks are named.
        profile: A saved export profile, or its name.

    Returns:
        What was sent, and to whom.

    Raises:
        UsageError: Something is missing or contradictory; the message names the option.
        NotificationFailed: Not everything was sent.
    """
    return mail.send_notice(runner_for(), subject, message, options_in_force(options, profile))
