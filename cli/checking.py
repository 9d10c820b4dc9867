"""A check on the command line: everything that was tried is shown, and the exit code says whether it would do."""

from hyperexport.cli import jobs, quiet, tables
from hyperexport.cli.failures import Failure
from hyperexport.cli.output import Output
from hyperexport.cli.request import Request
from hyperexport.errors import SetupUnfit
from hyperexport.results import SetupReport


def check(request: Request, output: Output) -> list[Failure]:
    """Have the setup checked, and show what was found."""
    output.nothing("checks")
    try:
        report = jobs.check_setup(request)
    except SetupUnfit as error:
        if not isinstance(error.report, SetupReport):
            raise
        _show(error.report, output)
        failure = Failure(error)
        failure.tell(debug=request.debug)
        return [failure]
    _show(report, output)
    return []


def _show(report: SetupReport, output: Output) -> None:
    output.answer(
        "checks",
        pretty=lambda console: tables.show_check(console, report),
        quiet=quiet.check_lines(report),
        document={"summary": report.summary, **report.model_dump(mode="json")},
    )
