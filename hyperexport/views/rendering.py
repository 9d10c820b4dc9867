"""How every page and mail of ours is written: from a template, and never with a character that turns its text round."""

from functools import cache
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from hyperexport.base.text import escape_controls

_PACKAGE: Final = "hyperexport.views"


@cache
def templates() -> Environment:
    """What finds the templates by name. HTML is escaped; a name that a template lacks is an error."""
    return Environment(
        loader=PackageLoader(_PACKAGE),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        finalize=_harmless,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _harmless(value: object) -> object:
    return escape_controls(value) if isinstance(value, str) and not isinstance(value, Markup) else value
