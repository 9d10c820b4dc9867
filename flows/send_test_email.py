"""The flow that proves that mails and messages arrive, before an export depends on it."""

from typing import Annotated

from prefect import flow

from hyperexport.flows.outcome import report_failures
from hyperexport.flows.run_names import run_name
from hyperexport.flows.runtime import OPTIONS, Profile, options_in_force, runner_for
from hyperexport.jobs import mail
from hyperexport.options.form import Shown
from hyperexport.options.precedence import ExportOptions


@flow(name="send-test-email", flow_run_name=run_name("test email".format_map), persist_result=False)
@report_failures
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
    return mail.send_test_email(runner_for(), options_in_force(options, profile))
