"""Who is chosen: a selection, found on the server with one paged collection however many VMs there are."""

import logging
from collections.abc import Mapping
from typing import NamedTuple

from hyperexport.errors import VmAmbiguous, VmNotFound
from hyperexport.options.selection import Selection
from hyperexport.steps.step import step
from hyperexport.vsphere.inventory import Inventory, VmRow, read_inventory
from hyperexport.vsphere.session import Session
from hyperexport.vsphere.tags import tagged_vms

logger = logging.getLogger(__name__)

_SHOWN = 20


class Chosen(NamedTuple):
    """Who is chosen, and who is not there though named."""

    rows: tuple[VmRow, ...]
    missing: Mapping[str, VmNotFound | VmAmbiguous] = {}

    def __str__(self) -> str:
        shown = ", ".join(row.ref.path for row in self.rows[:_SHOWN])
        more = f" and {len(self.rows) - _SHOWN} more" if len(self.rows) > _SHOWN else ""
        return f"{len(self.rows)} {'VM is' if len(self.rows) == 1 else 'VMs are'} chosen: {shown}{more}"

    def all_there(self) -> tuple[VmRow, ...]:
        """The chosen VMs, if none is missing.

        Raises:
            VmNotFound, VmAmbiguous: One is missing.
        """
        for error in self.missing.values():
            raise error
        return self.rows


@step("choose-vms", run_name="choose VMs", retried=True)
def choose_vms(session: Session, selection: Selection) -> Chosen:
    """Find the VMs that are meant, each once, in the order of their paths.

    A name that fits nothing, or several, is a matter of that one VM: of a list of fifty, forty-nine are found.

    Those named are chosen in any case. Folders, tags and patterns narrow each other; several of one kind widen it:
    ``--folder /DC0/vm/prod --match 'db*' --match 'web*'`` means those in the folder that match either pattern.

    Raises:
        VmNotFound, VmAmbiguous: A folder does not exist, or no VM is chosen.
        TagNotFound, TaggingUnavailable: There is no such tag, or the server has no tags.
    """
    inventory = read_inventory(session)
    chosen: set[str] = set()
    missing: dict[str, VmNotFound | VmAmbiguous] = {}
    for name in selection.vm:
        try:
            chosen.add(inventory.named(name).ref.moref)
        except (VmNotFound, VmAmbiguous) as error:
            missing[name] = error
    if selection.filters:
        chosen |= _filtered(session, inventory, selection)
    found = Chosen(tuple(row for row in inventory.rows if row.ref.moref in chosen), missing)
    if not found.rows and not selection.filters:
        found.all_there()
    if not found.rows:
        raise VmNotFound(
            f"no VM on {session.address} is chosen by {selection}, or {session.user} may not see it",
            fix="hyperexport --match '*' --vm-info lists the VMs",
        )
    return found


def _filtered(session: Session, inventory: Inventory, selection: Selection) -> set[str]:
    """The VMs that every kind of filter lets through, by managed object id."""
    left = {row.ref.moref for row in inventory.rows}
    if selection.folder:
        left &= frozenset[str]().union(*(inventory.inside(folder) for folder in selection.folder))
    if selection.match:
        left &= frozenset[str]().union(*(_matching(inventory, glob) for glob in selection.match))
    if selection.tag:
        left &= tagged_vms(session, selection.tag)
    return left


def _matching(inventory: Inventory, glob: str) -> frozenset[str]:
    found = inventory.matching(glob)
    if not found:
        logger.warning("no VM matches %r", glob)
    return found
