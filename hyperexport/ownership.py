"""The mark that a run leaves in everything that it may leave behind.

A snapshot, a staged export and an unfinished upload each say, *in themselves*, which tool, run, server and VM they
belong to, so that no second record can disagree. Only what bears this mark is ever removed.
"""

import os
import re
import socket
from datetime import UTC, datetime
from typing import Final, Literal

from pydantic import Field

from hyperexport.vm import Value

_TAG: Final = "[hyperexport "


class Owner(Value):
    """Who made a thing that a killed process may leave behind."""

    tool: Literal["hyperexport"] = "hyperexport"
    run: str = Field(description="The id of the run: the Prefect flow run's, or one made up.")
    vcenter: str = Field(description="The server's address.")
    vm: str = Field(description="The VM's instance uuid.")
    host: str = Field(description="The machine that the run is on.")
    pid: int = Field(description="Its process there.")
    started: datetime
    keep: bool = Field(default=False, description="Made to be kept after its run: retention may remove it, no reaper.")

    @classmethod
    def of_this_process(cls, *, run: str, vcenter: str, vm: str, keep: bool = False) -> "Owner":
        """The mark of the run that this process is."""
        return cls(
            run=run,
            vcenter=vcenter,
            vm=vm,
            host=socket.gethostname(),
            pid=os.getpid(),
            started=datetime.now(UTC),
            keep=keep,
        )

    def to_description(self) -> str:
        """Words for a person, with the mark at their end, for a snapshot's description."""
        fate = "kept on purpose" if self.keep else "removed by it"
        return f"Made by hyperexport for an export; {fate}. {_TAG}{self.model_dump_json()}]"

    @classmethod
    def from_description(cls, text: str) -> "Owner | None":
        """Find the mark in a description that a person may have edited; None where there is no whole one."""
        _, found, mark = text.partition(_TAG)
        ends = (match.start() + 1 for match in re.finditer(r"\}\]", mark)) if found else ()
        return next((owner for end in ends if (owner := cls.from_json(mark[:end]))), None)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Owner | None":
        """Read a mark; None for anything that is not one."""
        try:
            return cls.model_validate_json(text)
        except ValueError:
            return None
