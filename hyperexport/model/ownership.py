"""The owner tag that a run leaves in everything that it may leave behind.

A snapshot, a staged export and an unfinished upload each say, *in themselves*, which tool, run, server and VM they
belong to, so that no second record can disagree. Only what has this tag is ever removed.

Others can write such tags, too: everybody who may take snapshots writes their descriptions. So a tag is signed twice.
With a key that only its machine knows and only in this boot (``base/machine.py``): what it says of a process is
believed only where this signature fits. And, where there is an orchestrator, with the run's own key, whose public half
the run leaves in the orchestrator's record of it: what the record says of the run is believed of a thing only where
that signature fits. A snapshot's tag also names the snapshot, so that a copy on another is none.
"""

import hashlib
import hmac
import json
import os
import re
import socket
from datetime import UTC, datetime
from itertools import islice
from typing import Final, Literal, NamedTuple, Protocol

from pydantic import AwareDatetime, Field

from hyperexport.base.machine import Machine, identity_of, this_machine
from hyperexport.model.vm import Value

_TAG: Final = "[hyperexport "
_LONGEST_MARK: Final = 8192
_MOST_ENDS: Final = 50
"""Characters. Any user who may create snapshots writes descriptions; no tag of ours is longer."""


class Run(NamedTuple):
    """A run, as people find it again."""

    name: str
    url: str | None = None


class RunKey(Protocol):
    """What a run signs its tags with, so that Prefect's record of the run proves them."""

    @property
    def public(self) -> str:
        """The half that its record holds."""
        ...

    def sign(self, text: bytes) -> str:
        """Sign a text."""
        ...


run_keys: Final[dict[str, RunKey]] = {}
"""The keys of this process's runs, by their ids."""


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
    key: str | None = Field(default=None, description="The public half of the run's key; Prefect's record holds it.")
    voucher: str | None = Field(default=None, description="The signature with the run's key.")
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
        """The tag as its run and this machine sign it; without a signature where there is no key for it."""
        run_key, machine = run_keys.get(self.run), this_machine()
        tag = self.model_copy(update={"key": run_key.public if run_key else None, "voucher": None})
        if run_key:
            tag = tag.model_copy(update={"voucher": run_key.sign(tag.said_by_run())})
        return tag.model_copy(update={"proof": tag._signature(machine) if machine else None})

    def is_signed_by(self, machine: Machine) -> bool:
        """Whether this machine made the tag in this boot, and it is unchanged since."""
        return self.proof is not None and hmac.compare_digest(self.proof.encode(), self._signature(machine).encode())

    def said_by_run(self) -> bytes:
        """What the run's own key signs: everything but the signatures."""
        return self._said(without={"voucher", "proof"})

    def _said(self, *, without: set[str]) -> bytes:
        # A tag without a run's key is signed as earlier versions signed it.
        unset = {name for name in ("key", "voucher") if getattr(self, name) is None}
        return json.dumps(self.model_dump(mode="json", exclude=without | unset), sort_keys=True).encode()

    def _signature(self, machine: Machine) -> str:
        return hmac.new(machine.key, self._said(without={"proof"}), hashlib.sha256).hexdigest()[:32]

    def may_share_vm(self, other: "Owner") -> bool:
        """Whether both may be at work on one VM; False only on proof: another VM, or a server with another uuid."""
        if not self.vm or not other.vm:
            return True
        if self.vm.lower() != other.vm.lower():
            return False
        return not self.vcenter_uuid or not other.vcenter_uuid or self.vcenter_uuid == other.vcenter_uuid

    def to_description(self) -> str:
        """Words for a person, with the mark at their end, for a snapshot's description."""
        purpose = "kept on purpose" if self.keep else "removed by it"
        return f"Made by hyperexport for an export; {purpose}. {self.to_tag()}"

    def to_tag(self) -> str:
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
