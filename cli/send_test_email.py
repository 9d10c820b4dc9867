"""``hyperexport send-test-email``: whether mails arrive."""

from pydantic import SecretStr

from hyperexport.cli.command import Command
from hyperexport.cli.execution import direct_runner, options_in_force, uses_prefect
from hyperexport.cli.failures import Failure
from hyperexport.cli.flags import CommandLine, EmailPassword, Given, mail_options
from hyperexport.cli.output import Output


class SendTestEmail(Command):
    """Send a test mail."""

    def run(self, output: Output) -> list[Failure]:
        """Send it, and show to whom and how."""
        sent = self._send()
        output.answer(
            "sent",
            pretty=lambda console: console.print(
                *(f"sent: {way}" for way in sent), sep="\n", markup=False, soft_wrap=True
            ),
            quiet=[f"sent={way}" for way in sent],
            document=sent,
        )
        return []

    def _send(self) -> list[str]:
        if uses_prefect(self):
            from hyperexport.flows import send_test_email

            return send_test_email(self.options, profile=self.profile)
        from hyperexport.jobs.mail import send_test_email

        return send_test_email(direct_runner(self), options_in_force(self))


def arguments(given: Given, *, email_password: EmailPassword = None) -> SendTestEmail:
    """Send a test message to all recipients of an export with these options."""
    password = SecretStr(email_password) if email_password else None
    return given.command(SendTestEmail, email_password=password)


LINE = CommandLine(arguments, mail_options)
