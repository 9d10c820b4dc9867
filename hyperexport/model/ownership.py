"""The owner tag that a run leaves in everything that it may leave behind.

A snapshot, a staged export and an unfinished upload each say, *in themselves*, which tool, run, server and VM they
belong to, so that no second record can disagree. Only what bears this tag is ever removed.

Others can write such tags, too: everybody who may take snapshots writes their descriptions. So a tag is signed, with a
key that only its machine knows and only in this boot (``base/machine.py``), and what it says of a process is believed
only where the signature fits. A snapshot's tag also names the snapshot, so that a copy on another is none.
"""

import hashlib
import hmac
import json
import os
import re
import socket
from datetime import UTC, datetime
from itertools import islice
from typing import Final, Literal

from pydantic import AwareDatetime, Field

from hyperexport.base.machine import Machine, identity_of, this_machine
from hyperexport.model.vm import Value

_TAG: Final = "[hyperexport "
_LONGEST_MARK: Final = 8192
_MOST_ENDS: Final = 50
"""Anybody who may take snapshots writes their descriptions; more than these no mark of ours has."""


class Owner(Value):
    """Who made a thing that a killed process may leave behind."""

    tool: Literal["hyperexport"] = "hyperexport"
    run: str = Field(description="The id of the run: the Prefect flow run's, or one made up.")
    vcenter: str = Field(description="The server's address.")
    vcenter_uuid: str | None = Field(default=None, description="The server's own uuid, where it has one.")
    vm: str = Field(description="The VM's instance uuid, or its moref where it has none; empty for a whole store.")
    host: str = Field(description="The machine that the run is on.")
    pid: int = Field(ge=1, lt=1 << 31, description="Its process there.")
    process: str | None = Field(
        default=None,
        description="Which of all processes of that number: boot, namespaces, ticks. None where the system tells none.",
    )
    started: AwareDatetime
    keep: bool = Field(default=False, description="Made to be kept after its run: retention may remove it, no reaper.")
    machine: str | None = Field(default=None, description="A digest of the machine's id. A host name is no identity.")
    network: str | None = Field(
        default=None, description="The network namespace where the run announces itself while it is at work."
    )
    thing: str | None = Field(default=None, description="The snapshot that the tag was made for, by its name.")
    proof: str | None = Field(default=None, description="The signature: that this machine made the tag in this boot.")

    @classmethod
    def of_this_process(
        cls, *, run: str, vcenter: str, vm: str, vcenter_uuid: str | None = None, keep: bool = False
    ) -> "Owner":
        """The signed tag of a run of this process."""
        identity, machine = identity_of(os.getpid()), this_machine()
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
            machine=machine.id if machine else None,
        ).signed()

    def made_for(self, thing: str) -> "Owner":
        """The same run's tag for a snapshot of this name."""
        return self.model_copy(update={"thing": thing}).signed()

    def announced_in(self, network: str | None) -> "Owner":
        """The same run's tag, saying where the run announces itself while it is at work."""
        return self.model_copy(update={"network": network}).signed()

    def signed(self) -> "Owner":
        """The tag as this machine signs it; without a signature where the machine is not known."""
        machine = this_machine()
        return self.model_copy(update={"proof": self._signature(machine) if machine else None})

    def is_signed_by(self, machine: Machine) -> bool:
        """Tell whether this machine made the tag in this boot, and nobody changed it since."""
        return self.proof is not None and hmac.compare_digest(self.proof.encode(), self._signature(machine).encode())

    def _signature(self, machine: Machine) -> str:
        said = json.dumps(self.model_dump(mode="json", exclude={"proof"}), sort_keys=True)
        return hmac.new(machine.key, said.encode(), hashlib.sha256).hexdigest()[:32]

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
