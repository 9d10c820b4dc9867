"""Throughput over time, as a picture inside a Markdown page.

An SVG in the image's own address, so that it needs no file and no server. Both of Prefect's user interfaces show it
(tests/ui); who reads only the text has the table below it.
"""

import base64
import re
from collections.abc import Sequence
from typing import Any, Final, cast

from hyperexport.base.units import MIB, format_bytes, format_elapsed, format_rate
from hyperexport.model.rates import Rates
from hyperexport.views.markdown import table

_PICTURE: Final = re.compile(r"!\[[^\]]*\]\(data:[^)]*\)\n*")
_SCRIPT: Final = re.compile(rb"<script.*?</script>", re.DOTALL)
_COLORS: Final = ("#2563eb", "#d97706", "#059669", "#db2777", "#7c3aed", "#0891b2", "#65a30d", "#b91c1c")


def throughput_markdown(rates: Sequence[Rates]) -> list[str]:
    """The lines of a page about how fast the files moved; none where none was measured."""
    if not rates:
        return []
    picture = base64.b64encode(throughput_svg(rates)).decode()
    return [
        "## Throughput",
        "",
        f"![Throughput of each file over time](data:image/svg+xml;base64,{picture})",
        "",
        *table(("File", "Transferred", "Time", "On average", "Highest", "Lowest"), map(_row, rates)),
    ]


def _style() -> Any:
    from pygal.style import Style  # noqa: PLC0415

    return Style(
        background="white",
        plot_background="white",
        foreground="#444",
        foreground_strong="#222",
        foreground_subtle="#888",
        guide_stroke_color="#ddd",
        major_guide_stroke_color="#ddd",
        font_family="sans-serif",
        label_font_size=12,
        major_label_font_size=12,
        legend_font_size=12,
        title_font_size=12,
        colors=_COLORS,
    )


def throughput_svg(rates: Sequence[Rates]) -> bytes:
    """One line for each file: MB/s over the seconds of the run."""
    import pygal  # noqa: PLC0415 - only where a chart is drawn

    chart: Any = pygal.XY(
        style=_style(),
        width=880,
        height=300,
        show_dots=False,
        stroke_style={"width": 2},
        js=[],
        x_title="seconds",
        y_title="MB/s",
        legend_at_bottom=True,
        legend_at_bottom_columns=min(len(rates), 3),
        truncate_legend=40,
        include_x_axis=True,
        value_formatter=_plain,
        x_value_formatter=_plain,
    )
    for one in rates:
        chart.add(one.item, [(round(at, 2), round(rate / MIB, 2)) for at, rate in _line(one)])
    # pygal describes the chart for its own script, which is not here and would not run in an image.
    return _SCRIPT.sub(b"", cast("bytes", chart.render()))


def without_pictures(markdown: str) -> str:
    """The same page for who reads its text."""
    return _PICTURE.sub("", markdown)


def _plain(value: float) -> str:
    return f"{value:g}"


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
