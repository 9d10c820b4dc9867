"""The names of the time zones, looked up once in a process.

Prefect 3.8 walks through the folders of the time zone database (20 ms) for each schedule that it reads or writes.
"""

from functools import cache

from prefect._internal.schemas import validators
from prefect.types._datetime import get_timezones


def remember_time_zones() -> None:
    """Have Prefect look them up once."""
    validators.get_timezones = cache(get_timezones)  # pyright: ignore[reportPrivateImportUsage]
