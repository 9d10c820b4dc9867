"""``hyperexport serve``: run what is scheduled or submitted."""

import os
import socket
from dataclasses import dataclass
from typing import Annotated, Final

from cyclopts import Group, Parameter

from hyperexport.cli.command import Command
from hyperexport.cli.failures import Failure
from hyperexport.cli.flags import CommandLine, Debug, Quiet
from hyperexport.cli.output import Output, OutputFormat, output_format_of
from hyperexport.errors import UsageError
from hyperexport.workarounds.environment import keep_prefect_quiet

TOKEN_VARIABLE: Final = "HYPEREXPORT_API_TOKEN"  # noqa: S105 - the variable's name
_SERVE: Final = Group("Serving", sort_key=1)


@dataclass(frozen=True, kw_only=True)
class Serve(Command):
    """Serve the deployments.

    Args:
        limit: Maximum number of concurrent runs.
        api_port: The jobs API's port; None for no jobs API.
        api_host: The address that it listens on.
        prefect_port: The port of the Prefect server, where none is configured.
        api_output_roots: The folders and S3 prefixes below which jobs may write; the service's own stores if empty.
        allow_users: The names of the local users who are answered besides this one and root.
    """

    limit: int
    api_port: int | None
    api_host: str
    prefect_port: int
    api_output_roots: tuple[str, ...] = ()
    allow_users: tuple[str, ...] = ()

    def run(self, output: Output) -> list[Failure]:
        """Serve until it is stopped."""
        from hyperexport.deployments.local_server import provide_persistent_api
        from hyperexport.deployments.local_users import allowed_users
        from hyperexport.deployments.orchestrator import announced, configured_api

        keep_prefect_quiet()
        token = os.environ.pop(TOKEN_VARIABLE, None)  # no flow process needs it
        users = allowed_users(self.allow_users)
        own = configured_api() is None
        with output.waiting("waiting for Prefect"):
            url = provide_persistent_api(self.prefect_port, self.allow_users)
        from hyperexport.deployments import serve as service

        listener = None if self.api_port is None else service.listen(self.api_host, self.api_port, token)
        jobs_api = _address(listener) if listener else ""

        def announce() -> None:
            ui = url.removesuffix("/api")
            if output.output_format is OutputFormat.QUIET:
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
                limit=self.limit,
                api=listener,
                token=token,
                output_roots=self.api_output_roots,
                users=users,
                on_ready=announce,
            )
        return []


def arguments(
    *,
    limit: Annotated[int, Parameter(group=_SERVE, help="Maximum number of concurrent runs.")] = 4,
    api_port: Annotated[
        int | None, Parameter(group=_SERVE, help="Also serve the jobs API on this port; 0 chooses a free one.")
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
    allow_user: Annotated[
        list[str] | None,
        Parameter(
            group=_SERVE,
            metavar="NAME",
            negative=(),
            help="Also answer this local user, at the Prefect server that is started and at a jobs API without a "
            "token; repeatable; any: every user. Without it only the user who started the service, and root.",
        ),
    ] = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> Serve:
    """Run what is scheduled, or submitted in the Prefect UI or by the jobs API, until it is stopped.

    Ctrl-C or SIGTERM cancels what is running, waits for its cleanup, and ends. Where no Prefect API is configured, a
    Prefect server is started along, with its UI; it keeps everything in Prefect's usual database.
    """
    if limit < 1:
        raise UsageError(f"--limit: {limit} is less than 1", fix="Give at least 1")
    for flag, port in (("--api-port", api_port), ("--prefect-port", prefect_port)):
        if port is not None and not 0 <= port <= 65_535:
            raise UsageError(f"{flag}: there is no port {port}", fix="Give one up to 65535")
    return Serve(
        output_format=output_format_of(quiet=quiet, json=False),
        debug=debug,
        limit=limit,
        api_port=api_port,
        api_host=api_host,
        prefect_port=prefect_port,
        api_output_roots=tuple(api_output_root or ()),
        allow_users=tuple(allow_user or ()),
    )


LINE = CommandLine(arguments)


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
