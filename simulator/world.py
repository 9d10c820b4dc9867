"""The simulated world: all managed objects by their ids, one lock, and the news that something changed.

Managed objects are Python objects whose attributes have the names of the vSphere properties and whose methods have
the WSDL names of the vSphere methods; what a class does not have, the simulator does not do. Nothing here knows how
objects are asked for or answered on the wire.
"""

import itertools
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, ClassVar

from pyVmomi import vmodl

from hyperexport.simulator.faults import Faults


def now() -> datetime:
    """The time, as properties carry it."""
    return datetime.now(UTC)


class World:
    """Everything that exists on one simulated vCenter.

    A reader or writer holds ``lock``; a waiter waits on ``changed``, which lets the lock
    go meanwhile.
    """

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.generation = 0
        self.stopping = False
        self.downloads_held = False
        """Whether the hosts keep back what they were asked for."""
        self.fields: Any = None
        """The custom attributes of the inventory's objects; they come with the vCenter."""
        self._objects: dict[str, Managed] = {}
        self._numbers = itertools.count(10)

    def new_id(self, prefix: str) -> str:
        """Make a managed object id that was never used, such as ``vm-42``."""
        return f"{prefix}-{next(self._numbers)}"

    def add(self, obj: "Managed") -> None:
        """Let an object be found."""
        self._objects[obj.moid] = obj
        self.touch()

    def remove(self, obj: "Managed") -> None:
        """Let an object be gone; calls on it then get ManagedObjectNotFound."""
        self._objects.pop(obj.moid, None)
        self.touch()

    def find(self, moid: str) -> "Managed | None":
        """The object with this id."""
        return self._objects.get(moid)

    def get(self, ref: Any) -> Any:
        """The object that a reference names.

        Raises:
            vmodl.fault.ManagedObjectNotFound: There is none (any more), or it is of another type.
        """
        obj = self._objects.get(ref._moId)
        if obj is None or not issubclass(obj.kind, type(ref)):
            raise vmodl.fault.ManagedObjectNotFound(
                msg=f"The object '{type(ref).__name__}:{ref._moId}' has already been deleted or has not been"
                " completely created",
                obj=ref,
            )
        return obj

    def all(self, kind: type) -> list[Any]:
        """All objects of a Python class; also for threads that do not hold the lock, while others come and go."""
        return [obj for obj in list(self._objects.values()) if isinstance(obj, kind)]

    def touch(self) -> None:
        """Wake everything that waits for a change."""
        with self.lock:
            self.generation += 1
            self.changed.notify_all()

    def sleep(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Wait, letting the lock go meanwhile; sooner when ``until`` is true or the simulator stops."""
        deadline = time.monotonic() + seconds
        while not (self.stopping or until()) and (left := deadline - time.monotonic()) > 0:
            self.changed.wait(left)


class Managed:
    """A managed object on the server's side."""

    kind: ClassVar[Any]
    """pyVmomi's class for its type."""

    def __init__(self, world: World, moid: str) -> None:
        self.world = world
        self.moid = moid

    @property
    def vm_name(self) -> str | None:
        """The name of the VM that it is or belongs to; faults are aimed by it."""
        return None

    @property
    def place(self) -> "Managed | None":
        """What of the inventory it is or belongs to: there permissions on it are given; None for the services."""
        return None

    @property
    def authorities(self) -> "tuple[Managed, ...]":
        """Where it inherits permissions from."""
        return ()

    @property
    def ref(self) -> Any:
        """The reference that travels on the wire."""
        return self.kind(self.moid)


def refs(objects: Any) -> list[Any]:
    """The references of several objects."""
    return [obj.ref for obj in objects]
