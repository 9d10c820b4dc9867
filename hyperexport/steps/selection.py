"""Who is chosen: a selection, found on the server with one paged collection however many VMs there are."""

import logging

from hyperexport.errors import VmNotFound
from hyperexport.selection import Selection
from hyperexport.vsphere.inventory import Inventory, VmRow, read_inventory
from hyperexport.vsphere.session import Session
from hyperexport.vsphere.tags import tagged_vms

logger = logging.getLogger(__name__)

_SHOWN = 20


def choose_vms(session: Session, selection: Selection) -> tuple[VmRow, ...]:
    """Find the VMs that are meant, each once, in the order of their paths, and say in the log who they are.

    Those named are chosen in any case. Folders, tags and patterns narrow each other; several of one kind widen it:
    ``--folder /DC0/vm/prod --match 'db*' --match 'web*'`` means those in the folder that match either pattern.

    Raises:
        VmNotFound, VmAmbiguous: A name or a folder fits nothing, or several; or nobody is chosen at all.
        TagNotFound, TaggingUnavailable: There is no such tag, or the server knows no tags.
    """
    inventory = read_inventory(session)
    chosen = {inventory.named(name).ref.moref for name in selection.vm}
    if selection.filters:
        chosen |= _filtered(session, inventory, selection)
    rows = tuple(row for row in inventory.rows if row.ref.moref in chosen)
    if not rows:
        raise VmNotFound(
            f"no VM on {session.address} is chosen by {selection}, or {session.user} may not see it",
            fix="See with --match '*' --vm-info which VMs there are",
        )
    logger.info("%s", chosen_words(rows))
    return rows


def chosen_words(rows: tuple[VmRow, ...]) -> str:
    """Who is chosen, in one line; of many, the first."""
    shown = ", ".join(row.ref.path for row in rows[:_SHOWN])
    more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    return f"{len(rows)} {'VM is' if len(rows) == 1 else 'VMs are'} chosen: {shown}{more}"


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
