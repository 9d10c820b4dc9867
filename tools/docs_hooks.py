"""What of the documentation is made from the code each time that the site is built."""

from collections.abc import Iterator
from datetime import timedelta
from itertools import groupby
from typing import Any

from hyperexport.base.units import format_duration
from hyperexport.options.precedence import ExportOptions, Leaf, leaves
from hyperexport.options.selection import selection_leaves

_HERE = "<!-- the options -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the tables of the options where a page asks for them; mkdocs calls it for each page."""
    return markdown.replace(_HERE, "\n".join(option_tables())) if _HERE in markdown else markdown


def option_tables() -> Iterator[str]:
    """A table for each group of the form: flag, default, meaning, and how it is called elsewhere."""
    yield from _table("Which VMs", list(selection_leaves()))
    for name, group in groupby(leaves(), key=lambda leaf: leaf.group):
        yield from _table(ExportOptions.model_fields[name].title or name.capitalize(), list(group))


def _table(title: str, found: list[Leaf]) -> Iterator[str]:
    yield from (f"## {title}", "", "| flag | default | meaning | key |", "|---|---|---|---|")
    for leaf in found:
        yield f"| `{leaf.flag}` | {_default(leaf)} | {leaf.field.description} | `{leaf.key}` |"
    yield ""


def _default(leaf: Leaf) -> str:
    value = leaf.field.default
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"`{format_duration(value) if isinstance(value, timedelta) else value}`"
