"""What every command has: the flags that all take, a way to run, and an exit code."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from pydantic import SecretStr

from hyperexport.base.secrets import keep_email_password
from hyperexport.cli.failures import Failure, exit_code
from hyperexport.cli.output import Output, OutputFormat
from hyperexport.errors import Interrupted
from hyperexport.options.precedence import ExportOptions
from hyperexport.options.selection import Selection


@dataclass(frozen=True, kw_only=True)
class Command(ABC):
    """A parsed command line. Each command adds its own values, and runs itself.

    Args:
        options: What was given on the command line; the rest is not set.
        profile: The saved profile to use.
        output_format: How to answer.
        debug: Show tracebacks and every decision.
        no_prefect: Run in this process, whatever Prefect API there is.
        vsphere: The saved block with the server and the login, if one was named.
        email_password: The mail server's password, which is no option: options are stored.
    """

    options: ExportOptions = field(default_factory=ExportOptions)
    profile: str | None = None
    output_format: OutputFormat = OutputFormat.PRETTY
    debug: bool = False
    no_prefect: bool = False
    vsphere: str | None = None
    email_password: SecretStr | None = None

    @abstractmethod
    def run(self, output: Output) -> Sequence[Failure]:
        """Do the work and print the answer; the failures that were printed instead of raised."""


@dataclass(frozen=True, kw_only=True)
class VmCommand(Command):
    """A command about VMs.

    Args:
        selection: The VMs, from the command line or else the environment.
    """

    selection: Selection = field(default_factory=Selection)

    @property
    def vms(self) -> tuple[str, ...]:
        """The VMs that are named one by one."""
        return self.selection.vm


def perform(command: Command, output: Output) -> int:
    """Run a command and print how it went.

    Returns:
        The exit code.
    """
    if command.email_password:
        keep_email_password(command.email_password)
    failures = command.run(output)
    output.finish([{"vm": failure.vm, "code": failure.code, "message": failure.message} for failure in failures])
    return exit_code(failures)


def each_vm(vms: Sequence[str], act: Callable[[str], None], *, debug: bool) -> list[Failure]:
    """Take the VMs one after another; one's failure does not stop the next, an interruption stops all.

    Returns:
        The failures, which know whether other VMs succeeded.
    """
    failures: list[Failure] = []
    for vm in vms:
        try:
            act(vm)
        except Exception as error:
            failure = Failure(error, vm)
            if isinstance(failure.cause, Interrupted):
                raise
            failure.report(debug=debug)
            failures.append(failure)
    return [replace(failure, others_succeeded=len(failures) < len(vms)) for failure in failures]
