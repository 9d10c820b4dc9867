"""Reading properties: the property collector with its filters, paging and waiting, and the views that feed it.

It reads any managed object by the attributes of its class, guided by pyVmomi's definitions of types. It knows nothing
of what the objects are. vSphere API: PropertyCollector, in particular the rules for ``skip``, selection specs that
refer to each other by name, and versions of update sets.
"""

# ruff: noqa: D102 - what has a name of the vSphere API is documented there

import itertools
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pyVmomi import VmomiSupport, vmodl

from hyperexport.simulator import soap
from hyperexport.simulator.faults import FaultKind
from hyperexport.simulator.sessions import disown, may, no_permission, own_by_session
from hyperexport.simulator.world import Managed, World

PC = vmodl.query.PropertyCollector

PAGE_LIMIT = 1000
"""Objects in one answer at most, whatever the client asks; servers may send less than they are asked for."""

_INDEXED = re.compile(r'(\w+)\["?([^"\]]+)"?\]')


def read(obj: Managed, path: str, known: dict[str, Any] | None = None) -> Any:
    """Read a property by its path, such as ``config.hardware.device``; None where it is unset.

    Args:
        obj: The object to read.
        path: The property's path.
        known: Whole properties of this object that were read a moment ago; what is read is noted in it.

    Raises:
        vmodl.query.InvalidProperty: The type has no such property.
    """
    first, *rest = path.split(".")
    info = _property_of(obj.kind, first, path)
    known = {} if known is None else known
    if info.name not in known:
        known[info.name] = soap.typed(info.type, getattr(obj, info.name, None))
    value = _index(known[info.name], first)
    for part in rest:
        if value is None:
            return None
        if not isinstance(value, VmomiSupport.DataObject):
            raise invalid_property(path)
        info = _property_of(type(value), part, path)
        value = _index(soap.typed(info.type, getattr(value, _INDEXED.sub(r"\1", part))), part)
    return value


def privilege_of(obj: Managed, path: str) -> str:
    """The privilege that reading a property needs: pyVmomi's definitions name it, and where not it is System.Read."""
    return _property_of(obj.kind, path.partition(".")[0], path).privId or "System.Read"


def _property_of(kind: Any, part: str, path: str) -> Any:
    try:
        return kind._GetPropertyInfo(_INDEXED.sub(r"\1", part))
    except AttributeError:
        raise invalid_property(path) from None


def _index(value: Any, part: str) -> Any:
    match = _INDEXED.fullmatch(part)
    if not match or value is None:
        return value
    return next((each for each in value if str(getattr(each, "key", "")) == match[2]), None)


def invalid_property(path: str) -> Any:
    """The fault for a property path that does not exist."""
    return vmodl.query.InvalidProperty(msg=f"Property {path} is invalid.", name=path)


def paths_of(obj: Managed, specs: Any) -> list[str]:
    """The property paths that the property specs of a filter ask of an object."""
    paths: dict[str, None] = {}
    for spec in specs:
        if issubclass(obj.kind, spec.type):
            paths.update(dict.fromkeys([p.name for p in obj.kind._GetPropertyList()] if spec.all else spec.pathSet))
    return list(paths)


class Selection:
    """The objects that a filter spec selects, in the order in which they are met."""

    def __init__(self, world: World, spec: Any) -> None:
        self._world = world
        self._named = {each.name: each for start in spec.objectSet for each in _traversals(start.selectSet)}
        self._seen: set[tuple[str, int]] = set()
        self._selected: dict[str, Managed] = {}
        for start in spec.objectSet:
            obj = world.get(start.obj)
            if not start.skip:
                self._selected[obj.moid] = obj
            self._follow(obj, start.selectSet)

    def __iter__(self) -> Iterator[Managed]:
        return iter(self._selected.values())

    def _follow(self, obj: Managed, selections: Any) -> None:
        for selection in selections:
            traversal = self._resolve(selection)
            if (obj.moid, id(traversal)) in self._seen or not issubclass(obj.kind, traversal.type):
                continue
            self._seen.add((obj.moid, id(traversal)))
            for ref in soap.references(read(obj, traversal.path)):
                child = self._world.find(ref._moId)
                if child is None:
                    continue
                if not traversal.skip:
                    self._selected[child.moid] = child
                self._follow(child, traversal.selectSet)

    def _resolve(self, selection: Any) -> Any:
        if isinstance(selection, PC.TraversalSpec):
            return selection
        if selection.name not in self._named:
            raise vmodl.fault.InvalidArgument(
                msg=f"There is no traversal named {selection.name}.", invalidProperty="selectSet"
            )
        return self._named[selection.name]


