"""IPython completes the keywords of a call by jedi, which reads the class of a Prefect flow and finds ``**kwargs``.

IPython 9 and jedi 0.19: tests/engine/test_progress_in_ipython.py asks a kernel, and tests/unit/test_keywords.py IPython
without this module.
"""

import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

_CALL: Final = re.compile(r"([A-Za-z_][\w.]*)\((?:[^()]|\([^()]*\))*$")
"""A call that is not closed yet, by its name; arguments that are calls themselves are passed over."""


def complete_flow_keywords(keywords_of: Callable[[Any], Sequence[str]]) -> None:
    """Have IPython, if this runs in it, complete the keywords that a flow takes.

    Args:
        keywords_of: Their names; none for what is no flow.
    """
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if shell is None:
        return
    from IPython.core import completer  # noqa: PLC0415 - only in IPython

    api: Any = completer  # whose own types are partial

    def match(context: Any) -> Any:
        call = _CALL.search(context.text_until_cursor)
        found = keywords_of(_named(shell.user_ns, call[1])) if call else ()
        fits = [f"{name}=" for name in found if name.startswith(context.token)] if context.token else []
        return {"completions": [api.SimpleCompletion(text=text, type="param") for text in fits]}

    shell.Completer.custom_matchers.append(api.context_matcher(identifier="hyperexport.flows")(match))


def _named(names: dict[str, Any], path: str) -> Any:
    """What a dotted name means, without running anything but the attributes' own code."""
    first, *attributes = path.split(".")
    found = names.get(first)
    for attribute in attributes:
        found = getattr(found, attribute, None)
    return found
