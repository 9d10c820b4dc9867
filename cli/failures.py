"""What went wrong, in one line for a person: ``hyperexport: <message> [<code>]``. Knows errors, not what was done."""

import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from hyperexport.base.json_logs import VARIABLE as JSON_LOGS
from hyperexport.base.json_logs import json_line
from hyperexport.base.text import escape_controls, one_line
from hyperexport.cli.interrupts import was_interrupted
from hyperexport.errors import HyperExportError, Interrupted, PartialFleetFailure
from hyperexport.prefect_errors import of_prefect


@dataclass(frozen=True)
class Failure:
    """One failed VM, or, without a VM, the whole command.

    Args:
        error: What was raised.
        vm: The VM's name or path as it was asked for.
        others_succeeded: Whether the command did its work on other VMs.
    """

    error: BaseException
    vm: str | None = None
    others_succeeded: bool = False

    @property
    def cause(self) -> HyperExportError | None:
        """The HyperExportError behind it; None for an unexpected error."""
        return find_cause(self.error)

    @property
    def code(self) -> str:
        """The stable name to search for."""
        return self.cause.code if self.cause else "internal"

    @property
    def exit_code(self) -> int:
        """What the command exits with when this is all that failed."""
        if self.others_succeeded:
            return PartialFleetFailure.exit_code
        return self.cause.exit_code if self.cause else 1

    @property
    def message(self) -> str:
        """What failed, why, and what to do, as one line."""
        if self.cause:
            return one_line(str(self.cause))
        name = type(self.error).__name__
        return one_line(f"unexpected {name}: {self.error} (--debug shows where)")

    def report(self, *, debug: bool) -> None:
        """Write the line to standard error, and with ``--debug`` the traceback above it."""
        if os.environ.get(JSON_LOGS) == "json":
            told = "".join(traceback.format_exception(self.error)) if debug else None
            print(json_line("ERROR", self.message, vm=self.vm, code=self.code, exception=told), file=sys.stderr)
            return
        if debug:
            told = "".join(traceback.format_exception(self.error))
            print(escape_controls(told, keep="\n"), end="", file=sys.stderr)
        prefix = f"{one_line(self.vm)}: " if self.vm and self.vm not in self.message else ""
        print(f"hyperexport: {prefix}{self.message} [{self.code}]", file=sys.stderr)


@dataclass(frozen=True)
class FailedMember(Failure):
    """One failed VM of a fleet; ``error`` is the fleet's, which says by its exit code whether all of them failed.

    Args:
        member_code: The stable name of the VM's own error.
        member_message: What failed on it.
    """

    member_code: str = "internal"
    member_message: str = ""

    @property
    def code(self) -> str:
        """The stable name of the VM's own error."""
        return self.member_code

    @property
    def message(self) -> str:
        """The error of the VM, as its fleet recorded it."""
        return one_line(self.member_message)


def exit_code(failures: Sequence[Failure]) -> int:
    """Work out what to exit with: the code that all failures have, else 1."""
    if not failures:
        return 0
    codes = {failure.exit_code for failure in failures}
    return codes.pop() if len(codes) == 1 else 1


def find_cause(error: BaseException) -> HyperExportError | None:
    """Look for our own error inside what Prefect, a thread pool or a group of exceptions made of it."""
    seen: set[int] = set()
    waiting: list[BaseException] = [error]
    prefects: HyperExportError | None = None
    while waiting:
        found = waiting.pop(0)
        if isinstance(found, HyperExportError):
            return found
        if isinstance(found, KeyboardInterrupt):
            return Interrupted("interrupted")
        prefects = prefects or of_prefect(found)
        if id(found) in seen:
            continue
        seen.add(id(found))
        inner: Sequence[BaseException] = getattr(found, "exceptions", ())  # of an ExceptionGroup
        waiting += [nearby for nearby in (*inner, found.__cause__, found.__context__) if nearby is not None]
    # pydantic and others make an error of their own of a KeyboardInterrupt that meets them, and lose it on the way.
    return Interrupted("interrupted") if was_interrupted() else prefects