def _traversals(selections: Any) -> Iterator[Any]:
    for selection in selections:
        if isinstance(selection, PC.TraversalSpec):
            yield selection
            yield from _traversals(selection.selectSet)


def content(obj: Managed, specs: Any) -> Any | None:
    """Read what the specs ask of an object; None where they ask nothing of its type."""
    if not any(issubclass(obj.kind, spec.type) for spec in specs):
        return None
    found: list[Any] = []
    missing: list[Any] = []
    known: dict[str, Any] = {}
    for path in paths_of(obj, specs):
        fault = obj.world.faults.take(FaultKind.METHOD_FAULT, vm=obj.vm_name, method=path)
        if fault:
            # vSphere API: ObjectContent.missingSet tells, per object, what could not be read and why.
            why = soap.make_fault(fault.fault or "", object=obj.ref, privilegeId=fault.privilege or "System.Read")
            missing.append(PC.MissingProperty(path=path, fault=why))
            continue
        value = read(obj, path, known)
        needed = privilege_of(obj, path)
        if not may(needed, obj):
            missing.append(PC.MissingProperty(path=path, fault=no_permission(needed, obj)))
            continue
        if value is not None:
            found.append(vmodl.DynamicProperty(name=path, val=value))
    return PC.ObjectContent(obj=obj.ref, propSet=found, missingSet=missing)


def retrieve(world: World, specs: Any) -> list[Any]:
    """The contents of all objects that the filter specs select."""
    result: list[Any] = []
    for spec in specs:
        contents = (content(obj, spec.propSet) for obj in Selection(world, spec))
        result.extend(each for each in contents if each is not None)
    return result


@dataclass
class _State:
    """What a filter last reported of one object: per path the value's fingerprint."""

    ref: Any
    values: dict[str, str] = field(default_factory=dict)


class Filter(Managed):
    """PropertyCollector.Filter: a standing question, and what its client already knows of the answer."""

    kind = PC.Filter

    def __init__(self, world: World, collector: "PropertyCollector", spec: Any, partial_updates: bool) -> None:
        super().__init__(world, f"session[{collector.moid}]{world.new_id('filter')}")
        self.spec = spec
        self.partialUpdates = partial_updates
        self._collector = collector
        self._known: dict[str, _State] = {}

    def forget(self) -> None:
        """Tell everything anew in the next update."""
        self._known.clear()

    def updates(self, budget: int) -> Any | None:
        """What has changed since the last update, of ``budget`` objects at most; None where nothing has."""
        changes: list[Any] = []
        present: set[str] = set()
        for obj in Selection(self.world, self.spec):
            if len(changes) >= budget:
                return PC.FilterUpdate(filter=self.ref, objectSet=changes)
            now = content(obj, self.spec.propSet)
            if now is None:
                continue
            present.add(obj.moid)
            change = self._compare(obj, now)
            if change is not None:
                changes.append(change)
        for moid in [moid for moid in self._known if moid not in present]:
            state = self._known.pop(moid)
            changes.append(PC.ObjectUpdate(kind=PC.ObjectUpdate.Kind.leave, obj=state.ref))
        return PC.FilterUpdate(filter=self.ref, objectSet=changes) if changes else None

    def _compare(self, obj: Managed, now: Any) -> Any | None:
        values = {prop.name: soap.fingerprint(prop.val) for prop in now.propSet}
        before = self._known.get(obj.moid)
        self._known[obj.moid] = _State(obj.ref, values)
        old = before.values if before else {}
        change_set = [
            PC.Change(name=prop.name, op=PC.Change.Op.assign, val=prop.val)
            for prop in now.propSet
            if old.get(prop.name) != values[prop.name]
        ]
        change_set += [PC.Change(name=name, op=PC.Change.Op.assign) for name in old if name not in values]
        if before and not change_set:
            return None
        kind = PC.ObjectUpdate.Kind.modify if before else PC.ObjectUpdate.Kind.enter
        return PC.ObjectUpdate(kind=kind, obj=obj.ref, changeSet=change_set, missingSet=now.missingSet)

    def DestroyPropertyFilter(self) -> None:
        self._collector.filters.pop(self.moid, None)
        self.world.remove(self)


