"""Throughput over time, as a picture inside a Markdown page.

An SVG in the image's own address, so that it needs no file and no server. Both of Prefect's user interfaces show it
(tests/ui); who reads only the text has the table below it.
"""

import base64
import re
from collections.abc import Sequence
from typing import Final

from hyperexport.base.units import MIB, format_bytes, format_elapsed, format_rate
from hyperexport.model.rates import Rates
from hyperexport.views.markdown import table
from hyperexport.views.plots import curves_plot

_PICTURE: Final = re.compile(r"!\[[^\]]*\]\(data:[^)]*\)\n*")


def throughput_markdown(rates: Sequence[Rates]) -> list[str]:
    """The lines of a page about how fast the files moved; none where none was measured."""
    if not rates:
        return []
    picture = base64.b64encode(throughput_svg(rates).encode()).decode()
    return [
        "## Throughput",
        "",
        f"![Throughput of each file over time](data:image/svg+xml;base64,{picture})",
        "",
        *table(("File", "Transferred", "Time", "On average", "Highest", "Lowest"), map(_row, rates)),
    ]


def throughput_svg(rates: Sequence[Rates]) -> str:
    """One line for each file: MB/s over the seconds of the run."""
    curves = [(one.item, [(at, rate / MIB) for at, rate in _line(one)]) for one in rates]
    return curves_plot(curves, x_title="seconds", y_title="MB/s")


def without_pictures(markdown: str) -> str:
    """The same page for who reads its text."""
    return _PICTURE.sub("", markdown)


def _line(one: Rates) -> list[tuple[float, float]]:
    """The curve, from the first moment to the last: the shortest transfer is a line, too."""
    curve = one.curve
    return [(one.moments[0].at, curve[0][1]), *curve, (one.moments[-1].at, curve[-1][1])]


def _row(one: Rates) -> tuple[str, ...]:
    rates = [rate for _, rate in one.curve]
    return (
        one.item,
        format_bytes(one.moved),
        format_elapsed(one.seconds),
        format_rate(one.moved / one.seconds),
        format_rate(max(rates)),
        format_rate(min(rates)),
    )
