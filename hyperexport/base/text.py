r"""Text from outside, made harmless before a person or a program reads it.

A VM, a snapshot or a file may be called anything that its owner, or a hostile server, likes: a line break must not
become a line of its own among ``key=value`` lines or in a log, an escape sequence must not reach a terminal, and a
direction mark must not turn a name round. Such characters are shown as Python writes them: ``\n``, ``\x1b``,
``\u202e``. This module knows nothing but characters.
"""

import re
import unicodedata
from typing import Final

_JOINERS: Final = frozenset("\u200c\u200d")
"""Format characters that words of some scripts, and emoji, are written with, and that move nothing."""
_ACTING: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's categories of controls, format characters, surrogates, and separators of lines and paragraphs."""


def natural_order(name: str) -> list[tuple[int, str]]:
    """Give the key that sorts names as people count: vm-2 before vm-10."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name.casefold())
    return [(int(part), "") if part.isdecimal() and part.isascii() else (-1, part) for part in parts]


def escape_controls(text: str, *, keep: str = "") -> str:
    """Show every character that would act rather than be seen as an escape; all others stay as they are.

    Args:
        text: Anything.
        keep: Characters to leave alone, such as the line breaks of a text that has lines.
    """
    if text.isprintable():
        return text
    return "".join(_escape(sign) if _acts(sign) and sign not in keep else sign for sign in text)


def one_line(text: str) -> str:
    """Make one line: white space of any kind becomes a space, and what else would act is shown as an escape."""
    return escape_controls(" ".join(text.split()))


def sentences(*parts: str | None) -> str:
    """Join parts that are sentences without their full stops; one that ends with ``.``, ``?`` or ``!`` keeps it."""
    said = [part for part in parts if part]
    return " ".join(part if part.endswith((".", "?", "!")) else f"{part}." for part in said)


def _acts(sign: str) -> bool:
    return unicodedata.category(sign) in _ACTING and sign not in _JOINERS


def _escape(sign: str) -> str:
    return sign.encode("unicode_escape").decode("ascii")
