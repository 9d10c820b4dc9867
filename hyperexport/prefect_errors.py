"""What Prefect and its HTTP client raise, as errors of this product.

This module imports neither, because commands that need no Prefect use it, too; both are slow to import.
"""

import re
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from hyperexport.errors import HyperExportError, PrefectFailed, ServerUnreachable

_LOGIN: Final = re.compile(r"(?<=://)[^\s'\"]*@")
_SERVER_FIX: Final = "Check PREFECT_API_URL and the server there, or unset it to run without one"


@contextmanager
def translated(doing: str) -> Generator[None]:
    """Turn whatever a call to Prefect raises into an error of ours. Also a decorator, for a function of such calls.

    Prefect documents ``httpx``'s errors and its own; an invalid answer raises ``ValueError`` (of JSON or of
    pydantic), a server of another version ``RuntimeError``, and a missing file of certificates ``OSError``.

    Args:
        doing: What was tried, for the message.

    Raises:
        PrefectFailed: The API refused the request, or answered what this Prefect does not understand.
        ServerUnreachable: It did not answer.
    """
    try:
        yield
    except HyperExportError:
        raise
    except Exception as error:
        ours = of_prefect(error, doing=doing)
        if ours is None and isinstance(error, OSError):
            ours = ServerUnreachable(f"{doing}: {_words(error)}", fix=_SERVER_FIX)
        elif ours is None and isinstance(error, ValueError | RuntimeError):
            ours = PrefectFailed(
                f"{doing}: Prefect failed: {type(error).__name__}: {_words(error)}",
                fix="Check that PREFECT_API_URL is the address of a Prefect API of the same version as here",
            )
        if ours is None:
            raise
        raise ours from error


def of_prefect(error: BaseException, *, doing: str | None = None) -> HyperExportError | None:
    """The error of ours for one that only Prefect or its HTTP client raises; only Prefect uses httpx here.

    Args:
        error: What was raised.
        doing: What was tried, if that is known.
    """
    httpx, prefect = sys.modules.get("httpx"), sys.modules.get("prefect.exceptions")
    if httpx is None:
        return None
    words, tried = _words(error), f"{doing}: " if doing else ""
    if isinstance(error, httpx.HTTPStatusError):
        return PrefectFailed(
            f"{tried}the Prefect API refused: {words}",
            fix="Check PREFECT_API_URL, PREFECT_API_KEY and that the server there is as new as this Prefect",
        )
    if isinstance(error, httpx.HTTPError | httpx.InvalidURL | httpx.StreamError | httpx.CookieConflict):
        return ServerUnreachable(f"{tried}the Prefect API cannot be reached: {words}", fix=_SERVER_FIX)
    if prefect is not None and isinstance(error, prefect.PrefectException):
        return PrefectFailed(
            f"{tried}Prefect failed: {type(error).__name__}: {words}",
            fix="Run it with --no-prefect, or look at the Prefect server's log",
        )
    return None


def _words(error: BaseException) -> str:
    """The first line of what the error says, without a login in an address."""
    return _LOGIN.sub("", str(error).splitlines()[0] if str(error) else type(error).__name__)
