"""A run in IPython: bars in a notebook's cell, drawn with HTML alone, and the terminal's bars in a terminal."""

import contextvars
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from html import escape
from importlib import import_module
from typing import Any, Final

from hyperexport.base.text import escape_controls
from hyperexport.model.progress import Item, Progress, Stage, subscribed
from hyperexport.model.progress_totals import WithTotals
from hyperexport.views.progress import Rate, describe, state_of

SECONDS_BETWEEN_UPDATES: Final = 0.5
_SHOWN: Final = frozenset({Stage.TRANSFER, Stage.RESTORE, Stage.CONVERT, Stage.REMOVE_SNAPSHOT, Stage.FLEET})
_busy: Final = threading.Lock()


@contextmanager
def interactive_progress() -> Generator[None]:
    """While the block runs in IPython, show how far its items are; elsewhere nothing.

    The outermost block shows everything, those within it (the VMs of a fleet) nothing of their own.
    """
    shell = _shell()
    if shell is None or not _busy.acquire(blocking=False):
        yield
        return
    try:
        with _notebook() if getattr(shell, "kernel", None) else _terminal():
            yield
    finally:
        _busy.release()


def _shell() -> Any:
    """IPython's shell; None outside of IPython, which is not imported for this."""
    ipython: Any = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython else None


def _terminal() -> Any:
    from rich.console import Console  # noqa: PLC0415 - only who draws pays for it

    from hyperexport.views.progress import showing_progress  # noqa: PLC0415

    console = Console(stderr=True)
    return showing_progress(console) if console.is_terminal else nullcontext()


@contextmanager
def _notebook() -> Generator[None]:
    board = NotebookBoard(import_module("IPython.display").display)  # IPython's own types are partial
    context = contextvars.copy_context()  # it names the cell that the output belongs to
    thread = threading.Thread(target=lambda: context.run(board.draw_until_closed), name="progress", daemon=True)
    thread.start()
    try:
        with subscribed(WithTotals(board.note)):
            yield
    finally:
        board.close()
        thread.join()


class NotebookBoard:
    """The newest report of each item, drawn into one output that is replaced.

    Args:
        display: IPython's ``display``.
    """

    def __init__(self, display: Callable[..., Any]) -> None:
        self._display = display
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._items: dict[Item, tuple[Progress, Rate, float]] = {}
        self._handle: Any = None
        self._drawn = ""

    def note(self, progress: Progress) -> None:
        """Take a report, from any thread."""
        if progress.stage in _SHOWN:
            with self._lock:
                rate = self._items[progress.of][1] if progress.of in self._items else Rate()
                self._items[progress.of] = (progress, rate, rate.update(progress.moved))

    def close(self) -> None:
        """Draw once more and no further."""
        self._closed.set()

    def draw_until_closed(self) -> None:
        """Draw again and again; what cannot be drawn never disturbs the run."""
        try:
            while not self._closed.wait(SECONDS_BETWEEN_UPDATES):
                self._draw()
            self._draw()
        except Exception:  # noqa: BLE001 - a cell that was closed, a kernel that ends
            return

    def _draw(self) -> None:
        with self._lock:
            shown = [(progress, speed) for progress, _, speed in self._items.values()]
        page = "".join(_row(progress, speed) for progress, speed in shown)
        if not page or page == self._drawn:
            return
        self._drawn = page
        words = "\n".join(f"{describe(progress)}: {state_of(progress, speed)}" for progress, speed in shown)
        bundle = {"text/html": f"<table>{page}</table>", "text/plain": escape_controls(words, keep="\n")}
        if self._handle is None:
            self._handle = self._display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


def _row(progress: Progress, speed: float) -> str:
    part = 1.0 if progress.done else min(1.0, progress.position / max(progress.total, 1))
    name, state = (escape(escape_controls(text)) for text in (describe(progress), state_of(progress, speed)))
    cell = '<td style="text-align: left">'
    return f'<tr>{cell}{name}</td><td><progress max="1" value="{part:.3f}"></progress></td>{cell}{state}</td></tr>'