class PropertyCollector(Managed):
    """PropertyCollector: every session has the default one, and may create its own.

    The filters of the default collector belong to the session that made them, so this object only answers questions
    that leave nothing behind; the server hands each session a collector of its own under the default's id.
    """

    kind = PC

    def __init__(self, world: World, moid: str) -> None:
        super().__init__(world, moid)
        self.filters: dict[str, Filter] = {}
        self._version = 0
        self._cancelled = 0
        self._tokens: dict[str, list[Any]] = {}
        self._token_numbers = itertools.count(1)

    @property
    def filter(self) -> list[Any]:
        return [each.ref for each in self.filters.values()]

    def RetrieveProperties(self, specSet: Any) -> list[Any]:
        return retrieve(self.world, specSet)

    def RetrievePropertiesEx(self, specSet: Any, options: Any) -> Any | None:
        contents = retrieve(self.world, specSet)
        limit = options.maxObjects
        if limit is not None and limit <= 0:
            raise vmodl.fault.InvalidArgument(msg="maxObjects is positive.", invalidProperty="options.maxObjects")
        return self._page(contents, min(limit or PAGE_LIMIT, PAGE_LIMIT)) if contents else None

    def ContinueRetrievePropertiesEx(self, token: str) -> Any:
        limit, rest = self._take(token)
        return self._page(rest, limit)

    def CancelRetrievePropertiesEx(self, token: str) -> None:
        self._take(token)

    def _page(self, contents: list[Any], limit: int) -> Any:
        result = PC.RetrieveResult(objects=contents[:limit])
        if rest := contents[limit:]:
            result.token = str(next(self._token_numbers))
            self._tokens[result.token] = [limit, rest]
        return result

    def _take(self, token: str) -> tuple[int, list[Any]]:
        if token not in self._tokens:
            raise vmodl.fault.InvalidArgument(msg="The token is not valid (any more).", invalidProperty="token")
        limit, rest = self._tokens.pop(token)
        return limit, rest

    def CreateFilter(self, spec: Any, partialUpdates: bool) -> Any:
        Selection(self.world, spec)
        created = Filter(self.world, self, spec, partialUpdates)
        self.filters[created.moid] = created
        self.world.add(created)
        return created.ref

    def CreatePropertyCollector(self) -> Any:
        created = PropertyCollector(self.world, f"session{self.world.new_id('collector')}")
        self.world.add(created)
        own_by_session(created, created.DestroyPropertyCollector)
        return created.ref

    def close(self) -> None:
        """Let go of its filters, and of who waits for them."""
        for each in list(self.filters.values()):
            each.DestroyPropertyFilter()
        self._cancelled += 1

    def DestroyPropertyCollector(self) -> None:
        self.close()
        disown(self)
        self.world.remove(self)

    def CheckForUpdates(self, version: str | None) -> Any | None:
        self._at(version)
        return self._changes(PAGE_LIMIT)

    def WaitForUpdates(self, version: str | None) -> Any | None:
        return self.WaitForUpdatesEx(version, None)

    def WaitForUpdatesEx(self, version: str | None, options: Any | None) -> Any | None:
        self._at(version)
        seconds = options.maxWaitSeconds if options else None
        limit = options.maxObjectUpdates if options else None
        deadline = time.monotonic() + seconds if seconds is not None else None
        cancelled = self._cancelled
        while True:
            if (changes := self._changes(limit or PAGE_LIMIT)) is not None:
                return changes
            seen = self.world.generation
            left = 3600.0 if deadline is None else deadline - time.monotonic()
            if left <= 0 or self.world.stopping:
                return None
            self.world.sleep(left, lambda: self.world.generation != seen or self._cancelled != cancelled)  # noqa: B023
            if self._cancelled != cancelled:
                raise vmodl.fault.RequestCanceled(msg="The request was canceled by a user.")

    def CancelWaitForUpdates(self) -> None:
        self._cancelled += 1
        self.world.touch()

    def _at(self, version: str | None) -> None:
        """Go on from the version that the client names; the empty one begins anew."""
        if not version:
            for each in self.filters.values():
                each.forget()
        elif version != str(self._version):
            raise vmodl.query.InvalidCollectorVersion(msg=f"The version {version} is not known.")

    def _changes(self, budget: int) -> Any | None:
        updates: list[Any] = []
        for each in self.filters.values():
            update = each.updates(budget) if budget > 0 else None
            if update is not None:
                updates.append(update)
                budget -= len(update.objectSet)
        if not updates:
            return None
        self._version += 1
        # vSphere API: truncated says that more is to come at once with the next call.
        return PC.UpdateSet(version=str(self._version), filterSet=updates, truncated=budget <= 0)
