"""A Prefect server for one command, where none is configured: so that an export needs nothing set up beforehand.

Prefect would start one by itself. This one is started before Prefect is imported, so that both take their seconds at
once; it is out of reach of the terminal's Ctrl-C, so that the cleanup of an interrupted run still has a server; what
it prints goes to a file; and it ends with the process that started it, even a killed one, because its standard input
ends then. It uses Prefect's own database, so the runs are there when ``prefect server start`` shows them.
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
from pathlib import Path
from typing import Any, Final
from urllib.error import URLError
from urllib.request import urlopen

from hyperexport.errors import ServerUnreachable, UsageError

_START: Final = 120.0
"""Seconds that it may take to answer: its first start creates the database."""

_STOP: Final = 10.0
_OURS: Final = ("GOVC_", "HYPEREXPORT_", "AWS_")
"""What is told to this command and is none of the server's business: passwords, for one."""


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
    if os.environ.get("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", "true").lower() in ("false", "0"):
        raise UsageError("no Prefect API is configured and a temporary one is forbidden", fix="Set PREFECT_API_URL")
    log = tempfile.TemporaryFile()  # noqa: SIM115 - the server writes to it until the process ends
    # The server inherits a listening socket: there is no port to guess, and whoever connects early simply waits.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
        server = subprocess.Popen(
            [sys.executable, "-m", "cli.prefect_server", str(listener.fileno())],
            env={name: value for name, value in os.environ.items() if not name.startswith(_OURS)},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
    atexit.register(_end, server)
    os.environ["PREFECT_API_URL"] = url
    import flows  # noqa: F401  # pyright: ignore[reportUnusedImport] - needed anyway, and the server is not ready yet

    _await(url, log)


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


def _end(server: subprocess.Popen[bytes]) -> None:
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
    import uvicorn
    from prefect.server.api.server import create_app

    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the parent's blocked signals were inherited
    listener = socket.socket(fileno=int(sys.argv[1]))
    config = uvicorn.Config(
        create_app(ephemeral=True, final=True), log_level="error", lifespan="on", timeout_graceful_shutdown=5
    )
    server = uvicorn.Server(config)

    def end_with_parent() -> None:
        sys.stdin.buffer.read()
        server.should_exit = True

    threading.Thread(target=end_with_parent, daemon=True).start()
    server.run(sockets=[listener])


if __name__ == "__main__":
    main()
