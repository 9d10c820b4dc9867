"""What goes on after the command: making and minding schedules, and serving them."""

import os
import socket
from typing import TYPE_CHECKING, Final

from hyperexport.cli import quiet, tables
from hyperexport.cli.output import Output
from hyperexport.cli.request import Face, Request, Scheduling
from hyperexport.deployments.local_server import provide_lasting_api
from hyperexport.deployments.orchestrator import announced, configured_api
from hyperexport.errors import UsageError
from hyperexport.options.precedence import ExportOptions

if TYPE_CHECKING:
    from hyperexport.deployments.schedules import PlannedSchedule

TOKEN_VARIABLE: Final = "HYPEREXPORT_API_TOKEN"  # noqa: S105 - the variable's name


def check_scheduling(request: Request) -> None:
    """Refuse what makes no sense in a schedule, before a Prefect server is waited for.

    Raises:
        UsageError: As it says.
    """
    scheduling = request.scheduling or Scheduling()
    if scheduling.daemon and not request.selection:
        raise UsageError("no VM is named for --daemon-schedule", fix="Name one with --vm")
    if request.selection and not scheduling.daemon:
        raise UsageError(
            "--cleanup-schedule does not say when the VM is exported",
            fix="Add --daemon-schedule 'name:CRON', or leave --vm out for a scheduled cleanup alone",
        )
    if scheduling.timezone and not scheduling.daemon:
        raise UsageError("--schedule-timezone has no effect without --daemon-schedule", fix="Leave it out")
    if request.email_password:
        raise UsageError(
            "--email-password cannot be kept in a schedule, where others could read it",
            fix="Name a saved block with --email-credentials, or set HYPEREXPORT_EMAIL_PASSWORD where "
            "hyperexport serve runs",
        )
    if not request.profile:
        _check_limits(request, cleans_up=request.options.cleanup.enabled)


def _check_limits(request: Request, *, cleans_up: bool) -> None:
    """Refuse limits of a cleanup where there will be none."""
    limits = [key for key in request.options.given_keys() if key.startswith("cleanup_")]
    if limits and not cleans_up and not (request.scheduling and request.scheduling.cleanup):
        flag = "--" + limits[0].replace("_", "-")
        raise UsageError(f"{flag} has no effect without a cleanup", fix="Add --cleanup or --cleanup-schedule 24h")


def make_schedules(request: Request, output: Output) -> None:
    """Make the schedules that the command line asks for; in a dry run only show them."""
    from hyperexport.deployments import schedules

    dry_run = request.options.execution.dry_run
    done = "would schedule" if dry_run else "scheduled"
    for plan in _plans(request):
        schedule = plan.shown if dry_run else schedules.apply(plan)
        output.answer(
            "schedules",
            pretty=lambda console, schedule=schedule: tables.show_scheduled(console, schedule, done),
            quiet=[*quiet.schedule_lines(schedule), f"dry_run={str(dry_run).lower()}"],
            document={**schedule.model_dump(mode="json"), "dry_run": dry_run},
        )
    if output.face is Face.PRETTY:
        output.say("Nothing was changed." if dry_run else _how_they_run(request))


def _plans(request: Request) -> "list[PlannedSchedule]":
    """Work all of them out before the first is made."""
    from hyperexport.blocks.export_profile import load_profile
    from hyperexport.deployments import schedules

    scheduling = request.scheduling or Scheduling()
    given = request.options.given_keys()
    given.pop("dry_run", None)
    options = ExportOptions.from_keys(given)
    profile = load_profile(request.profile) if request.profile else None
    _check_limits(request, cleans_up=schedules.cleans_up(options, profile))
    plans: list[PlannedSchedule] = []
    if scheduling.daemon:
        plans.append(
            schedules.plan_export(
                scheduling.daemon,
                request.selection,
                options,
                timezone=scheduling.timezone,
                vsphere=request.vsphere,
                profile=profile,
            )
        )
    if scheduling.cleanup:
        name = f"{plans[0].name}-cleanup" if plans else "cleanup"
        plans.append(schedules.plan_cleanup(name, scheduling.cleanup, options, profile=profile))
    return plans


def _how_they_run(request: Request) -> str:
    words = "It fires while hyperexport serve, or a Prefect worker of the pool 'hyperexport', runs."
    exports = request.selection and not request.vsphere
    return f"{words} The vSphere login is the one in its environment." if exports else words


def mind_schedules(request: Request, output: Output) -> None:
    """List the schedules, or pause, resume or remove one."""
    from hyperexport.deployments import schedules

    scheduling = request.scheduling or Scheduling()
    if scheduling.action and scheduling.name:
        act = {"pause": schedules.pause, "resume": schedules.resume, "remove": schedules.remove}[scheduling.action]
        found = [act(scheduling.name)]
    else:
        found = schedules.schedules()
    output.nothing("schedules")
    for schedule in found:
        output.answer(
            "schedules",
            pretty=lambda _: None,
            quiet=quiet.schedule_lines(schedule),
            document=schedule.model_dump(mode="json"),
        )
    if output.face is Face.PRETTY:
        done = {"pause": "paused", "resume": "resumed", "remove": "removed"}.get(scheduling.action or "")
        output.draw(lambda console: tables.show_schedules(console, found, done))


def serve(request: Request, output: Output) -> None:
    """Serve until it is stopped."""
    serving = request.serving
    assert serving is not None
    token = os.environ.pop(TOKEN_VARIABLE, None)  # no flow process needs it
    own = configured_api() is None
    with output.waiting("waiting for Prefect"):
        url = provide_lasting_api(serving.prefect_port)
    from hyperexport.deployments import serve as service

    listener = None if serving.api_port is None else service.listen(serving.api_host, serving.api_port, token)
    jobs_api = _address(listener) if listener else ""

    def tell() -> None:
        ui = url.removesuffix("/api")
        if output.face is Face.QUIET:
            output.say(f"prefect_api={url}", f"jobs_api={jobs_api}")
            return
        if own:
            output.say(f"Prefect runs along at {ui}, and keeps everything in its usual database.")
            output.say("Other commands of this user on this machine find it and run there;")
            output.say(f"elsewhere: export PREFECT_API_URL={url}")
        else:
            output.say(f"Serving the deployments of Prefect at {ui}.")
        if jobs_api:
            output.say(f"The jobs API is at {jobs_api}, described at {jobs_api}/docs.")
        output.say("Ready. Ctrl-C cancels what is running, and ends.")

    with announced(url):
        service.serve(
            limit=serving.limit, api=listener, token=token, output_roots=serving.api_output_roots, on_ready=tell
        )


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
