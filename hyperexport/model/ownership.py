"""The mark that a run leaves in everything that it may leave behind.

A snapshot, a staged export and an unfinished upload each say, *in themselves*, which tool, run, server and VM they
belong to, so that no second record can disagree. Only what bears this mark is ever removed.
"""

import json
import os
import re
import socket
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Final, Literal, NamedTuple

from pydantic import AwareDatetime, Field

from hyperexport.model.vm import Value

_TAG: Final = "[hyperexport "
_DIGITS: Final = 30
_LONGEST_MARK: Final = 8192
_MOST_ENDS: Final = 50
"""Anybody who may take snapshots writes their descriptions; more than these no mark of ours has."""


class ProcessIdentity(NamedTuple):
    """What tells a process from any other that ever had its number. No clock has a part in it."""

    boot: str
    """The machine's boot, which a restart changes (Linux: random(4), boot_id)."""
    namespace: str
    """Where the number means anything: each container counts its processes by itself."""
    ticks: int
    """When the process began, in the kernel's own ticks since the boot (proc(5), stat, field 22)."""

    def __str__(self) -> str:
        return f"{self.boot}/{self.namespace}/{self.ticks}"

    @classmethod
    def parse(cls, text: str) -> "ProcessIdentity | None":
        """Read what ``str`` made; None for anything else."""
        boot, _, rest = text.partition("/")
        namespace, _, ticks = rest.partition("/")
        return (
            cls(boot, namespace, int(ticks))
            if boot and namespace and ticks.isdecimal() and len(ticks) < _DIGITS
            else None
        )


def identity_of(pid: int) -> ProcessIdentity | None:
    """Look a process up; None where it is gone (a zombie is), or where the system does not tell."""
    proc = Path("/proc")
    try:
        boot = (proc / "sys/kernel/random/boot_id").read_text().strip()
        namespace = (proc / "self/ns/pid").readlink().name.strip("pid:[]")
        # The second field, the program's name, may hold anything but ends with the last parenthesis.
        fields = (proc / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else ProcessIdentity(boot, namespace, int(fields[19]))


class Owner(Value):
    """Who made a thing that a killed process may leave behind."""

    tool: Literal["hyperexport"] = "hyperexport"
    run: str = Field(description="The id of the run: the Prefect flow run's, or one made up.")
    vcenter: str = Field(description="The server's address.")
    vcenter_uuid: str | None = Field(default=None, description="The server's own uuid, where it has one.")
    vm: str = Field(description="The VM's instance uuid, or its moref where it has none; empty for a whole store.")
    host: str = Field(description="The machine that the run is on.")
    pid: int = Field(description="Its process there.")
    process: str | None = Field(
        default=None,
        description="Which of all processes of that number: boot, namespace, ticks. None where the system tells none.",
    )
    started: AwareDatetime
    keep: bool = Field(default=False, description="Made to be kept after its run: retention may remove it, no reaper.")

    @classmethod
    def of_this_process(
        cls, *, run: str, vcenter: str, vm: str, vcenter_uuid: str | None = None, keep: bool = False
    ) -> "Owner":
        """The mark of the run that this process is."""
        identity = identity_of(os.getpid())
        return cls(
            run=run,
            vcenter=vcenter,
            vcenter_uuid=vcenter_uuid,
            vm=vm,
            host=socket.gethostname(),
            pid=os.getpid(),
            process=str(identity) if identity else None,
            started=datetime.now(UTC),
            keep=keep,
        )

    def may_share_vm(self, other: "Owner") -> bool:
        """Whether both may be at work on one VM; False only on proof: another VM, or a server with another uuid."""
        if not self.vm or not other.vm:
            return True
        if self.vm.lower() != other.vm.lower():
            return False
        return not self.vcenter_uuid or not other.vcenter_uuid or self.vcenter_uuid == other.vcenter_uuid

    def to_description(self) -> str:
        """Words for a person, with the mark at their end, for a snapshot's description."""
        fate = "kept on purpose" if self.keep else "removed by it"
        return f"Made by hyperexport for an export; {fate}. {self.to_mark()}"

    def to_mark(self) -> str:
        """The mark alone, in ASCII, as a header of HTTP takes it."""
        return f"{_TAG}{json.dumps(self.model_dump(mode='json'), separators=(',', ':'))}]"

    @classmethod
    def from_description(cls, text: str) -> "Owner | None":
        """Find the mark in a description that a person may have edited; None where there is no whole one."""
        _, found, mark = text.partition(_TAG)
        mark = mark[:_LONGEST_MARK]
        ends = (match.start() + 1 for match in islice(re.finditer(r"\}\]", mark), _MOST_ENDS)) if found else ()
        return next((owner for end in ends if (owner := cls.from_json(mark[:end]))), None)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Owner | None":
        """Read a mark; None for anything that is not one."""
        try:
            return cls.model_validate_json(text)
        except ValueError:
            return None
