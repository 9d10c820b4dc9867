"""Patterns of names: ``*`` is any run of characters, ``?`` is any one character, and nothing else is special.

VMs are called ``db01 [prod]`` and ``[Template] Ubuntu``: a bracket is a bracket here, unlike in :mod:`fnmatch`. Case
counts. This module knows only text.
"""

import re
from functools import lru_cache
from typing import Final

_SPECIAL: Final = {"*": ".*", "?": "."}


def matches(name: str, pattern: str) -> bool:
    """Whether the whole name fits the pattern."""
    return _compiled(pattern).fullmatch(name) is not None


@lru_cache(maxsize=512)
def _compiled(pattern: str) -> re.Pattern[str]:
    pieces = re.split(r"(\*+|\?)", pattern)
    return re.compile("".join(_SPECIAL.get(piece[:1]) or re.escape(piece) for piece in pieces), re.DOTALL)
