"""Several VMs on the command line: asked for at once, answered one by one, and summed up."""

from hyperexport.cli import jobs, quiet, tables
from hyperexport.cli.failures import FailedMember, Failure
from hyperexport.cli.output import Output
from hyperexport.cli.request import Request
from hyperexport.errors import FleetFailure
from hyperexport.results import FleetResult


def export(request: Request, output: Output) -> list[Failure]:
    """Export the VMs that are chosen, and tell of those that failed."""
    output.nothing("exports")
    try:
        with output.progress():
            result = jobs.export_fleet(request)
    except FleetFailure as error:
        if not isinstance(error.fleet, FleetResult):
            raise
        _show(error.fleet, output)
        return _failures(error, error.fleet, request)
    _show(result, output)
    return []


def _show(result: FleetResult, output: Output) -> None:
    for member in result.members:
        if member.result is not None:
            done = member.result
            output.answer(
                "exports",
                pretty=lambda console, done=done: tables.show_export(console, done) if done.dry_run else None,
                quiet=quiet.export_lines(done),
                document=done.model_dump(mode="json"),
            )
        elif not member.failed:
            output.answer("skipped", pretty=lambda _: None, quiet=quiet.member_lines(member), document=member.vm.path)
    for cleanup in result.cleanups:
        output.answer(
            "cleanups",
            pretty=lambda console, cleanup=cleanup: tables.show_cleanup(console, cleanup),
            quiet=quiet.cleanup_lines(cleanup),
            document=cleanup.model_dump(mode="json"),
        )
    output.answer(
        "fleet",
        pretty=lambda console: tables.show_fleet(console, result),
        quiet=(),
        document={"summary": result.summary, "redo": result.redo, "members": [one.row() for one in result.members]},
    )


def _failures(error: FleetFailure, result: FleetResult, request: Request) -> list[Failure]:
    failures: list[Failure] = [
        FailedMember(error, member.vm.path, member.code or "internal", member.message) for member in result.failed
    ]
    for failure in failures:
        failure.tell(debug=False)
    if request.debug:
        Failure(error).tell(debug=True)
    return failures
