"""Whether this machine's clock may decide what is deleted.

A clock decides about exports only where another one agrees with it. Without any, ages are counted from the newest
export of the store: a clock that leapt forward then makes nothing old.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from pydantic import Field

from hyperexport.base.units import format_age
from hyperexport.model.history import TOLERANCE
from hyperexport.model.vm import Value

_DRIFT = 0.001
"""How far a clock that nobody sets may drift: more than a minute a day means that it is broken."""


class OtherClock(Value):
    """What another clock says the time is now."""

    name: str = Field(description="Whose clock, such as 'vcenter.example.com'.")
    time: datetime


class ClockAgreement(Value):
    """The moment at which another clock last agreed with this machine's, counted by a clock that nobody can set."""

    wall: datetime
    uptime: float = Field(description="Seconds since the machine was started, at that moment.")


class ClockVerdict(Value):
    """What this machine's clock may decide."""

    confirmed: bool = Field(default=True, description="Whether another clock agrees with this one.")
    problem: str | None = Field(default=None, description="What proves it wrong, in words; then it decides nothing.")
    trusted: bool = Field(default=False, description="Whether a person vouches for it.")
    agreed: bool = Field(default=False, description="Whether a clock that was asked now agrees; worth remembering.")


def compare_clocks(
    now: datetime,
    others: Sequence[OtherClock],
    last_agreement: ClockAgreement | None,
    *,
    uptime: float | None,
    trusted: bool = False,
) -> ClockVerdict:
    """Compare this machine's clock with every other that is known.

    Args:
        now: This machine's time.
        others: The clocks that could be asked.
        last_agreement: When they last agreed since the machine was started; None where that is not known.
        uptime: Seconds since the machine was started.
        trusted: An administrator vouches for this machine's clock (``--cleanup-trust-clock``).
    """
    if trusted:
        return ClockVerdict(agreed=True, trusted=True)
    problems = [
        f"this machine's clock is {_apart(now, other.time)} that of {other.name}"
        for other in others
        if abs(now - other.time) > TOLERANCE
    ]
    agreed = bool(others) and not problems
    known = last_agreement is not None and uptime is not None and uptime >= last_agreement.uptime
    if last_agreement is not None and uptime is not None and known:
        passed = timedelta(seconds=uptime - last_agreement.uptime)
        if abs(now - (last_agreement.wall + passed)) > TOLERANCE + passed * _DRIFT:
            leapt = format_age(abs(now - last_agreement.wall - passed))
            direction = "forward" if now > last_agreement.wall + passed else "back"
            problems.append(
                f"this machine's clock jumped {leapt} {direction} since {last_agreement.wall:%Y-%m-%d %H:%M:%S} UTC, "
                "when another clock agreed with it"
            )
    return ClockVerdict(confirmed=agreed or known, problem="; ".join(problems) or None, agreed=agreed)


def _apart(now: datetime, theirs: datetime) -> str:
    return f"{format_age(abs(now - theirs))} {'ahead of' if now > theirs else 'behind'}"
