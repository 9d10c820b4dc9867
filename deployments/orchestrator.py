"""Where a command runs: as a flow run of a Prefect API, or directly in its own process. Decided here, and only here.

Without importing Prefect, which takes seconds. A Prefect API is looked up where Prefect looks for it
(docs.prefect.io, settings): the environment, ``.env``, ``prefect.toml`` and ``pyproject.toml`` here, and the active
profile. A ``hyperexport serve`` of this user is found by the file that it keeps while it runs, and trusted only while
its process lives and its address answers.
"""

import json
import os
import socket
import sys
import time
import tomllib
from collections.abc import Generator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

from hyperexport.base.machine import ProcessIdentity, identity_of
from hyperexport.errors import ServerUnreachable
from hyperexport.workarounds.saved_blocks import database_has_block

if TYPE_CHECKING:
    from http.client import HTTPResponse
    from urllib.request import Request

NO_PREFECT_VARIABLE: Final = "HYPEREXPORT_NO_PREFECT"
_SECONDS_FOR_AN_ANSWER: Final = 2.0
_SECONDS_TO_CONNECT: Final = 3.0
_SECONDS_BETWEEN_ATTEMPTS: Final = 0.25
_FALSE: Final = frozenset({"", "0", "false", "no", "off"})


class Place(NamedTuple):
    """Where a command runs, and why."""

    url: str | None
    """The address of the Prefect API; None for this process."""
    why: str

    def __str__(self) -> str:
        return f"as a flow run of {self.url}: {self.why}" if self.url else f"in its own process: {self.why}"


def find_place(*, no_prefect: bool = False) -> Place:
    """Work out where a command runs.

    Args:
        no_prefect: Whether ``--no-prefect`` was given.
    """
    if no_prefect:
        return Place(None, "--no-prefect is given")
    if os.environ.get(NO_PREFECT_VARIABLE, "").lower() not in _FALSE:
        return Place(None, f"{NO_PREFECT_VARIABLE} is set")
    found = find_configured() or _find_service()
    return found or Place(None, "no Prefect API is configured, and no hyperexport serve is running")


def use(place: Place) -> None:
    """Have Prefect, which is not imported yet, use the API of a place.

    Raises:
        ServerUnreachable: Nothing listens there, for three seconds.
    """
    if place.url and "prefect" not in sys.modules:
        _require_listener(place)
        os.environ["PREFECT_API_URL"] = place.url
        use_no_proxy_for(place.url)


def use_no_proxy_for(url: str) -> None:
    """Have Prefect's client ask an API on this machine itself, whatever proxy the environment names.

    Args:
        url: The API's address; nothing is done for one elsewhere.
    """
    host = urlsplit(url).hostname or ""
    if _is_loopback(host):
        excepted = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
        if excepted != "*" and host not in excepted.split(","):
            os.environ["no_proxy"] = os.environ["NO_PROXY"] = f"{excepted},{host}".lstrip(",")


def _require_listener(place: Place) -> None:
    """See that something listens where a Prefect API is configured: Prefect's client would try for half a minute."""
    host, port = _first_hop(place.url or "")
    end = time.monotonic() + _SECONDS_TO_CONNECT
    while True:
        try:
            socket.create_connection((host, port), timeout=max(end - time.monotonic(), 0.1)).close()
        except OSError as error:
            if time.monotonic() + _SECONDS_BETWEEN_ATTEMPTS >= end:
                raise ServerUnreachable(
                    f"the Prefect API at {place.url} cannot be reached: {error} ({place.why})",
                    fix="Start the server there, or run without one with --no-prefect",
                ) from error
            time.sleep(_SECONDS_BETWEEN_ATTEMPTS)
        else:
            return


def _first_hop(url: str) -> tuple[str, int]:
    """Where a client connects to for an address: its host, or else the proxy that the environment names for it."""
    from urllib.request import getproxies, proxy_bypass  # noqa: PLC0415 - Prefect is imported next

    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    if proxy and not _is_loopback(parts.hostname or "") and not proxy_bypass(parts.hostname or ""):
        parts = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _is_loopback(host: str) -> bool:
    return host in {"localhost", "::1"} or host.startswith("127.")


def _ask(request: "str | Request", url: str) -> "HTTPResponse":
    """Ask an API in little time; one on this machine without the proxy that the environment may name.

    Raises:
        OSError, ValueError: No answer, or an error's.
    """
    from urllib.request import ProxyHandler, build_opener  # noqa: PLC0415 - only where there is something to ask

    opener = build_opener(ProxyHandler({})) if _is_loopback(urlsplit(url).hostname or "") else build_opener()
    return opener.open(request, timeout=_SECONDS_FOR_AN_ANSWER)


