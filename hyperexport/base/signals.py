"""SIGTERM as an exception, so that ``finally`` blocks clean up."""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


@contextmanager
def sigterm_raises() -> Generator[None]:
    """While the block runs, let SIGTERM end it by ``SystemExit(143)``, once: its cleanup is left in peace.

    Only where the signal has its default handler, and in the main thread, which Python requires.
    """
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        del frame
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise SystemExit(128 + number)  # what a shell says of a process that the signal ended

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
