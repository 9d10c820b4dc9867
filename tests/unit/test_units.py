"""Durations are read in the forms that people write, and shown in a form that is read again."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from hyperexport.base.units import (
    GIB,
    KIB,
    MIB,
    Duration,
    format_bytes,
    format_duration,
    format_elapsed,
    format_rate,
    parse_duration,
)

DURATION: TypeAdapter[timedelta] = TypeAdapter(Duration)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("720h", timedelta(hours=720)),
        ("30d", timedelta(days=30)),
        ("1h30m", timedelta(minutes=90)),
        ("1.5h", timedelta(minutes=90)),
        (".5m", timedelta(seconds=30)),
        ("250ms", timedelta(milliseconds=250)),
        (" 45s ", timedelta(seconds=45)),
        ("0", timedelta(0)),
        ("P30D", timedelta(days=30)),
        ("PT90M", timedelta(minutes=90)),
        ("P1DT2H3M4.5S", timedelta(days=1, hours=2, minutes=3, seconds=4.5)),
    ],
)
def test_durations_are_read_as_people_and_json_write_them(text: str, expected: timedelta):
    assert parse_duration(text) == expected


@pytest.mark.parametrize(
    "text", ["", "30", "h", "-1h", "1h 30m", "1 d", "1y", "P", "PT", "P1Y", "1h30", "30d!", "1e9h"]
)
def test_what_is_no_duration_is_refused_with_an_example(text: str):
    with pytest.raises(ValueError, match="is not a duration such as 720h"):
        parse_duration(text)


def test_a_duration_of_more_than_a_hundred_years_is_refused():
    with pytest.raises(ValueError, match="longer than a hundred years"):
        parse_duration("36501d")


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=36_500)))
def test_a_duration_is_shown_in_a_form_that_is_read_again(duration: timedelta):
    assert parse_duration(format_duration(duration)) == duration


@given(st.text())
def test_any_text_is_a_duration_or_a_value_error(text: str):
    try:
        parse_duration(text)
    except ValueError:
        return


def test_a_duration_field_takes_text_and_gives_it_back():
    assert DURATION.dump_json(DURATION.validate_python("90m")) == b'"1h30m"'


def test_a_duration_field_refuses_a_number_without_a_unit():
    with pytest.raises(ValidationError, match="needs a unit"):
        DURATION.validate_python(30)


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (512, "512 B"),
        (KIB, "1.0 KB"),
        (1.5 * MIB, "1.5 MB"),
        (128.5 * GIB, "128.5 GB"),
        (1024**6, "1024.0 PB"),
    ],
)
def test_bytes_are_shown_in_binary_units(count: float, shown: str):
    assert format_bytes(count) == shown


@given(st.integers(0, 1024**5 - 1))
def test_no_size_is_shown_as_1024_of_a_unit_that_has_a_larger_one(count: int):
    assert float(format_bytes(count).split()[0]) < 1024


def test_a_rate_is_bytes_in_a_second():
    assert format_rate(12.3 * MIB) == "12.3 MB/s"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.42, "0.4 s"), (12.5, "12.5 s"), (59.97, "1m00s"), (184, "3m04s"), (3599.6, "1h00m"), (7500, "2h05m")],
)
def test_elapsed_time_is_shown_at_the_precision_that_matters(seconds: float, shown: str):
    assert format_elapsed(seconds) == shown
