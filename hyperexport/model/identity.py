"""Which VM something belongs to: the server and the whole instance UUID. A name is for people and decides nothing.

Shared by manifests, owner tags and plans. It must never look at a folder's name.
"""

import hashlib
import re
from collections.abc import Iterable
from typing import Final

from pydantic import Field

from hyperexport.model.vm import Value, VmRef

_EMPTY_UUID: Final = re.compile(r"[0{}\-\s]*")


def vm_token(ref: VmRef) -> str:
    """Return what identifies a VM on its server: its instance UUID, or its moref where it has none."""
    uuid = ref.instance_uuid.strip().lower()
    return ref.moref if _EMPTY_UUID.fullmatch(uuid) else uuid


class VmIdentity(Value):
    """A VM on its server."""

    server: str | None = Field(description="vCenter's own instance UUID; None on a server that has none, as ESXi.")
    address: str = Field(description="The server's address.")
    vm: str = Field(description="The VM's whole instance UUID; its moref where it has none.")
    moref: str

    @classmethod
    def of(cls, ref: VmRef, *, vcenter: str, vcenter_uuid: str | None) -> "VmIdentity":
        """Identify a VM of a server."""
        server = (vcenter_uuid or "").strip().lower()
        return cls(
            server=None if _EMPTY_UUID.fullmatch(server) else server,
            address=vcenter.strip().lower(),
            vm=vm_token(ref),
            moref=ref.moref,
        )

    def matches(self, other: "VmIdentity") -> bool:
        """Tell whether both are provably the same VM.

        Only vCenter keeps instance UUIDs apart: on an ESXi host two VMs that were copied as files can have one UUID, so
        there the moref must be equal too.
        """
        if self.server and other.server:
            return (self.server, self.vm) == (other.server, other.vm)
        return (self.address, self.vm, self.moref) == (other.address, other.vm, other.moref)

    @property
    def digest(self) -> str:
        """Eight hex digits that differ between VMs whose names and first UUID digits are equal."""
        parts = (self.server, self.vm) if self.server else (self.address, self.vm, self.moref)
        return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:8]


def resolved(identities: Iterable[VmIdentity]) -> dict[VmIdentity, VmIdentity]:
    """Map each identity to the one that stands for its VM.

    An identity without the server's UUID joins the one VM with that UUID that it matches. If it matches several (a
    vCenter that was installed again at the same address), there is no proof, and it stays a VM of its own.
    """
    every = list(dict.fromkeys(identities))
    known: dict[tuple[str | None, str], VmIdentity] = {}
    found: dict[VmIdentity, VmIdentity] = {}
    nameless: dict[tuple[str, str, str], VmIdentity] = {}
    at_address: dict[tuple[str, str, str], set[VmIdentity]] = {}
    for one in every:
        if one.server:
            found[one] = known.setdefault((one.server, one.vm), one)
            at_address.setdefault((one.address, one.vm, one.moref), set()).add(found[one])
    for one in every:
        if not one.server:
            place = (one.address, one.vm, one.moref)
            matching = at_address.get(place, set())
            found[one] = next(iter(matching)) if len(matching) == 1 else nameless.setdefault(place, one)
    return found
