"""``hyperexport verify``: prove that stored exports are what was exported."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from hyperexport.cli.command import Command
from hyperexport.cli.execution import direct_runner, options_in_force, uses_prefect
from hyperexport.cli.failures import Failure
from hyperexport.cli.flags import WHAT, CommandLine, Exports, Given, read_duration, reading_options
from hyperexport.cli.output import Output
from hyperexport.errors import VerificationFailed
from hyperexport.options.declaring import VerifyMode

if TYPE_CHECKING:
    from hyperexport.results import VerifiedExport


@dataclass(frozen=True, kw_only=True)
class Verify(Command):
    """Verify these exports, or all of them."""

    exports: tuple[str, ...] = ()
    sample: timedelta | None = None

    def run(self, output: Output) -> list[Failure]:
        """Verify, and show every export, also where some are damaged.

        Raises:
            VerificationFailed: Some are damaged.
        """
        import hyperexport.views.verified  # noqa: F401  # pyright: ignore[reportUnusedImport] - registers the page

        output.nothing("verified")
        try:
            with output.progress():
                verified = self._verify()
        except VerificationFailed as error:
            _show(error.exports, output)
            raise
        _show(verified, output)
        return []

    def _verify(self) -> "Sequence[VerifiedExport]":
        if uses_prefect(self):
            from hyperexport.flows import verify_exports

            days = None if self.sample is None else self.sample / timedelta(days=1)
            return verify_exports(list(self.exports), sample_days=days, options=self.options, profile=self.profile)
        from hyperexport.jobs.verify import verify_exports

        return verify_exports(direct_runner(self), self.exports, options_in_force(self), sample=self.sample)


def arguments(
    given: Given,
    *exports: Exports,
    deep: Annotated[bool, Parameter(group=WHAT, negative=(), help="Download from S3 what S3 keeps.")] = False,
    sample: Annotated[
        str | None,
        Parameter(group=WHAT, help="Verify a random part, so that daily runs verify every export within this: 30d."),
    ] = None,
) -> Verify:
    """Read stored exports back and prove that they are what was exported."""
    mode = VerifyMode.DEEP if deep else VerifyMode.ON
    within = None if sample is None else read_duration("--sample", sample)
    return given.command(Verify, exports=exports, sample=within, options=given.options(verify=mode))


LINE = CommandLine(arguments, reading_options)


def _show(exports: "Sequence[VerifiedExport]", output: Output) -> None:
    for export in exports:
        output.result("verified", export)
