"""Which VMs of a vCenter have exports, and how old the newest good one of each is: its inventory beside the stores.

A VM and its exports are brought together by the server and the instance UUID, never by a name.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from pydantic import Field

from hyperexport.base.display import Page, Pairs, lines, table
from hyperexport.base.units import format_age
from hyperexport.model.history import identity_of, made_at_the_earliest
from hyperexport.model.identity import VmIdentity, resolved
from hyperexport.model.vm import Value, VmRef
from hyperexport.views.survey import StoreSurvey, VmSurvey


class ListedVm(NamedTuple):
    """A VM of the inventory."""

    ref: VmRef
    identity_unknown: bool = False
    """Whether its instance UUID could not be read: then no export can be said to be of it."""


class VmCoverage(Value):
    """What all stores together hold of one VM of the inventory."""

    ref: VmRef
    exports: int = Field(default=0, description="How many, good or not; a copy in a second store counts again.")
    last_good: datetime | None = Field(default=None, description="When the newest good export of any store began.")
    store: str | None = Field(default=None, description="The store that has it.")
    unknown: str | None = Field(default=None, description="Why nothing can be said of it.")

    @property
    def never_exported(self) -> bool:
        """Whether it is certain that no store has an export of it."""
        return self.unknown is None and not self.exports

    def age(self, now: datetime) -> timedelta | None:
        """How old the newest good export is."""
        return now - self.last_good if self.last_good else None

    def is_covered(self, now: datetime, rpo: timedelta) -> bool:
        """Whether it has a good export that is young enough."""
        age = self.age(now)
        return age is not None and age <= rpo

    def state(self, now: datetime, rpo: timedelta) -> str:
        """How well it is protected, in words."""
        if self.last_good:
            return "protected" if self.is_covered(now, rpo) else "late"
        return "never exported" if self.never_exported else self.unknown or "no good export"


class Coverage(Value):
    """The VMs of one server, in the order of their paths, each with its newest good export."""

    server: str
    taken: datetime
    vms: tuple[VmCoverage, ...] = ()
    templates: int = Field(default=0, description="Templates without an export, which are not listed.")

    @property
    def without(self) -> tuple[VmCoverage, ...]:
        """Those of which there is no good export, or of which it is not known."""
        return tuple(vm for vm in self.vms if vm.last_good is None)

    def title(self, rpo: timedelta) -> str:
        """The finding in one sentence."""
        covered = sum(vm.is_covered(self.taken, rpo) for vm in self.vms)
        never = sum(vm.never_exported for vm in self.vms)
        return (
            f"{self.server}: {covered} of {len(self.vms)} VMs have a good export of the last {format_age(rpo)}, "
            f"{never} {'was' if never == 1 else 'were'} never exported"
        )

    def ordered(self) -> list[VmCoverage]:
        """The worst first: never exported, no good export, then the oldest."""

        def key(vm: VmCoverage) -> tuple[bool, datetime, str]:
            return vm.last_good is not None, vm.last_good or self.taken, vm.ref.path

        return sorted(self.vms, key=key)

    def facts(self, rpo: timedelta) -> list[dict[str, object]]:
        """The VMs for a program: plain values under names that stay."""
        return [
            {
                "name": vm.ref.name,
                "path": vm.ref.path,
                "instance_uuid": vm.ref.instance_uuid,
                "state": vm.state(self.taken, rpo),
                "exports": vm.exports,
                "last_success": vm.last_good.isoformat() if vm.last_good else None,
                "age_seconds": round(age.total_seconds()) if (age := vm.age(self.taken)) is not None else None,
                "store": vm.store,
            }
            for vm in self.vms
        ]

    def rows(self, rpo: timedelta) -> list[dict[str, object]]:
        """The VMs as rows of a table, the worst first."""
        return [
            {
                "VM": vm.ref.path,
                "State": vm.state(self.taken, rpo),
                "Newest good export": f"{vm.last_good:%Y-%m-%d %H:%M} UTC" if vm.last_good else "-",
                "Age": format_age(age) if (age := vm.age(self.taken)) is not None else "-",
                "Exports": str(vm.exports),
            }
            for vm in self.ordered()
        ]


def coverage(
    listed: Sequence[ListedVm],
    surveys: Sequence[StoreSurvey],
    *,
    server: str,
    server_uuid: str | None,
    taken: datetime,
    templates: frozenset[str] = frozenset(),
) -> Coverage:
    """Bring an inventory and the stores together.

    Args:
        listed: The VMs.
        surveys: What each store holds. Of a VM without a good export nothing is said where one could not be read.
        server: The server's address.
        server_uuid: vCenter's own UUID; None on an ESXi host.
        taken: Now.
        templates: The managed object ids of those that are templates.
    """
    identities = [VmIdentity.of(vm.ref, vcenter=server, vcenter_uuid=server_uuid) for vm in listed]
    stored = [(identity_of(vm.exports[0]), found.store, vm) for found in surveys for vm in found.vms if vm.exports]
    heads = resolved([*identities, *(identity for identity, _, _ in stored)])
    by_head: dict[VmIdentity, list[tuple[str, VmSurvey]]] = {}
    for identity, store, vm in stored:
        by_head.setdefault(heads[identity], []).append((store, vm))
    unread = next((found.store for found in surveys if found.problem), None)
    vms: list[VmCoverage] = []
    hidden = 0
    for vm, identity in zip(listed, identities, strict=True):
        found = [] if vm.identity_unknown else by_head.get(heads[identity], [])
        if not found and vm.ref.moref in templates:
            hidden += 1
            continue
        vms.append(_covered(vm, found, unread))
    return Coverage(server=server, taken=taken, vms=tuple(vms), templates=hidden)


def _covered(vm: ListedVm, found: Sequence[tuple[str, VmSurvey]], unread: str | None) -> VmCoverage:
    good = [(made_at_the_earliest(one.last_good), store) for store, one in found if one.last_good]
    last, store = max(good, default=(None, None))
    unknown = f"unknown: {unread} could not be read" if unread else None
    if vm.identity_unknown:
        unknown = "unknown: its instance UUID could not be read"
    exports = sum(len(one.exports) for _, one in found)
    return VmCoverage(ref=vm.ref, exports=exports, last_good=last, store=store, unknown=unknown)


def coverage_page(covered: Coverage, rpo: timedelta) -> Page:
    """The VMs of vCenter, those without an export first."""
    hidden = [f"Templates without an export, not listed: {covered.templates}."] if covered.templates else []
    return Page(covered.title(rpo), (*table("", covered.rows(rpo)), *lines("", hidden)))


def coverage_blocks(covered: Coverage, rpo: timedelta) -> tuple[Pairs, ...]:
    """The same as key=value pairs: the server's, then a block for each VM."""
    server: Pairs = (
        ("vcenter", covered.server),
        ("inventory_vms", len(covered.vms)),
        ("without_good_export", len(covered.without)),
    )
    vms = (tuple((key, "" if value is None else value) for key, value in vm.items()) for vm in covered.facts(rpo))
    return (server, *vms)
