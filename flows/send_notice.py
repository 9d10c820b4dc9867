"""The flow that an automation runs to tell people something: Prefect has no notification block that sends mail."""

from typing import Annotated

from prefect import flow

from hyperexport.flows.connections import OPTIONS, Profile, options_in_force
from hyperexport.flows.notifying import tell_everyone, this_run
from hyperexport.flows.outcome import told_in_words
from hyperexport.options.form import Shown
from hyperexport.options.precedence import ExportOptions
from hyperexport.tasks.logs import send_engine_logs_to_prefect
from hyperexport.views.mail import notice_mail


@flow(name="send-notice", persist_result=False)
@told_in_words
def send_notice(
    subject: str,
    message: str,
    options: Annotated[ExportOptions, Shown("email")] = OPTIONS,
    profile: Profile = None,
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
    send_engine_logs_to_prefect()
    return tell_everyone(options_in_force(options, profile).email, notice_mail(subject, message, run=this_run()))
