"""Times of the week at which another bandwidth limit holds, such as ``mon-fri 08:00-18:00=5``.

Times are what the wall clock of the machine shows that moves the bytes. A window is asked about at each moment, never
turned into durations, so a change to summer time makes it an hour shorter or longer and nothing else.
"""

import re
from collections.abc import Sequence
from datetime import datetime, time
from typing import Final, NamedTuple

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_FORM: Final = re.compile(
    r"(?:(?P<days>[a-z,\s-]+?)\s+)?(?P<start>\d\d:\d\d)-(?P<end>\d\d:\d\d)\s*=\s*(?P<limit>\d+(?:\.\d+)?)"
)


class Window(NamedTuple):
    """One stretch of the week.

    Args:
        days: On which it begins, Monday is 0.
        start: The first moment of it.
        end: The first moment after it; before or at ``start`` for one that lasts over midnight.
        limit: MB/s within it; 0 for no limit.
    """

    days: frozenset[int]
    start: time
    end: time
    limit: float

    def holds(self, now: datetime) -> bool:
        """Tell whether this moment, by the wall clock, lies within."""
        today, moment = now.weekday(), now.time()
        if self.start < self.end:
            return today in self.days and self.start <= moment < self.end
        begun_yesterday = (today - 1) % 7 in self.days
        return (today in self.days and moment >= self.start) or (begun_yesterday and moment < self.end)


def limit_at(now: datetime, windows: Sequence[Window], otherwise: float) -> float:
    """The limit in MB/s that holds: of the first window that fits, or ``otherwise``; 0 is no limit."""
    return next((window.limit for window in windows if window.holds(now)), otherwise)


def parse_window(text: str) -> Window:
    """Read ``[DAYS] HH:MM-HH:MM=LIMIT``: days as ``mon-fri`` or ``sat,sun``, every day without them; MB/s.

    Raises:
        ValueError: The text is not of this form.
    """
    form = _FORM.fullmatch(text.strip().lower())
    if not form:
        raise ValueError(f"{text!r} is not of the form mon-fri 08:00-18:00=5")
    start, end = _time(form["start"]), _time(form["end"])
    if form["start"] == form["end"] or form["start"] == "24:00":
        raise ValueError(f"{text!r} is empty; the whole day is 00:00-24:00")
    limit = float(form["limit"])
    if limit > 100_000:
        raise ValueError(f"{text!r}: the limit should be 100000 MB/s at the most")
    return Window(_days(form["days"]) if form["days"] else frozenset(range(7)), start, end, limit)


def split_windows(text: str) -> tuple[str, ...]:
    """Take several windows out of one text with commas between them, as the environment gives them.

    A comma also stands between days (``sat,sun 00:00-24:00=0``): a window ends only where its limit does.
    """
    parts: list[str] = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        if parts and "=" not in parts[-1]:
            parts[-1] += f",{part}"
        else:
            parts.append(part)
    return tuple(parts)


def _time(text: str) -> time:
    if text == "24:00":
        return time(0)
    try:
        return time.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text} is not a time of day") from None


def _days(text: str) -> frozenset[int]:
    days: set[int] = set()
    for part in text.split(","):
        first, dash, last = (word.strip() for word in part.partition("-"))
        for word in (first, last) if dash else (first,):
            if word not in _DAYS:
                raise ValueError(f"{word!r} is not a day; the days are {', '.join(_DAYS)}")
        begin = _DAYS.index(first)
        length = (_DAYS.index(last) - begin) % 7 if dash else 0
        days.update((begin + day) % 7 for day in range(length + 1))
    return frozenset(days)
