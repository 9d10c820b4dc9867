"""The flow that proves that mails and messages arrive, before an export depends on it."""

from datetime import UTC, datetime
from typing import Annotated

from prefect import flow

from hyperexport.flows.connections import OPTIONS, Profile, options_in_force
from hyperexport.flows.notifying import tell_everyone, this_run
from hyperexport.flows.outcome import told_in_words
from hyperexport.options.form import Shown
from hyperexport.options.precedence import ExportOptions
from hyperexport.tasks.logs import send_engine_logs_to_prefect
from hyperexport.views.mail import probe_mail


@flow(name="send-test-email", persist_result=False)
@told_in_words
def send_test_email(
    options: Annotated[ExportOptions, Shown("email")] = OPTIONS,
    profile: Profile = None,
) -> list[str]:
    """Send a test to everyone whom an export with these options would tell.

    Args:
        options: The mail server, the recipients, the webhooks. Mails are sent unless only webhooks are named.
        profile: A saved export profile, or its name.

    Returns:
        What was sent, and to whom.

    Raises:
        UsageError: Something is missing or contradictory; the message names the option.
        NotificationFailed: Not everything was sent.
    """
    send_engine_logs_to_prefect()
    return tell_everyone(options_in_force(options, profile).email, probe_mail(sent=datetime.now(UTC), run=this_run()))
