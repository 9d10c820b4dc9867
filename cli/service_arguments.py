"""The words of what goes on after the command: ``serve`` and ``schedules``."""

from typing import Annotated, Final

from cyclopts import Group, Parameter

from hyperexport.cli.flags import Debug, Json, Quiet
from hyperexport.cli.request import Mode, Request, Scheduling, Serving, face_of
from hyperexport.errors import UsageError

_SERVE: Final = Group("Serving", sort_key=1)
_ACTIONS: Final = ("pause", "resume", "remove")


def serve(
    *,
    limit: Annotated[int, Parameter(group=_SERVE, help="How many runs there may be at a time.")] = 4,
    api_port: Annotated[
        int | None, Parameter(group=_SERVE, help="Also answer the jobs API at this port; 0 chooses a free one.")
    ] = None,
    api_host: Annotated[
        str,
        Parameter(
            group=_SERVE,
            help="The address of the jobs API. Beyond this machine it needs a token, HYPEREXPORT_API_TOKEN.",
        ),
    ] = "127.0.0.1",
    api_output_root: Annotated[
        list[str] | None,
        Parameter(
            group=_SERVE,
            negative=(),
            help="A folder or s3://bucket/prefix below which jobs may write; repeatable. "
            "The stores of this service's own environment if not given.",
        ),
    ] = None,
    prefect_port: Annotated[
        int, Parameter(group=_SERVE, help="The port of the Prefect server that is started where none is configured.")
    ] = 4200,
    quiet: Quiet = False,
    debug: Debug = False,
) -> Request:
    """Run what is scheduled, or submitted in the Prefect UI or by the jobs API, until it is stopped.

    Ctrl-C or SIGTERM cancels what is running, waits for its cleanup, and ends. Where no Prefect API is configured, a
    Prefect server is started along, with its UI; it keeps everything in Prefect's usual database.
    """
    if limit < 1:
        raise UsageError(f"--limit: {limit} runs at a time is none", fix="Give at least 1")
    for flag, port in (("--api-port", api_port), ("--prefect-port", prefect_port)):
        if port is not None and not 0 <= port <= 65_535:
            raise UsageError(f"{flag}: there is no port {port}", fix="Give one up to 65535")
    serving = Serving(
        limit=limit,
        api_port=api_port,
        api_host=api_host,
        prefect_port=prefect_port,
        api_output_roots=tuple(api_output_root or ()),
    )
    return Request(mode=Mode.SERVE, face=face_of(quiet=quiet, json=False), debug=debug, serving=serving)


def schedules(
    *words: Annotated[str, Parameter(name="ACTION NAME", help="pause, resume or remove, and the schedule's name.")],
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> Request:
    """List the schedules; or pause, resume or remove one.

    They are made with --daemon-schedule and --cleanup-schedule.
    """
    if words and (len(words) != 2 or words[0] not in _ACTIONS):
        raise UsageError(
            f"{' '.join(words)!r} is nothing that can be done to a schedule",
            fix="Say pause, resume or remove and one schedule's name, or nothing for the list",
        )
    scheduling = Scheduling(action=words[0], name=words[1]) if words else Scheduling()
    return Request(mode=Mode.SCHEDULES, face=face_of(quiet=quiet, json=json), debug=debug, scheduling=scheduling)
