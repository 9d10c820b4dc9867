"""The flow that proves that mails and messages arrive, before an export depends on it."""

from typing import Annotated, Unpack

from hyperexport.flows.job_flow import job_flow
from hyperexport.flows.runtime import OPTIONS, Profile, options_in_force, runner_for
from hyperexport.jobs import mail
from hyperexport.options.form import Shown
from hyperexport.options.keywords import OptionKeywords
from hyperexport.options.precedence import ExportOptions


@job_flow("send-test-email", "test email".format_map)
def send_test_email(
    options: Annotated[ExportOptions, Shown("email")] = OPTIONS,
    profile: Profile = None,
    **_: Unpack[OptionKeywords],
) -> list[str]:
    """Send a test message to all recipients of an export with these options.

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
