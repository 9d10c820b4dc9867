"""Which of the waiting VMs may begin now: a pure decision over the places that they would burden.

Hosts and datastores are what exports compete for: an ESXi host serves a lease from little memory (VDDK's guide: at most
50 disks at once), a datastore from one set of spindles. Knows places by their ids, and neither servers nor time.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

from hyperexport.options.groups import Fleet


class Placed(Protocol):
    """Something that burdens a host and some datastores while it is at work."""

    @property
    def host(self) -> str | None:
        """The host's id, if it is on one."""
        ...

    @property
    def datastores(self) -> tuple[str, ...]:
        """The datastores' ids."""
        ...


P = TypeVar("P", bound=Placed)


class Queue(Generic[P]):
    """The VMs that wait, in order, and the room that those at work leave. Not safe to share between threads.

    Args:
        waiting: In the order in which they begin, as far as there is room.
        limits: How many may be at work: in all, on a host, on a datastore.
    """

    def __init__(self, waiting: Iterable[P], limits: Fleet) -> None:
        self.waiting = list(waiting)
        self._limits = limits
        self._at_work = 0
        self._hosts: Counter[str] = Counter()
        self._datastores: Counter[str] = Counter()

    def begin(self) -> P | None:
        """Take the first that has room on its host and all its datastores; one that has none lets others pass.

        Returns:
            It, or None where nobody may begin before another is done.
        """
        if self._at_work >= self._limits.max_vms:
            return None
        for position, one in enumerate(self.waiting):
            if self._room_for(one):
                self._count(one, 1)
                return self.waiting.pop(position)
        return None

    def done(self, one: P) -> None:
        """Give back the room of one that began."""
        self._count(one, -1)

    def _room_for(self, one: P) -> bool:
        host_has_room = one.host is None or self._hosts[one.host] < self._limits.max_per_host
        return host_has_room and all(
            self._datastores[datastore] < self._limits.max_per_datastore for datastore in one.datastores
        )

    def _count(self, one: P, change: int) -> None:
        self._at_work += change
        if one.host is not None:
            self._hosts[one.host] += change
        for datastore in one.datastores:
            self._datastores[datastore] += change
