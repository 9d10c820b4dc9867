"""Pieces of Markdown, with every text from outside made harmless: a VM may be called ``| # <b>``."""

import re
import shlex
from collections.abc import Iterable, Sequence
from typing import Final

from hyperexport.base.display import FACTS, Page
from hyperexport.base.folding import beside, says, sizes_of
from hyperexport.base.text import escape_controls, one_line

_NOT_IN_A_LINK: Final = re.compile(r"[\s()<>|]")
_ROOM: Final = 80
"""Characters that a table may be wide, so that a window of 1,280 pixels shows all of it in V1 and V2."""
_COMMAND: Final = 56
"""The same for a line of a command, in letters of equal width."""
_GAP: Final = 3
_SPECIAL: Final = re.compile(r"([\\`*_{}\[\]<>#|~&])")


def text(words: object) -> str:
    """Escape a text for any place in a line, a table's cell included.

    CommonMark: a backslash before any ASCII punctuation makes it literal.
    """
    return _SPECIAL.sub(r"\\\1", one_line(str(words)))


def table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], urls: Sequence[str | None] | None = None
) -> list[str]:
    """The lines of a table; every cell is escaped.

    Prefect's pages cut off what is wide (V1) or print it over what stands beside it (V2). In a table that is too wide,
    sentences and the columns that find no room stand in a list below it; facts become a list as a whole.

    Args:
        columns: Their names.
        rows: A cell for each.
        urls: For each row, where its first cell leads to.
    """
    cells = [[str(cell) for cell in row] for row in rows]
    sizes = sizes_of(columns, cells)
    fits = sum(size.width for size in sizes) + _GAP * (len(sizes) - 1) <= _ROOM
    if tuple(columns) == FACTS and not fits:
        return [*(f"- **{text(name)}:** {text(value)}" for name, value in cells), ""]
    names = [link(row[0], url) for row, url in zip(cells, urls or [None] * len(cells), strict=True)]
    near = list(range(len(columns))) if fits else beside(sizes, _ROOM, _GAP)
    lines = [_row(columns[number] for number in near), _row(["---"] * len(near))]
    lines += [_row([name, *(text(row[number]) for number in near[1:])]) for name, row in zip(names, cells, strict=True)]
    below = [number for number in range(len(columns)) if number not in near]
    said = [
        f"- {name}: " + ", ".join(f"{columns[number]}: {text(row[number])}" for number in below if says(row[number]))
        for name, row in zip(names, cells, strict=True)
        if any(says(row[number]) for number in below)
    ]
    return [*lines, "", *said, *([""] if said else [])]


def link(words: object, url: str | None) -> str:
    """A text that leads somewhere; only the text, escaped, where there is no address."""
    good = url and url.startswith(("http://", "https://")) and not _NOT_IN_A_LINK.search(url)
    return f"[{text(words)}]({url})" if good else text(words)


def section(title: str, items: Iterable[object]) -> list[str]:
    """The lines of a heading with a list below it; none where the list is empty."""
    lines = [f"- {text(item)}" for item in items]
    return [f"## {title}", "", *lines, ""] if lines else []


def code(words: str) -> list[str]:
    """The lines of a block with a command; its fence is longer than any row of backticks in it."""
    lines = _continued(words)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", "".join(lines))), default=0))
    return [fence, *lines, fence, ""]


def _continued(command: str) -> list[str]:
    """A command for a shell on several lines, so that none is cut off."""
    lines = [""]
    for word in (shlex.quote(escape_controls(word)) for word in shlex.split(command)):
        if lines[-1] and len(lines[-1]) + len(word) > _COMMAND:
            lines[-1] += " \\"
            lines.append("  ")
        lines[-1] += f" {word}" if lines[-1].strip() else word
    return lines


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
