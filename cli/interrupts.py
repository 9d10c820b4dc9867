"""Ctrl-C, SIGTERM and a closed terminal interrupt a run once; later ones do not disturb its cleanup.

Prefect installs a SIGTERM handler of its own while a flow runs, which raises a second exception in the middle of the
cleanup of the first. So SIGTERM is blocked and fetched by a thread (POSIX ``sigwait``), which passes it on as the
SIGINT that a Ctrl-C is. The first raises ``KeyboardInterrupt`` in the main thread; every later one is answered with a
line. Knows signals and nothing of what is interrupted.
"""

import signal
import sys
import threading
from types import FrameType

# Of the process: a signal handler has no other way to tell.
_interrupted = threading.Event()


def was_interrupted() -> bool:
    """Whether an interruption was asked for, whatever became of the exception."""
    return _interrupted.is_set()


def ignore_interruptions() -> None:
    """From now on no signal changes how the program ends: its exit code stands."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def interrupt_only_once() -> None:
    """From now on end the program once by ``KeyboardInterrupt``, whichever signal asks for it.

    Must be called in the main thread, before other threads begin: they inherit the blocked signals.
    """
    # What was ignored on purpose, as nohup does with SIGHUP, stays ignored.
    fetched = {number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN}
    signal.signal(signal.SIGINT, _interrupt)
    signal.pthread_sigmask(signal.SIG_BLOCK, fetched)
    threading.Thread(target=_pass_on, args=(fetched,), name="signals", daemon=True).start()


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    if _interrupted.is_set():
        print("hyperexport: still cleaning up; let it finish, so that nothing is left behind", file=sys.stderr)
        return
    _interrupted.set()
    raise KeyboardInterrupt


def _pass_on(fetched: set[signal.Signals]) -> None:
    """Turn each fetched signal into a SIGINT of the main thread, which wakes it even from a blocking call."""
    while True:
        signal.sigwait(fetched)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