def configured_api() -> str | None:
    """The address of the Prefect API that this user has configured; a running service does not count."""
    found = find_configured()
    return found.url if found else None


def find_configured() -> Place | None:
    """The Prefect API that this user has configured, and where."""
    if "prefect" in sys.modules:  # notebooks and tests: Prefect itself knows best
        from prefect.settings import get_current_settings  # noqa: PLC0415

        url = get_current_settings().api.url
        return Place(url, "Prefect is configured so") if url else None
    profile = _active_profile()
    looked_up = (
        (os.environ.get("PREFECT_API_URL"), "PREFECT_API_URL is set"),
        (_dotenv().get("PREFECT_API_URL"), "PREFECT_API_URL is set in .env"),
        (_dig(_toml(Path("prefect.toml")), "api", "url"), "prefect.toml sets it"),
        (_dig(_toml(Path("pyproject.toml")), "tool", "prefect", "api", "url"), "pyproject.toml sets it"),
        (profile.get("PREFECT_API_URL"), "the active Prefect profile sets it"),
    )
    return next((Place(url, why) for url, why in looked_up if url), None)


@contextmanager
def announced(url: str) -> Generator[None]:
    """While the block runs, let the commands of this user find this process as a service.

    Args:
        url: The address of the Prefect API that it serves.
    """
    path = _service_file()
    identity = identity_of(os.getpid())
    document = {"pid": os.getpid(), "process": str(identity) if identity else "", "url": url}
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123
        json.dump(document, file)
    fresh.replace(path)
    try:
        yield
    finally:
        if _read_service().get("pid") == os.getpid():  # else another one was started since, and is found in our place
            path.unlink(missing_ok=True)


def _find_service() -> Place | None:
    """A running ``hyperexport serve`` of this user on this machine: its process lives, and its address answers."""
    found = _read_service()
    pid, url = found.get("pid"), found.get("url")
    if not isinstance(pid, int) or not isinstance(url, str) or not _lives(pid, str(found.get("process", ""))):
        return None
    try:
        with _ask(f"{url}/health", url) as answer:
            answer.read()
    except (OSError, ValueError):
        return None
    return Place(url, f"hyperexport serve is running (process {pid})")


def _lives(pid: int, process: str) -> bool:
    """Whether it is the very process that wrote the file: numbers are given again, and a home may be shared."""
    now = identity_of(pid)
    with suppress(ValueError):
        return now is not None and ProcessIdentity.parse(process) == now
    return False


def _read_service() -> dict[str, Any]:
    """What the service's file says; nothing where another user could have written it."""
    try:
        with _service_file().open(encoding="utf-8") as file:
            facts = os.fstat(file.fileno())
            if facts.st_uid != os.getuid() or facts.st_mode & 0o077:
                return {}
            found = json.load(file)
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}  # pyright: ignore[reportUnknownVariableType]


def _service_file() -> Path:
    # Beside Prefect's own files: a cron job has no XDG_RUNTIME_DIR, and looks there, too.
    return _prefect_home() / "hyperexport-serve.json"


def _prefect_home() -> Path:
    return Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
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
    document = _toml(Path(os.environ.get("PREFECT_PROFILES_PATH") or _prefect_home() / "profiles.toml").expanduser())
    name = os.environ.get("PREFECT_PROFILE") or document.get("active")
    profiles = document.get("profiles", {})
    return profiles.get(name, {}) if isinstance(profiles, dict) else {}  # pyright: ignore[reportUnknownMemberType,reportUnknownVariableType]


def prefect_has_profile(name: str) -> bool:
    """Whether Prefect keeps a profile of this name, asked without importing it; False if unknown.

    Args:
        name: The block's name.
    """
    place = find_configured() or _find_service()
    return (
        _api_has(place.url, name)
        if place and place.url
        else database_has_block(_prefect_home() / "prefect.db", block_type="export-profile", name=name)
    )


def _api_has(url: str, name: str) -> bool:
    from base64 import b64encode  # noqa: PLC0415
    from urllib.request import Request  # noqa: PLC0415

    key, password = os.environ.get("PREFECT_API_KEY"), os.environ.get("PREFECT_API_AUTH_STRING")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    if password:  # as Prefect's client sends it
        headers["Authorization"] = f"Basic {b64encode(password.encode()).decode()}"
    address = f"{url}/block_types/slug/export-profile/block_documents/name/{name}"
    try:
        with _ask(Request(address, headers=headers), url) as answer:  # noqa: S310 - the user's own API
            return answer.status == HTTPStatus.OK
    except (OSError, ValueError):
        return False
