"""Pieces of Markdown, with every text from outside made harmless: a VM may be called ``| # <b>``."""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from hyperexport.base.text import one_line

_SPECIAL: Final = re.compile(r"([\\`*_{}\[\]<>#|~&])")


def text(words: object) -> str:
    """Escape a text for any place in a line, a table's cell included.

    CommonMark: a backslash before any ASCII punctuation makes it literal.
    """
    return _SPECIAL.sub(r"\\\1", one_line(str(words)))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a table; every cell is escaped."""
    return [
        _row(columns),
        _row(["---"] * len(columns)),
        *(_row([text(cell) for cell in row]) for row in rows),
        "",
    ]


def section(title: str, items: Iterable[object]) -> list[str]:
    """The lines of a heading with a list below it; none where the list is empty."""
    lines = [f"- {text(item)}" for item in items]
    return [f"## {title}", "", *lines, ""] if lines else []


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
