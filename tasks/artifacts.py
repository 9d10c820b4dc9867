"""What a run shows in the Prefect UI: progress that moves while bytes move, and a closing page.

A backup outlives its orchestrator: every call to the Prefect server from here is guarded, and its failure is a
warning in the log.
"""

import contextvars
import logging
import re
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)

from hyperexport.base.units import format_bytes, format_elapsed, format_rate
from hyperexport.model.progress import Item, Progress, Stage, subscribed
from hyperexport.model.progress_totals import WithTotals
from hyperexport.model.vm import VmRef
from hyperexport.workarounds.server_outage import few_client_retries, wait_for_prefect

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_UPDATES: Final = 5.0
_SHOWN: Final = frozenset({Stage.TRANSFER, Stage.CONVERT, Stage.RESTORE, Stage.REMOVE_SNAPSHOT, Stage.FLEET})
_NOT_A_KEY: Final = re.compile(r"[^a-z0-9]+")


def artifact_key(*parts: str) -> str:
    """Make a key that Prefect takes: lower-case letters, digits and dashes."""
    return _NOT_A_KEY.sub("-", "-".join(parts).lower()).strip("-") or "export"


def show_markdown(key: str, markdown: str, description: str) -> None:
    """Leave a page of Markdown with the run, once the server can take it."""
    _guarded_when_heard(lambda: create_markdown_artifact(markdown, key=key, description=description))


@contextmanager
def progress_artifacts(vm: VmRef | None = None) -> Generator[None]:
    """While the block runs, keep a progress artifact for each disk and removal, updated every few seconds.

    Args:
        vm: Only what concerns this VM: others of a fleet are exported in the same process, and have
            their own. Everything if None.
    """
    board = _Board(vm)
    context = contextvars.copy_context()
    thread = threading.Thread(target=lambda: context.run(board.show_until_closed), name="progress", daemon=True)
    thread.start()
    try:
        with subscribed(WithTotals(board.note)):
            yield
    finally:
        board.close()
        thread.join(timeout=2 * SECONDS_BETWEEN_UPDATES)


class _Board:
    """The newest progress of each item, and the artifacts that show it."""

    def __init__(self, vm: VmRef | None) -> None:
        self._vm = vm
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._newest: dict[Item, Progress] = {}
        self._shown: dict[Item, tuple[UUID, Progress]] = {}
        self._first: dict[Item, tuple[float, Progress]] = {}

    def note(self, progress: Progress) -> None:
        if progress.stage in _SHOWN and (self._vm is None or progress.vm == self._vm):
            with self._lock:
                self._newest[progress.of] = progress
                first = self._first.setdefault(progress.of, (time.monotonic(), progress))
                if progress.position < first[1].position:  # a new attempt began
                    self._first[progress.of] = (time.monotonic(), progress)

    def close(self) -> None:
        self._closed.set()

    def show_until_closed(self) -> None:
        with few_client_retries():  # what could not be shown is shown with the next update
            while not self._closed.wait(SECONDS_BETWEEN_UPDATES if self._shown else 0.5):
                self._show()
            self._show()

    def _show(self) -> None:
        with self._lock:
            newest = dict(self._newest)
        for item, progress in newest.items():
            shown = self._shown.get(item)
            if shown is None or shown[1] != progress:
                _guarded(lambda item=item, progress=progress: self._show_one(item, progress))

    def _show_one(self, item: Item, progress: Progress) -> None:
        percent = 100.0 if progress.done else min(99.9, 100 * progress.position / max(progress.total, 1))
        began, first = self._first[item]
        words = _words(progress) + rate_and_time_left(first, progress, time.monotonic() - began)
        if item in self._shown:
            artifact = self._shown[item][0]
            update_progress_artifact(artifact, progress=percent, description=words)
        else:
            key = artifact_key("progress", progress.vm.name, progress.item)
            artifact = create_progress_artifact(percent, key=key, description=words)
            assert isinstance(artifact, UUID)
        self._shown[item] = (artifact, progress)


def _words(progress: Progress) -> str:
    if progress.stage is Stage.FLEET:
        return f"{progress.position} of {progress.total} VMs are done"
    if progress.stage is Stage.REMOVE_SNAPSHOT:
        return f"removing snapshot {progress.item}: {progress.position} %"
    if progress.stage is Stage.RESTORE:
        return f"restoring {progress.item}: {format_bytes(progress.position)} of {format_bytes(progress.total)}"
    if progress.stage is Stage.CONVERT:
        return f"converting {progress.item}: {format_bytes(progress.position)} of {format_bytes(progress.total)}"
    return (
        f"{progress.item}: {format_bytes(progress.position)} of {format_bytes(progress.total)}, "
        f"{format_bytes(progress.moved)} transferred"
    )


def rate_and_time_left(first: Progress, now: Progress, seconds: float) -> str:
    """How fast bytes come, and when the item will be done if they go on like that; nothing where that is not known.

    Args:
        first: The first report of this attempt.
        now: The newest one.
        seconds: The time between them.
    """
    way, moved = now.position - first.position, now.moved - first.moved
    if now.stage in {Stage.REMOVE_SNAPSHOT, Stage.FLEET} or now.failed or seconds < 1 or way <= 0:
        return ""
    rate = f", {format_rate(moved / seconds)}" if moved > 0 else ""
    return rate if now.done else f"{rate}, {format_elapsed((now.total - now.position) * seconds / way)} left"


def _guarded_when_heard(call: Callable[[], object]) -> None:
    if wait_for_prefect():
        _guarded(call)
    else:
        logger.warning("an artifact was not created: the Prefect server does not answer")


def _guarded(call: Callable[[], object]) -> None:
    began = time.monotonic()
    try:
        call()
    except Exception as error:  # noqa: BLE001 - whatever it is, the transfer continues
        logger.warning("Prefect refused an artifact after %.0f s: %s", time.monotonic() - began, type(error).__name__)
