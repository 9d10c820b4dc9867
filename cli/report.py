"""``hyperexport report``: how well the VMs of the stores are protected."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from hyperexport import __version__
from hyperexport.cli.command import Command
from hyperexport.cli.execution import store_runner
from hyperexport.cli.failures import Failure
from hyperexport.cli.flags import WHAT, CommandLine, Given, read_duration, store_options
from hyperexport.cli.output import Output, OutputFormat, key_value, numbered, show
from hyperexport.errors import StoreUnusable, UsageError

if TYPE_CHECKING:
    from hyperexport.views.survey import StoreSurvey

_SURVEYED: Final = (
    "path",
    "late",
    "last_success",
    "age_seconds",
    "last_verified",
    "last_drill",
    "exports",
    "stored_bytes",
)


@dataclass(frozen=True, kw_only=True)
class Report(Command):
    """Report on the stores.

    Args:
        rpo: How old the last good export of a VM may be.
        html: Where to write the page.
    """

    rpo: timedelta
    html: Path | None = None

    def run(self, output: Output) -> list[Failure]:
        """Show how well the VMs are protected, and write the page if one was asked for.

        Raises:
            StoreUnusable: A store could not be read; what the others hold is shown first.
        """
        from hyperexport.jobs.report import survey_stores
        from hyperexport.views.survey import survey_page

        surveys = survey_stores(*store_runner(self))
        output.nothing("stores")
        for found in surveys:
            output.answer(
                "stores",
                pretty=lambda console, found=found: show(console, survey_page(found, self.rpo)),
                quiet=survey_lines(found, self.rpo),
                document=_document(found, self.rpo),
            )
        if self.html:
            _write_page(surveys, self.rpo, self.html)
            if output.output_format is OutputFormat.PRETTY:
                output.say(f"The page is {self.html}")
        fail_on_unread(surveys)
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
) -> Report:
    """Show how well each VM is protected: its last good export, its age, its proof, what is missing."""
    return given.command(Report, html=html, rpo=read_duration("--rpo", rpo))


LINE = CommandLine(arguments, store_options)


def _write_page(surveys: "Sequence[StoreSurvey]", rpo: timedelta, path: Path) -> None:
    from hyperexport.views.store_page import store_page

    fresh = path.with_name(f".{path.name}.partial")  # a reader sees the old page or the new one
    try:
        fresh.write_text(store_page(surveys, rpo, version=__version__), encoding="utf-8")
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


def fail_on_unread(surveys: "Sequence[StoreSurvey]") -> None:
    """Fail where a store could not be read: of what is in it nothing is known.

    Raises:
        StoreUnusable: One could not.
    """
    problems = [f"{found.store}: {found.problem}" for found in surveys if found.problem]
    if problems:
        raise StoreUnusable(f"not every store could be read: {problems[0]}")


def survey_lines(found: "StoreSurvey", rpo: timedelta) -> list[str]:
    """How well each VM of a store is protected: the store's lines, then a block for each VM."""
    lines = [
        key_value("store", found.store),
        key_value("problem", found.problem or ""),
        key_value("vms", len(found.vms)),
    ]
    lines += [key_value("late", len(found.late(rpo))), key_value("unreadable", len(found.unproved))]
    lines += [key_value("damaged", one.words) for one in found.unproved]
    for vm in found.vms:
        facts = vm.facts(found.taken, rpo)
        lines += ["", key_value("vm", vm.name), *(key_value(key, _plain(facts[key])) for key in _SURVEYED)]
        lines += numbered("missing", vm.missing(found.taken, rpo))
    return lines


def _plain(value: object) -> object:
    return "" if value is None else value
