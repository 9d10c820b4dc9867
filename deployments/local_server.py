"""A Prefect server for one command, where none is configured: so that an export needs nothing set up beforehand.

Prefect would start one by itself. This one is started before Prefect is imported, so that both take their seconds at
once; it is out of reach of the terminal's Ctrl-C, so that the cleanup of an interrupted run still has a server; what
it prints goes to a file; and it ends with the process that started it, even a killed one, because its standard input
ends then. It uses Prefect's own database, so runs and schedules are there when another server shows them. For
``hyperexport serve`` it is a whole server, with the UI and the services that start scheduled runs.
"""

import atexit
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final
from urllib.error import URLError
from urllib.request import urlopen

from hyperexport.errors import ServerUnreachable, UsageError

if TYPE_CHECKING:
    from hyperexport.deployments.http_guard import Application

_START: Final = 120.0
"""Seconds that it may take to answer: its first start creates the database."""

_STOP: Final = 10.0
_OURS: Final = ("GOVC_", "HYPEREXPORT_", "AWS_")
"""What is told to this command and is none of the server's business: passwords, for one."""

_WHOLE: Final = {
    # A run that died with the machine would otherwise count as running for ever, and its schedule never fire again:
    # Prefect keeps the slots of deployments' concurrency limits in memory by default, and their holders' end with it.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
}


def configured_api() -> str | None:
    """The address of the Prefect API that this user has configured, without importing Prefect.

    Looked up where Prefect does (docs.prefect.io, settings): the environment, ``.env``, ``prefect.toml`` and
    ``pyproject.toml`` here, and the active profile.
    """
    if "prefect" in sys.modules:  # notebooks and tests: Prefect itself knows best
        from prefect.settings import get_current_settings

        return get_current_settings().api.url
    return (
        os.environ.get("PREFECT_API_URL")
        or _dotenv().get("PREFECT_API_URL")
        or _dig(_toml(Path("prefect.toml")), "api", "url")
        or _dig(_toml(Path("pyproject.toml")), "tool", "prefect", "api", "url")
        or _active_profile().get("PREFECT_API_URL")
    )


def provide_prefect_api() -> None:
    """Have a Prefect API until this process ends: the configured one, or a temporary one.

    The temporary one ends by ``atexit``, after Prefect's threads have handed their last logs and events to it.

    Raises:
        UsageError: None is configured, and a temporary one is forbidden.
        ServerUnreachable: The temporary one does not start.
    """
    if configured_api():
        return
    _start(0, whole=False)


def provide_lasting_api(port: int) -> str:
    """Have a Prefect API that also starts scheduled runs: the configured one, or a whole server in this process's care.

    Args:
        port: Where on this machine such a server listens, so that other commands and a browser find it.

    Returns:
        The API's address.

    Raises:
        UsageError: The port is taken, or a server of our own is forbidden.
        ServerUnreachable: It does not start.
    """
    return configured_api() or _start(port, whole=True)


def _start(port: int, *, whole: bool) -> str:
    if os.environ.get("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", "true").lower() in ("false", "0"):
        raise UsageError("no Prefect API is configured and a temporary one is forbidden", fix="Set PREFECT_API_URL")
    log = tempfile.TemporaryFile()  # noqa: SIM115 - the server writes to it until the process ends
    settings = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    server, url = launch(port, settings, log, whole=whole)
    atexit.register(end, server)
    os.environ["PREFECT_API_URL"] = url
    from hyperexport import flows  # noqa: F401  # pyright: ignore[reportUnusedImport] - needed anyway, and the server is not ready yet

    _await(url, log)
    return url


def launch(
    port: int, settings: Mapping[str, str], log: IO[bytes], *, whole: bool
) -> tuple[subprocess.Popen[bytes], str]:
    """Begin to run such a server. Whoever connects before it answers simply waits.

    Args:
        port: Where it listens on this machine; 0 for a free port.
        settings: Its environment.
        log: Where it prints.
        whole: Whether it also has the UI, and starts scheduled runs.

    Returns:
        Its process, to be given to :func:`end`, and the API's address.

    Raises:
        UsageError: The port is taken.
    """
    # The server inherits a listening socket, so there is no port to guess.
    with _listener(port) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
        if whole:
            settings = {**_WHOLE, **settings, "PREFECT_UI_API_URL": url}
        server = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "hyperexport.deployments.local_server",
                str(listener.fileno()),
                *(["whole"] if whole else []),
            ],
            env=settings,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
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
        with urlopen(f"{url}/health", timeout=_START) as answer:  # noqa: S310 - our own loopback address
            answer.read()
    except (URLError, OSError) as error:
        log.seek(0)
        last = log.read().decode(errors="replace").strip().splitlines()[-1:] or ["it printed nothing"]
        raise ServerUnreachable(
            f"the temporary Prefect server did not start: {error} ({last[0][:200]})",
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


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # Prefect itself says what is wrong with it, if it is used


def _dig(document: Any, *keys: str) -> str | None:
    for key in keys:
        document = document.get(key) if isinstance(document, dict) else None  # pyright: ignore[reportUnknownMemberType,reportUnknownVariableType]
    return document if isinstance(document, str) else None


def _dotenv() -> dict[str, str]:
    try:
        lines = Path(".env").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return {}
    pairs = (line.removeprefix("export ").partition("=") for line in lines)
    return {name.strip(): value.strip().strip("'\"") for name, _, value in pairs}


def _active_profile() -> dict[str, Any]:
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    document = _toml(Path(os.environ.get("PREFECT_PROFILES_PATH", home / "profiles.toml")).expanduser())
    name = os.environ.get("PREFECT_PROFILE") or document.get("active")
    profiles = document.get("profiles", {})
    return profiles.get(name, {}) if isinstance(profiles, dict) else {}  # pyright: ignore[reportUnknownMemberType,reportUnknownVariableType]


def main() -> None:
    """Be that server, on the socket inherited as the descriptor in the first argument, until standard input ends."""
    from prefect.server.api.server import create_app
    from prefect.settings import (
        PREFECT_SERVER_CORS_ALLOWED_ORIGINS,
        PREFECT_SERVER_DATABASE_CONNECTION_URL,
        get_current_settings,
        temporary_settings,
    )

    from hyperexport.deployments.http_guard import SameOrigin
    from hyperexport.deployments.one_connection import over_one_connection

    whole = "whole" in sys.argv[2:]
    # The parent's blocked signals were inherited. A service manager sends SIGTERM to both at once, and while the
    # parent cancels its runs it still needs this server.
    signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGTERM} if whole else ())
    listener = socket.socket(fileno=int(sys.argv[1]))
    database = get_current_settings().server.database.connection_url
    assert database  # where none is set, Prefect's settings give its file
    port = listener.getsockname()[1]
    own = {
        PREFECT_SERVER_DATABASE_CONNECTION_URL: over_one_connection(database.get_secret_value()),
        # Prefect 3.8 allows every origin; its answers contain the secrets of blocks.
        PREFECT_SERVER_CORS_ALLOWED_ORIGINS: f"http://127.0.0.1:{port},http://localhost:{port}",
    }
    with temporary_settings(own):
        serve(SameOrigin(create_app(ephemeral=not whole, final=True), loopback_only=True), listener)


def serve(app: "Application", listener: socket.socket) -> None:
    """Answer on a listening socket until standard input ends."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on", timeout_graceful_shutdown=5))

    def end_with_parent() -> None:
        sys.stdin.buffer.read()
        server.should_exit = True

    threading.Thread(target=end_with_parent, daemon=True).start()
    server.run(sockets=[listener])


if __name__ == "__main__":
    main()
