"""Grandfather-father-son: which exports the keep rules of a cleanup hold, as restic's ``forget`` decides it.

A rule of N days holds the newest export of each of the N newest days that have one; weeks (ISO, Monday to Sunday),
months and years likewise. Days are of UTC, so that every machine makes the same plan. While a rule has counts left, it
also holds the oldest export: without it, the first export of a new store would go before a yearly rule has its first
whole year.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from pydantic import Field

from hyperexport.model.vm import Value
from hyperexport.options.groups import Cleanup

_Label = Callable[[datetime], str]


def _week(time: datetime) -> str:
    year, week, _ = time.isocalendar()
    return f"{year:04}-W{week:02}"


_PERIODS: Final[dict[str, _Label]] = {
    "daily": lambda time: f"{time.year:04}-{time.month:02}-{time.day:02}",
    "weekly": _week,
    "monthly": lambda time: f"{time.year:04}-{time.month:02}",
    "yearly": lambda time: f"{time.year:04}",
}


class KeepRules(Value):
    """How many days, weeks, months and years keep an export. 0 is no rule."""

    daily: int = Field(default=0, ge=0)
    weekly: int = Field(default=0, ge=0)
    monthly: int = Field(default=0, ge=0)
    yearly: int = Field(default=0, ge=0)

    @classmethod
    def from_options(cls, options: Cleanup) -> "KeepRules":
        """Take the rules out of the options."""
        return cls(
            daily=options.keep_daily,
            weekly=options.keep_weekly,
            monthly=options.keep_monthly,
            yearly=options.keep_yearly,
        )

    def __bool__(self) -> bool:
        return any((self.daily, self.weekly, self.monthly, self.yearly))

    def holding(self, times: Sequence[datetime], sound: Sequence[bool]) -> list[tuple[str, ...]]:
        """Say of each export of one VM which rules hold it, each with its period.

        Args:
            times: When the exports were made, newest first.
            sound: Whether each is not damaged.
        """
        found: list[list[str]] = [[] for _ in times]
        for name, label in _PERIODS.items():
            flag = f"--cleanup-keep-{name} {getattr(self, name)}"
            for index, period in _held_of_all(times, sound, label, getattr(self, name)):
                found[index].append(f"{flag} ({period})")
        return [tuple(rules) for rules in found]


def _held_of_all(
    times: Sequence[datetime], sound: Sequence[bool], label: _Label, count: int
) -> Iterator[tuple[int, str]]:
    """Which exports one rule holds: sound ones, as if there were no other; then the newest of periods without any.

    One damaged file of a chain makes all exports of weeks damaged. A cleanup must not take them all: most of their
    bytes can still be read, and the file may be repaired.
    """
    good = [index for index, is_sound in enumerate(sound) if is_sound]
    for index, period in _held([times[index] for index in good], label, count):
        yield good[index], period
    periods = {_period(times[index], label) for index in good}
    for index, period in _held(times, label, count):
        if not sound[index] and _period(times[index], label) not in periods:
            yield index, f"{period}, which has no undamaged export"


def _period(time: datetime, label: _Label) -> str:
    return label(time.astimezone(UTC))


def _held(times: Sequence[datetime], label: _Label, count: int) -> list[tuple[int, str]]:
    """Which exports one rule holds, with the name of the period for which it does."""
    held: list[tuple[int, str]] = []
    last = ""
    for index, time in enumerate(times):
        if len(held) == count:
            break
        period = _period(time, label)
        if period != last:
            held.append((index, period))
            last = period
        elif index == len(times) - 1:
            held.append((index, f"the oldest, {period}"))
    return held
