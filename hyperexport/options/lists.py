"""Options that are several values: how a list, a string or the environment's text becomes a tuple."""

import json
import re
from collections.abc import Iterable
from typing import Annotated, Final, cast

from pydantic import AfterValidator, BeforeValidator

from hyperexport.model.bandwidth_windows import split_windows


def _listed(value: object) -> object:
    """One text is one value: only the environment has to write a list as text (:func:`read_names`)."""
    if isinstance(value, str):
        return (value,) if value.strip() else ()
    return value


def _split_each(value: object) -> object:
    """Split at commas, for values that cannot have one in them."""
    if not isinstance(value, str | list | tuple):
        return value
    texts: Iterable[object] = [value] if isinstance(value, str) else cast("list[object]", value)
    return tuple(part for text in texts for part in (_at_commas(text) if isinstance(text, str) else (text,)))


def _split_windows(value: object) -> object:
    texts = cast("list[object]", value) if isinstance(value, list | tuple) else [value]
    if not all(isinstance(text, str) for text in texts):
        return cast("object", value)
    return tuple(part for text in texts for part in split_windows(str(text)))


def _at_commas(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def read_names(text: str) -> tuple[str, ...]:
    r"""Read several names out of one text, as the environment gives them.

    A JSON list (``["db01, old", "web*"]``); or else one name a line; or else names with commas between them, where
    ``\,`` is a comma within a name.
    """
    if text.lstrip().startswith("["):
        try:
            found: object = json.loads(text)
        except (ValueError, RecursionError):
            found = None  # a name such as [Template] Ubuntu
        if isinstance(found, list) and all(isinstance(name, str) for name in cast("list[object]", found)):
            return tuple(cast("list[str]", found))
    parts = text.splitlines() if "\n" in text.strip() else re.split(r"(?<!\\),", text)
    return tuple(part.strip().replace("\\,", ",") for part in parts if part.strip())


def write_names(names: Iterable[object]) -> str:
    """Write several names as one text that :func:`read_names` reads."""
    return ",".join(str(name).replace(",", "\\,") for name in names)


def _no_empty_name(value: tuple[str, ...]) -> tuple[str, ...]:
    if not all(name.strip() for name in value):
        raise ValueError("an empty name names nothing")
    return value


NAMES: Final = BeforeValidator(_listed)
Names = Annotated[tuple[str, ...], NAMES, AfterValidator(_no_empty_name)]
"""Several names, which may hold any character: a list, or one string, which is one name. Never split."""

Words = Annotated[tuple[str, ...], BeforeValidator(_split_each), AfterValidator(_no_empty_name)]
"""Several words that cannot hold a comma: a list, a string with commas, or both."""

NamesAsText = Annotated[tuple[str, ...], BeforeValidator(lambda text: read_names(str(text)))]
"""What the environment gives for :data:`Names`."""

Windows = Annotated[tuple[str, ...], BeforeValidator(_split_windows)]
"""Several windows: a list, or one string with commas, which may also stand between the days of one window."""
