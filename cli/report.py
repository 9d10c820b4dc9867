"""``hyperexport report``: how well the VMs of the stores are protected."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from hyperexport import __version__
from hyperexport.cli.command import Command
from hyperexport.cli.execution import store_runner
from hyperexport.cli.failures import Failure
from hyperexport.cli.flags import WHAT, CommandLine, Given, read_duration, store_options
from hyperexport.cli.output import Output, OutputFormat, block_lines, show
from hyperexport.errors import UsageError

if TYPE_CHECKING:
    from hyperexport.jobs.report import Reported
    from hyperexport.views.survey import StoreSurvey


@dataclass(frozen=True, kw_only=True)
class Report(Command):
    """Report on the stores.

    Args:
        rpo: How old the last good export of a VM may be.
        html: Where to write the page.
        inventory: Whether vCenter is asked which VMs there are.
    """

    rpo: timedelta
    html: Path | None = None
    inventory: bool = False

    def run(self, output: Output) -> list[Failure]:
        """Show how well the VMs are protected, and write the page if one was asked for.

        Raises:
            HyperExportError: A store, or vCenter, could not be read; what the others hold is shown first.
        """
        from hyperexport.jobs.report import report
        from hyperexport.views.coverage import coverage_blocks, coverage_page
        from hyperexport.views.survey import survey_blocks, survey_page

        reported = report(*store_runner(self), inventory=self.inventory)
        output.nothing("stores")
        for found in reported.surveys:
            output.answer(
                "stores",
                pretty=lambda console, found=found: show(console, survey_page(found, self.rpo)),
                quiet=lambda found=found: block_lines(survey_blocks(found, self.rpo)),
                document=_document(found, self.rpo),
            )
        if (covered := reported.coverage) is not None:
            output.answer(
                "inventory",
                pretty=lambda console: show(console, coverage_page(covered, self.rpo)),
                quiet=lambda: block_lines(coverage_blocks(covered, self.rpo)),
                document=lambda: {"vcenter": covered.server, "vms": covered.facts(self.rpo)},
            )
        if self.html:
            _write_page(reported, self.rpo, self.html)
            if output.output_format is OutputFormat.PRETTY:
                output.say(f"The page is {self.html}")
        if reported.error:
            raise reported.error
        return []


def arguments(
    given: Given,
    *,
    html: Annotated[
        Path | None, Parameter(metavar="FILE", group=WHAT, help="Also write one self-contained page with plots.")
    ] = None,
    rpo: Annotated[
        str,
        Parameter(metavar="DURATION", group=WHAT, help="How old the last good export may be. [default: 26h]"),
    ] = "26h",
    inventory: Annotated[
        bool,
        Parameter(group=WHAT, negative=(), help="Also ask vCenter for its VMs, and show those without an export."),
    ] = False,
) -> Report:
    """Show how well each VM is protected: its last good export, its age, its proof, what is missing."""
    return given.command(Report, html=html, rpo=read_duration("--rpo", rpo), inventory=inventory)


LINE = CommandLine(arguments, store_options)


def _write_page(reported: "Reported", rpo: timedelta, path: Path) -> None:
    from hyperexport.views.store_page import store_page

    page = store_page(reported.surveys, rpo, version=__version__, covered=reported.coverage)
    fresh = path.with_name(f".{path.name}.partial")  # a reader sees the old page or the new one
    try:
        fresh.write_text(page, encoding="utf-8")
        fresh.replace(path)
    except OSError as error:
        raise UsageError(f"--html: {path} cannot be written: {error.strerror or error}") from error
    finally:
        fresh.unlink(missing_ok=True)


def _document(found: "StoreSurvey", rpo: timedelta) -> dict[str, object]:
    """The store for ``--json``: facts of each VM, not its manifests."""
    return {
        "store": found.store,
        "problem": found.problem,
        "taken": found.taken.isoformat(),
        "rpo_seconds": rpo.total_seconds(),
        "stored_bytes": found.stored_bytes,
        "free_bytes": found.free_bytes,
        "unreadable": [str(one) for one in found.unproved],
        "damaged": [one.model_dump(mode="json") for one in found.unproved],
        "vms": [vm.facts(found.taken, rpo) for vm in found.vms],
    }
