"""How a value shows itself to who looks at it in a notebook, or prints it with rich.

A value only knows that it can be asked (:class:`Displayed`); what is said of it is registered from above, in
``views/pages.py``, so that values need no words; that is imported when a value is first shown. Everything that comes
from outside is made harmless here.
"""

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from functools import singledispatch
from html import escape
from importlib import import_module
from itertools import count
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from hyperexport.base.text import escape_controls

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from hyperexport.base.terminal_table import TerminalTable

T = TypeVar("T")

_PAGES = "hyperexport.views.pages"
"""What registers itself with :func:`pages_of`, :func:`row_of`, :func:`pairs_of` and :func:`blocks_of`."""

Pairs = tuple[tuple[str, object], ...]
"""A result for a script: keys that stay, and exact values."""

FACTS = ("Property", "Value")
"""The columns of a table of facts."""

_LEFT = "text-align: left; vertical-align: top"


class Tone(StrEnum):
    """How good a state is; a terminal shows it as a colour."""

    GOOD = "green"
    DOUBTFUL = "yellow"
    BAD = "red"
    UNKNOWN = "dim"


class Toned(str):
    """A cell with a tone. To every renderer but the terminal's it is its text."""

    __slots__ = ("tone",)

    tone: Tone

    def __new__(cls, words: object, tone: Tone) -> "Toned":
        """Make the text of a value with a tone."""
        made = super().__new__(cls, words)
        made.tone = tone
        return made


class Table(NamedTuple):
    """Rows below column names; without column names, a list of lines."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    detail: bool = False
    """Explains what did not change, for as many things as there are: left out at a terminal."""


class Page(NamedTuple):
    """What is to be said of a value: one sentence or name, then tables."""

    title: str
    tables: tuple[Table, ...] = ()


def lines(title: str, items: Iterable[object]) -> tuple[Table, ...]:
    """A list as a table without columns; nothing where it is empty."""
    rows = tuple((str(item),) for item in items)
    return (Table(title, (), rows),) if rows else ()


def table(title: str, rows: Sequence[dict[str, object]], *, detail: bool = False) -> tuple[Table, ...]:
    """Rows with the names of their columns as a table; nothing where there are none."""
    cells = tuple(tuple(cell if isinstance(cell, str) else str(cell) for cell in row.values()) for row in rows)
    return (Table(title, tuple(rows[0]), cells, detail),) if rows else ()


def numbered(key: str, values: Iterable[object]) -> Pairs:
    """A pair for each value: ``location``, ``location_2``, ..."""
    return tuple((key if number == 1 else f"{key}_{number}", value) for number, value in zip(count(1), values))


@singledispatch
def pages_of(value: object) -> tuple[Page, ...]:
    """What is to be said of a value; nothing of a kind that has no page."""
    del value
    return ()


@singledispatch
def row_of(value: object) -> dict[str, object] | None:
    """A value as one row of a table of several; None of a kind that has no row."""
    del value
    return None


@singledispatch
def pairs_of(value: object) -> Pairs:
    """A value as keys and exact values, for ``--quiet``; nothing of a kind that has no page."""
    del value
    return ()


@singledispatch
def blocks_of(value: object) -> tuple[Pairs, ...]:
    """The pairs of a result that covers several things: one block each; an empty line separates them."""
    pairs = pairs_of(value)
    return (pairs,) if pairs else ()


def as_html(pages: Iterable[Page]) -> str:
    """Pages as HTML in which every text is only text."""
    return "".join(f"<h4>{_text(page.title)}</h4>{''.join(map(_html_table, page.tables))}" for page in pages)


def as_rich(pages: Iterable[Page]) -> "RenderableType":
    """Pages for a terminal as one thing to print."""
    from rich.console import Group  # noqa: PLC0415 - only who prints pays for it

    return Group(*rich_parts(pages))


def rich_parts(pages: Iterable[Page]) -> "Iterator[Text | TerminalTable]":
    """The parts of pages for a terminal, in order: a list becomes a line for each item. No text is markup."""
    from rich.text import Text  # noqa: PLC0415

    for page in pages:
        yield Text(escape_controls(page.title), style="bold")
        for each in page.tables:
            if each.detail:
                continue
            if each.columns:
                yield rich_table(each)
                continue
            for (item,) in each.rows:
                mark = Text(f"{escape_controls(each.title)}: " if each.title else "", style="yellow")
                yield mark.append(escape_controls(item), style="default")


def rich_table(each: Table) -> "TerminalTable":
    """A table for a terminal; a cell with a tone has a coloured dot before it."""
    from rich.text import Text  # noqa: PLC0415

    from hyperexport.base.terminal_table import TerminalTable  # noqa: PLC0415

    title = Text(escape_controls(each.title)) if each.title else None
    columns = [Text(escape_controls(column)) for column in each.columns]
    return TerminalTable(title, columns, [[_rich_cell(cell) for cell in row] for row in each.rows])


def _rich_cell(cell: str) -> "Text":
    from rich.text import Text  # noqa: PLC0415

    words = escape_controls(cell)
    return Text("● ", style=cell.tone).append(words, style="default") if isinstance(cell, Toned) else Text(words)


class Displayed:
    """Shows itself by what is registered for its kind; else as it always did."""

    def _repr_html_(self) -> str | None:
        import_module(_PAGES)
        return as_html(pages_of(self)) or None

    def __rich__(self) -> "RenderableType":
        from rich.pretty import Pretty  # noqa: PLC0415

        import_module(_PAGES)
        pages = pages_of(self)
        return as_rich(pages) if pages else Pretty(self)


class Listing(list[T]):
    """A list that shows itself as one table; of one thing, and of things that are no rows, it shows each whole."""

    def _repr_html_(self) -> str:
        return as_html(self._pages())

    def __rich__(self) -> "RenderableType":
        return as_rich(self._pages())

    def _pages(self) -> tuple[Page, ...]:
        import_module(_PAGES)
        rows = [row for item in self if (row := row_of(item)) is not None]
        whole = tuple(page for item in self for page in pages_of(item)) if len(self) == 1 or not rows else ()
        return whole or (Page(f"{len(self)} in all", table("", rows)),)


def _html_table(each: Table) -> str:
    title = f"<p><b>{_text(each.title)}</b></p>" if each.title else ""
    if not each.columns:
        return f"{title}<ul>{''.join(f'<li>{_text(cell)}</li>' for row in each.rows for cell in row)}</ul>"
    head = "".join(f'<th style="{_LEFT}">{_text(column)}</th>' for column in each.columns)
    rows = "".join(
        f"<tr>{''.join(f'<td style={_LEFT!r}>{_text(cell)}</td>' for cell in row)}</tr>" for row in each.rows
    )
    return f"{title}<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _text(words: str) -> str:
    return escape(escape_controls(words))
