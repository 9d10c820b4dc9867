"""Grandfather-father-son: which exports the keep rules of a cleanup hold, as restic's ``forget`` decides it.

A rule of N days holds the newest export of each of the N newest days that have one; weeks (ISO, Monday to Sunday),
months and years likewise. Days are of UTC, so that every machine makes the same plan. While a rule has counts left, it
also holds the oldest export: without it, the first export of a new store would go before a yearly rule has its first
whole year.
"""

from collections.abc import Callable, Sequence
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

    def holding(self, times: Sequence[datetime]) -> list[tuple[str, ...]]:
        """Say of each export of one VM which rules hold it, each with its period.

        Args:
            times: When the exports were made, newest first.
        """
        found: list[list[str]] = [[] for _ in times]
        for name, label in _PERIODS.items():
            flag = f"--cleanup-keep-{name} {getattr(self, name)}"
            for index, period in _held(times, label, getattr(self, name)):
                found[index].append(f"{flag} ({period})")
        return [tuple(rules) for rules in found]


def _held(times: Sequence[datetime], label: _Label, count: int) -> list[tuple[int, str]]:
    """Which exports one rule holds, with the name of the period for which it does."""
    held: list[tuple[int, str]] = []
    last = ""
    for index, time in enumerate(times):
        if len(held) == count:
            break
        period = label(time.astimezone(UTC))
        if period != last:
            held.append((index, period))
            last = period
        elif index == len(times) - 1:
            held.append((index, f"the oldest, {period}"))
    return held
