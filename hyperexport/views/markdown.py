"""Pieces of Markdown, with every text from outside made harmless: a VM may be called ``| # <b>``."""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from hyperexport.base.display import Page
from hyperexport.base.text import one_line

_NOT_IN_A_LINK: Final = re.compile(r"[\s()<>|]")
_SPECIAL: Final = re.compile(r"([\\`*_{}\[\]<>#|~&])")


def text(words: object) -> str:
    """Escape a text for any place in a line, a table's cell included.

    CommonMark: a backslash before any ASCII punctuation makes it literal.
    """
    return _SPECIAL.sub(r"\\\1", one_line(str(words)))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a table; every cell is escaped."""
    return raw_table(columns, ([text(cell) for cell in row] for row in rows))


def raw_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table whose cells are Markdown already."""
    return [_row(columns), _row(["---"] * len(columns)), *map(_row, rows), ""]


def link(words: object, url: str | None) -> str:
    """A text that leads somewhere; only the text, escaped, where there is no address."""
    good = url and url.startswith(("http://", "https://")) and not _NOT_IN_A_LINK.search(url)
    return f"[{text(words)}]({url})" if good else text(words)


def section(title: str, items: Iterable[object]) -> list[str]:
    """The lines of a heading with a list below it; none where the list is empty."""
    lines = [f"- {text(item)}" for item in items]
    return [f"## {title}", "", *lines, ""] if lines else []


def code(words: str) -> list[str]:
    """The lines of a block of code, such as a command; its fence is longer than any row of backticks in it."""
    line = one_line(words)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", line)), default=0))
    return [fence, line, fence, ""]


def pages_markdown(pages: Iterable[Page]) -> str:
    """Draw pages as Markdown, for the Prefect UI."""
    lines: list[str] = []
    for page in pages:
        lines += [f"# {text(page.title)}", ""]
        for each in page.tables:
            if not each.columns:
                lines += section(each.title, (cell for row in each.rows for cell in row))
                continue
            lines += [f"## {each.title}", ""] if each.title else []
            lines += table(each.columns, each.rows)
    return "\n".join(lines)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
