"""Tell the run names that Prefect makes up from those that people give.

Prefect 3.8 names each run by itself, and nothing says so: its server with two words of coolname's lists, the form of
its first UI with a star's name, that of the second with an adjective and a noun. The forms send theirs as if it had
been typed.
"""

import re
from functools import cache
from typing import Any, Final, cast

from coolname.data import config  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

_GREEK: Final = (
    "alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|omicron|pi|rho|sigma|tau|upsilon|phi|chi"
    "|psi|omega"
)
_ADJECTIVES: Final = (
    "Awesome|Rustic|Small|Gorgeous|Fantastic|Sleek|Intelligent|Unbranded|Refined|Licensed|Generic|Practical|Ergonomic"
    "|Handcrafted|Tasty|Handmade|Incredible"
)
_OF_A_FORM: Final = re.compile(
    rf"(?:{_GREEK})[0-9]{{0,3}}-[a-z-]*"  # such as upsilon4-altair-vector
    rf"|(?:{_ADJECTIVES})-[A-Z][a-z]{{0,5}}"  # such as Tasty-Gar
)


def is_made_up(name: str) -> bool:
    """Whether Prefect's server or one of its forms made the name up."""
    words = name.split("-")
    return (len(words) >= 2 and set(words) <= _words()) or _OF_A_FORM.fullmatch(name) is not None


@cache
def _words() -> frozenset[str]:
    lists = cast("dict[str, dict[str, Any]]", config).values()
    return frozenset(word for each in lists for word in each.get("words", ()))
