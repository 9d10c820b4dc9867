"""Log lines as JSON, one object a line, for programs that gather them.

The VM, the run and the step of a line are fields of their own (:mod:`hyperexport.base.log_context`), so that no reader
has to parse the message. Switched on by ``HYPEREXPORT_LOG_FORMAT``, because it is decided once for a whole machine.
"""

import json
import logging
import os
from datetime import UTC, datetime
from typing import Final

from hyperexport.base.log_context import log_facts
from hyperexport.base.text import one_line
from hyperexport.errors import UsageError

VARIABLE: Final = "HYPEREXPORT_LOG_FORMAT"
_FORMATS: Final = ("text", "json")


def json_logs_wanted() -> bool:
    """Tell whether the environment asks for JSON.

    Raises:
        UsageError: It asks for a form that there is not.
    """
    wanted = os.environ.get(VARIABLE) or "text"
    if wanted not in _FORMATS:
        raise UsageError(f"{VARIABLE}: there is no form {wanted!r}", fix="Set it to json or text")
    return wanted == "json"


class JsonLines(logging.Formatter):
    """Makes one JSON object of a record, with the facts of the moment in which it was logged."""

    def format(self, record: logging.LogRecord) -> str:
        """The object, in one line of ASCII: no character of a name acts on a terminal, or ends the line."""
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": one_line(record.getMessage()),
            **log_facts(),
        }
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told)


def json_line(level: str, message: str, **facts: str | None) -> str:
    """A line that is no log record: how a command ended."""
    told = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "level": level, "logger": "hyperexport"}
    return json.dumps({**told, "message": message, **{name: fact for name, fact in facts.items() if fact is not None}})
