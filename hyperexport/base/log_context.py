"""What a log line is about: the run, the VM, the disk, the stage. Kept beside the line, so that no text is parsed.

A context variable, as each thread that moves a disk has its own copy.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

_about: ContextVar[Mapping[str, str]] = ContextVar("what log lines are about", default=MappingProxyType({}))


@contextmanager
def about(**facts: str | None) -> Generator[None]:
    """Attach these facts to the block's log lines, with those of the enclosing blocks; None is left out."""
    told = {name: fact for name, fact in facts.items() if fact is not None}
    token = _about.set({**_about.get(), **told})
    try:
        yield
    finally:
        _about.reset(token)


def log_facts() -> Mapping[str, str]:
    """What a line that is logged now is about."""
    return _about.get()
