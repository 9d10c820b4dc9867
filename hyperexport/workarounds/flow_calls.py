"""Flow calls that start although the Prefect server is busy, and end as their function did although it is gone.

Prefect 3.8 refuses a new run with 503 while a server on SQLite is busy; its client tries six times, then the call
fails. At the end of a run whose state cannot be reported, the call raises the error of Prefect's client, and where the
server answers late, a ``FailedRun``, in place of what the flow's function raised or returned.
"""

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, Final, ParamSpec, TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from hyperexport.errors import HyperExportError
from hyperexport.workarounds.server_outage import is_refused_for_now

P = ParamSpec("P")
R = TypeVar("R")

SECONDS_TO_START: Final = 300.0
"""How long a new run is offered to a server that refuses it for now."""


class FlowCall:
    """One call of a flow, and the outcome of the flow's function."""

    def __init__(self) -> None:
        self.outcomes: list[Any] = []
        self.began = False
        """Whether the function began: then Prefect has created its run."""
        self.after = ExitStack()
        """Contexts that last from the end of the function to the end of the call."""
        self.ends = False
        """Whether :func:`tolerate_server_outage` made the call, and closes ``after``."""


# A flow's function is called by Prefect's engine, which passes nothing but the flow's parameters, and these are stored.
_call: Final[ContextVar[FlowCall | None]] = ContextVar("the current flow call", default=None)


@contextmanager
def current_call() -> Generator[FlowCall]:
    """Give the flow's function the call that it belongs to. Flows called within the block have calls of their own."""
    call = _call.get()
    token = _call.set(None)
    try:
        yield FlowCall() if call is None else call
    finally:
        _call.reset(token)


def tolerate_server_outage(flow: Callable[P, R]) -> Callable[P, R]:
    """Call a flow so that it raises or returns what its own function did, whatever the server answers.

    A run that the server refuses for now is offered again, for up to :data:`SECONDS_TO_START`.
    """

    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        call = FlowCall()
        call.ends = True
        retrying = Retrying(
            retry=retry_if_exception(lambda error: not call.began and is_refused_for_now(error)),
            wait=wait_random_exponential(multiplier=0.1, max=5),
            stop=stop_after_delay(SECONDS_TO_START),
            reraise=True,
        )
        token = _call.set(call)
        try:
            with call.after:
                return retrying(flow, *args, **kwargs)
        except Exception:
            if not call.outcomes:
                raise
        finally:
            _call.reset(token)
        if isinstance(call.outcomes[-1], HyperExportError):
            raise call.outcomes[-1]
        return call.outcomes[-1]

    return called
