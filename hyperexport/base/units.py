"""Bytes, rates and durations: read from people, shown to people.

Sizes are binary throughout (1 MB = 1,048,576 bytes), as vSphere's own client and the flags of this tool use them.
"""

import re
from datetime import timedelta
from typing import Annotated, Final

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
SECTOR: Final = 512

_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_TERM: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h|d)")
_ISO: Final = re.compile(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?")
_LONGEST: Final = timedelta(days=36_500)


def parse_duration(text: str) -> timedelta:
    """Read a Go-style duration (``720h``, ``1h30m``, ``1.5h``), days (``30d``) or ISO 8601 (``P30D``, ``PT90M``).

    Raises:
        ValueError: The text is none of these, negative, or longer than a hundred years.
    """
    text = text.strip()
    if text == "0":
        return timedelta(0)
    iso = _ISO.fullmatch(text)
    if iso and any(iso.groups()):
        days, hours, minutes, seconds = (float(part or 0) for part in iso.groups())
        total = days * 86400 + hours * 3600 + minutes * 60 + seconds
    else:
        terms = _TERM.findall(text)
        if not terms or "".join(number + unit for number, unit in terms) != text:
            raise ValueError(f"{text!r} is not a duration such as 720h, 1h30m or 30d")
        total = sum(float(number) * _UNITS[unit] for number, unit in terms)
    if total > _LONGEST.total_seconds():
        raise ValueError(f"{text!r} is longer than a hundred years")
    return timedelta(seconds=total)


def format_duration(duration: timedelta) -> str:
    """Show a duration in the same form that :func:`parse_duration` reads: ``30d``, ``1h30m``, ``45s``."""
    seconds = duration.total_seconds()
    if seconds == 0:
        return "0s"
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        count, seconds = divmod(seconds, length)
        if count:
            parts.append(f"{count:.0f}{unit}")
    if seconds:
        parts.append(f"{seconds:.6f}".rstrip("0").rstrip(".") + "s")
    return "".join(parts)


def format_age(age: timedelta) -> str:
    """Show an age as people say it: ``45d``, ``30h``, ``90m``, ``10s``; whole, and at least two of the unit."""
    for letter, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if age.total_seconds() >= 2 * length:
            return f"{age.total_seconds() // length:.0f}{letter}"
    return f"{age.total_seconds():.0f}s"


def _read_duration(value: object) -> object:
    if isinstance(value, str):
        return parse_duration(value)
    if isinstance(value, int | float):
        raise ValueError("a duration needs a unit, such as 720h or 30d")
    return value


Duration = Annotated[
    timedelta,
    BeforeValidator(_read_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["720h", "1h30m", "30d"]}),
]
"""A pydantic field type: a ``timedelta`` read by :func:`parse_duration` and written by :func:`format_duration`."""


def format_bytes(count: float) -> str:
    """Show a number of bytes: ``0 B``, ``512 B``, ``1.5 MB``, ``128.5 GB``."""
    size = float(count)
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if round(abs(size), 1) < 1024:  # as it will be shown: never 1024.0 KB
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} PB"


def format_rate(bytes_per_second: float) -> str:
    """Show a rate: ``12.3 MB/s``."""
    return f"{format_bytes(bytes_per_second)}/s"


def format_elapsed(seconds: float) -> str:
    """Show how long something took, at the precision a reader wants: ``0.4 s``, ``12.5 s``, ``3m04s``, ``2h05m``."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m"
