"""A Prefect server that ends with its process, for ``hyperexport serve`` where none is configured, and for the demo.

It is started before Prefect is imported, so that both take their seconds at once; it is out of reach of the terminal's
Ctrl-C, so that the cleanup of an interrupted run still has a server; what it prints goes to a file; and it ends with
the process that started it, even a killed one, because its standard input ends then. It uses Prefect's own database,
so runs and schedules are there when another server shows them. It has the UI and the services that start scheduled
runs.
"""

import atexit
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Collection, Mapping
from typing import IO, TYPE_CHECKING, Any, Final
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from hyperexport.base.garbage import spare_imports
from hyperexport.deployments.orchestrator import configured_api, use_no_proxy_for
from hyperexport.errors import ServerUnreachable, UsageError
from hyperexport.workarounds.environment import WHOLE_SERVER

if TYPE_CHECKING:
    from hyperexport.deployments.http_guard import Application

_START: Final = 120.0
"""Seconds that it may take to answer: its first start creates the database."""

_STOP: Final = 10.0
_OURS: Final = ("GOVC_", "HYPEREXPORT_", "AWS_")
"""Variables that this command gets and the server must not: passwords, for example."""


def provide_persistent_api(port: int, users: Collection[str] = ()) -> str:
    """Have a Prefect API that also starts scheduled runs: the configured one, or a whole server in this process's care.

    Args:
        port: Where on this machine such a server listens, so that other commands and a browser find it.
        users: Who of this machine is answered by it, besides this user and root; see :func:`launch`.

    Returns:
        The API's address.

    Raises:
        UsageError: The port is taken, or a server of our own is forbidden.
        ServerUnreachable: It does not start.
    """
    return configured_api() or start(port, users)


def start(port: int, users: Collection[str] = ()) -> str:
    """Start a whole server in this process's care, and have Prefect use it; answers the API's address.

    Raises:
        UsageError: The port is taken, or a server of our own is forbidden.
        ServerUnreachable: It does not start.
    """
    if os.environ.get("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", "true").lower() in ("false", "0"):
        raise UsageError("no Prefect API is configured and one of our own is forbidden", fix="Set PREFECT_API_URL")
    try:
        log = tempfile.TemporaryFile()  # noqa: SIM115 - the server writes to it until the process ends
    except OSError as error:
        raise ServerUnreachable(
            f"no temporary file for the Prefect server's output: {error.strerror or error}",
            fix="Set TMPDIR to a folder that this user can write",
        ) from error
    settings = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    server, url = launch(port, settings, log, whole=True, users=users)
    atexit.register(end, server)
    os.environ["PREFECT_API_URL"] = url
    use_no_proxy_for(url)
    from hyperexport import flows  # noqa: F401  # pyright: ignore[reportUnusedImport] - needed anyway, and the server is not ready yet

    _await(url, log)
    return url


def launch(
    port: int, settings: Mapping[str, str], log: IO[bytes], *, whole: bool, users: Collection[str] = ()
) -> tuple[subprocess.Popen[bytes], str]:
    """Start such a server. A client that connects before it answers waits.

    Args:
        port: Where it listens on this machine; 0 for a free port.
        settings: Its environment.
        log: Where it prints.
        whole: Whether it also has the UI, and starts scheduled runs.
        users: The names of users of this machine who are answered besides this one and root; ``any`` for all. All are
            answered, too, where a password (PREFECT_SERVER_API_AUTH_STRING) is asked for.

    Returns:
        Its process, to be given to :func:`end`, and the API's address.

    Raises:
        UsageError: The port is taken.
        ServerUnreachable: The process could not be started.
    """
    # The server inherits a listening socket, so there is no port to guess.
    with _listener(port) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
        if whole:
            settings = {**WHOLE_SERVER, **settings, "PREFECT_UI_API_URL": url}
        command = [
            sys.executable,
            "-m",
            "hyperexport.deployments.local_server",
            str(listener.fileno()),
            "whole" if whole else "api",
            *users,
        ]
        try:
            server = subprocess.Popen(
                command,
                env=settings,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[listener.fileno()],
                start_new_session=True,
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ServerUnreachable(
                f"the Prefect server could not be started: {reason}", fix="Check this machine's memory and limits"
            ) from error
    return server, url


def _listener(port: int) -> socket.socket:
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise UsageError(
            f"port {port} is not free for a Prefect server: {error.strerror}",
            fix=f"If one is there already, set PREFECT_API_URL=http://127.0.0.1:{port}/api; else choose another port",
        ) from error


def _await(url: str, log: Any) -> None:
    try:
        with build_opener(ProxyHandler({})).open(f"{url}/health", timeout=_START) as answer:
            answer.read()
    except (URLError, OSError) as error:
        log.seek(0)
        last = log.read().decode(errors="replace").strip().splitlines()[-1:] or ["it printed nothing"]
        raise ServerUnreachable(
            f"the Prefect server did not start: {error} ({last[0][:200]})",
            fix="Start one with prefect server start and set PREFECT_API_URL",
        ) from error


def end(server: subprocess.Popen[bytes]) -> None:
    """Close its input, at which it ends; kill it if it does not."""
    if server.stdin:
        server.stdin.close()
    try:
        server.wait(_STOP)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def main() -> None:
    """Be that server, on the socket inherited as the descriptor in the first argument, until standard input ends."""
    spare_imports()
    from prefect.server.api.server import create_app
    from prefect.settings import PREFECT_SERVER_API_AUTH_STRING, temporary_settings

    from hyperexport.deployments.http_guard import SameOrigin
    from hyperexport.deployments.local_users import LocalUsers, allowed_users
    from hyperexport.workarounds.block_logos import Logos
    from hyperexport.workarounds.known_schemas import remember_checked_schemas
    from hyperexport.workarounds.server_settings import server_settings
    from hyperexport.workarounds.time_zones import remember_time_zones

    whole = sys.argv[2] == "whole"
    users = None if PREFECT_SERVER_API_AUTH_STRING.value() else allowed_users(sys.argv[3:])
    # The parent's blocked signals were inherited. A service manager sends SIGTERM to both at once, and while the
    # parent cancels its runs it still needs this server.
    signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGTERM} if whole else ())
    listener = socket.socket(fileno=int(sys.argv[1]))
    remember_checked_schemas()
    remember_time_zones()
    with temporary_settings(server_settings(listener.getsockname()[1])):
        app = SameOrigin(Logos(create_app(ephemeral=not whole, final=True)), loopback_only=True)
        serve(LocalUsers(app, users=users), listener)


def serve(app: "Application", listener: socket.socket) -> None:
    """Answer on a listening socket until standard input ends."""
    import uvicorn

    # Whom a request is of is asked by the connection's own address, not by what a header says.
    settings = uvicorn.Config(app, log_level="error", lifespan="on", proxy_headers=False, timeout_graceful_shutdown=5)
    server = uvicorn.Server(settings)

    def end_with_parent() -> None:
        sys.stdin.buffer.read()
        server.should_exit = True

    threading.Thread(target=end_with_parent, daemon=True).start()
    server.run(sockets=[listener])


if __name__ == "__main__":
    main()
