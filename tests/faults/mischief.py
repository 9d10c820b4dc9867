"""What else can be done to the victim: its clock set wrong, its disk failing, a signal to stop."""

import datetime as dt
import errno
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tests.faults.watch import Watch

_done: list[str] = []


def tell_of() -> list[str]:
    """What was done so far, so that a test can see that it was."""
    return list(_done)


def do_mischief(wanted: dict[str, Any], watch: Watch) -> None:
    """Prepare what is wanted: ``eio``, ``clock`` or ``stop``."""
    if "eio" in wanted:
        watch.listeners.append(_Failing(**wanted["eio"]))
    if "clock" in wanted:
        _Jumping(**wanted["clock"]).install(watch)
    if "stop" in wanted:
        watch.listeners.append(_Stopping(*wanted["stop"]))


class _Stopping:
    """SIGTERM, as a worker sends it to a run that is cancelled, just before an event of a step.

    Args:
        step: The step.
        at: The number of the event within it.
    """

    def __init__(self, step: str, at: int) -> None:
        self._step = step
        self._left = at

    def __call__(self, event: str, step: str, _arguments: tuple[Any, ...]) -> None:
        if step != self._step or event == "os.pread" or not self._left:
            return
        self._left -= 1
        if not self._left:
            _done.append(f"stopped in {step} before {event}")
            os.kill(os.getpid(), signal.SIGTERM)


class _Failing:
    """A disk that fails: an input or output error in place of an event on a file whose name ends so.

    Args:
        event: The event, such as ``os.write``.
        name: How the file's name ends.
        times: How often; 0 is for ever.
    """

    def __init__(self, event: str, name: str, times: int = 0) -> None:
        self._event = event
        self._name = name
        self._left = times or -1

    def __call__(self, event: str, step: str, arguments: tuple[Any, ...]) -> None:
        if event != self._event or not self._left or not _path_of(arguments[0]).endswith(self._name):
            return
        self._left -= 1
        _done.append(f"{event} of {self._name} in {step}")
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def _path_of(file: Any) -> str:
    return str(Path(f"/proc/self/fd/{file}").readlink()) if isinstance(file, int) else os.fsdecode(file)


class _Jumping:
    """A wall clock that is set wrong when a step begins; the monotonic clock goes on, as it does.

    Args:
        step: The step; the clock jumps at its first event.
        seconds: How far, either way.
    """

    def __init__(self, step: str, seconds: float) -> None:
        self._step = step
        self._seconds = seconds
        self._off = 0.0

    def install(self, watch: Watch) -> None:
        real_time, real = time.time, dt.datetime
        jumping = self

        class AnyOfThem(type):
            def __instancecheck__(cls, value: object) -> bool:
                return isinstance(value, real)

        class Datetime(real, metaclass=AnyOfThem):
            @classmethod
            def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:
                return real.now(tz) + dt.timedelta(seconds=jumping._off)

            @classmethod
            def utcnow(cls) -> dt.datetime:
                return real.utcnow() + dt.timedelta(seconds=jumping._off)

        time.time = lambda: real_time() + jumping._off
        replace_everywhere(real, Datetime)
        watch.listeners.append(self)

    def __call__(self, _event: str, step: str, _arguments: tuple[Any, ...]) -> None:
        if step == self._step and not self._off:
            self._off = self._seconds
            _done.append(f"the clock jumped by {self._seconds:g} s in {step}")


def replace_everywhere(real: Any, other: Any) -> None:
    """Exchange a class in every module of ours that has imported it by its name; pyVmomi tells types by it."""
    for name, module in list(sys.modules.items()):
        if name.startswith("hyperexport") and getattr(module, "datetime", None) is real:
            module.datetime = other  # type: ignore[attr-defined]
