"""Properties of many objects in few requests, and properties as they change.

vSphere's PropertyCollector, in the three forms that are needed: all objects of some kinds (paged), some paths of given
objects, and the values of one object whenever they change. Reading attributes of managed objects one by one costs a
request each and is done nowhere.
"""

import logging
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from pyVmomi import vim, vmodl

from hyperexport.base.stop import StopSignal
from hyperexport.errors import HyperExportError, ServerFault
from hyperexport.vsphere.faults import FAILURES, GONE, is_caused_by
from hyperexport.vsphere.session import Session

logger = logging.getLogger(__name__)


class Properties(dict[str, Any]):
    """What was read, by path. A property that is unset is not in it.

    One that could not be read (a missing privilege, a fault of the server) is not in it either, but it is not unset:
    ``[]`` and ``get`` raise the reason as an error; ``shown`` is for what decides nothing.
    """

    def __init__(self, session: Session, doing: str, values: Mapping[str, Any] | None = None) -> None:
        super().__init__(values or {})
        self._session = session
        self._doing = doing
        self._unread: dict[str, Exception] = {}

    @property
    def unread(self) -> dict[str, Exception]:
        """The API's fault for each property that could not be read, by path."""
        return dict(self._unread)

    def note_missing(self, missing: Iterable[Any]) -> None:
        """Note what the server says that it could not read (vSphere API: ObjectContent.missingSet)."""
        for entry in missing or ():
            # A server of a version that does not know the property has it unset.
            if not isinstance(entry.fault, vmodl.query.InvalidProperty):
                self._unread[entry.path] = entry.fault

    def update_with(self, change: Any) -> None:
        """Take an object's update: what changed, and what can no longer be read."""
        for entry in change.changeSet:
            self._unread.pop(entry.name, None)
            self[entry.name] = entry.val
        self.note_missing(change.missingSet)

    def copy(self) -> "Properties":
        """The same at this moment."""
        twin = Properties(self._session, self._doing, self)
        twin._unread = dict(self._unread)
        return twin

    def __missing__(self, path: str) -> Any:
        self._refuse(path)
        raise KeyError(path)

    def get(self, path: str, default: Any = None, /) -> Any:
        """The property, or the default where it is unset.

        Raises:
            HyperExportError: It could not be read.
        """
        self._refuse(path)
        return super().get(path, default)

    def shown(self, path: str, default: Any = None) -> Any:
        """The property, or the default where it is unset or could not be read: for what decides nothing."""
        return super().get(path, default)

    def _refuse(self, path: str) -> None:
        if fault := self._unread.get(path):
            raise self._session.error(fault, doing=f"{self._doing}: reading {path}") from fault


PAGE: Final = 1000
_TICK: Final = 1  # seconds that one WaitForUpdatesEx lasts at most: how soon a stop is obeyed
_REBUILDS: Final = 6
MOST_PAGES: Final = 10_000
"""Of one answer. vCenter's own limit is 40,000 powered-on VMs, some dozen pages ("Configuration Maximums")."""
_COLLECTOR_LOST: Final[tuple[type[Exception], ...]] = (
    *GONE,
    vmodl.query.InvalidCollectorVersion,
    vmodl.fault.RequestCanceled,  # the session ended while the server held the request
)

_query = vmodl.query.PropertyCollector


def retrieve(session: Session, wanted: Mapping[Any, Sequence[str]], *, doing: str) -> Iterator[tuple[Any, Properties]]:
    """Read some properties of every object of some kinds, a thousand objects a request.

    Args:
        session: The login.
        wanted: Property paths by managed object type.
        doing: For error messages.
    """
    with every_object(session, wanted, doing=doing) as spec:
        yield from _collect(session, spec, doing=doing)


def referred(
    session: Session, obj: Any, path: str, paths: Sequence[str], *, kind: Any, doing: str
) -> Iterator[tuple[Any, Properties]]:
    """Read properties of the objects that a property of another one refers to, in one request.

    Args:
        session: The login.
        obj: The object that refers to them; it has to be there.
        path: Its property, such as ``datastore``. One that may not be read refers to nothing.
        paths: What is read of them.
        kind: Their type.
        doing: For error messages.
    """
    through = _query.TraversalSpec(name="referred", path=path, skip=False, type=type(obj))
    start = _query.ObjectSpec(obj=obj, skip=True, selectSet=[through])
    wanted = _query.PropertySpec(type=kind, pathSet=list(paths), all=False)
    yield from _collect(session, _query.FilterSpec(objectSet=[start], propSet=[wanted]), doing=doing)


def referred_with_ancestors(
    session: Session, obj: Any, path: str, paths: Sequence[str], *, doing: str
) -> Iterator[tuple[Any, Properties]]:
    """The same of the objects that a property refers to and of all that these are in, up to the root folder."""
    through = _query.TraversalSpec(name="referred", path=path, skip=False, type=type(obj), selectSet=[_upwards()])
    start = _query.ObjectSpec(obj=obj, skip=True, selectSet=[through])
    wanted = _query.PropertySpec(type=vim.ManagedEntity, pathSet=list(paths), all=False)
    yield from _collect(session, _query.FilterSpec(objectSet=[start], propSet=[wanted]), doing=doing)


def with_ancestors(
    session: Session, objects: Sequence[Any], beside: Sequence[Any], paths: Sequence[str], *, doing: str
) -> dict[str, Properties]:
    """Read the same properties of some objects, of all that these are in, and of others, in one request.

    Args:
        session: The login.
        objects: Those whose parents are read too, up to the root folder.
        beside: Other objects.
        paths: The properties.
        doing: For error messages.

    Returns:
        The properties by managed object id. An object that may not be seen is not in it.
    """
    starts = [_query.ObjectSpec(obj=each, skip=False, selectSet=[_upwards()]) for each in objects]
    starts += [_query.ObjectSpec(obj=each, skip=False) for each in beside]
    wanted = _query.PropertySpec(type=vim.ManagedEntity, pathSet=list(paths), all=False)
    spec = _query.FilterSpec(objectSet=starts, propSet=[wanted])
    return {found._GetMoId(): values for found, values in _collect(session, spec, doing=doing)} if starts else {}


def _upwards() -> Any:
    """To the object that an object is in, and so on up to the root folder."""
    again = _query.SelectionSpec(name="up")
    return _query.TraversalSpec(name="up", path="parent", skip=False, type=vim.ManagedEntity, selectSet=[again])


@contextmanager
def every_object(session: Session, wanted: Mapping[Any, Sequence[str]], *, doing: str) -> Generator[Any]:
    """The ``FilterSpec`` of some properties of every object of some kinds, for as long as the block uses it."""
    manager = session.content.viewManager
    root = session.content.rootFolder
    view = session.read(manager.CreateContainerView, root, list(wanted), True, doing=doing)
    try:
        through = _query.TraversalSpec(name="view", path="view", skip=False, type=vim.view.ContainerView)
        start = _query.ObjectSpec(obj=view, skip=True, selectSet=[through])
        specs = [_query.PropertySpec(type=kind, pathSet=list(paths), all=False) for kind, paths in wanted.items()]
        yield _query.FilterSpec(objectSet=[start], propSet=specs)
    finally:
        _destroy(view)


def properties(session: Session, obj: Any, paths: Sequence[str], *, doing: str) -> Properties:
    """Read some properties of one object.

    Raises:
        ServerFault: The object is gone; the API's ManagedObjectNotFound is its cause.
    """
    for _, values in properties_of(session, [obj], paths, doing=doing):
        return values
    return Properties(session, doing)


def properties_of(
    session: Session, objects: Sequence[Any], paths: Sequence[str], *, doing: str
) -> Iterator[tuple[Any, Properties]]:
    """Read the same properties of several objects, which may be of several kinds."""
    if objects:
        yield from _collect(session, _filter(objects, paths), doing=doing)


def watch(
    session: Session, obj: Any, paths: Sequence[str], *, doing: str, stop: StopSignal | None = None
) -> Iterator[Properties]:
    """Yield the properties' values at once, after each change, and every second, until the caller has seen enough.

    The first are read as those of any object: what has ended already needs no collector of its own. A lost collector
    (the session was renewed) or a broken connection is mended, a few times in a row at most.

    Raises:
        ServerFault: The object is gone; the API's ManagedObjectNotFound is its cause.
        Interrupted: ``stop`` was raised.
    """
    signal = stop or StopSignal()
    failures = 0
    read = False
    while True:
        try:
            if not read:
                signal.check()
                yield properties(session, obj, paths, doing=doing)
                read = True
            with _own_collector(session, doing=doing) as collector:
                session.call(collector.CreateFilter, _filter([obj], paths), False, doing=doing)
                for values in _updates(session, collector, doing=doing, stop=signal):
                    yield values
                    failures = 0
        except HyperExportError as error:
            failures += 1
            if not _mendable(obj, error) or failures > _REBUILDS:
                raise
            logger.warning("%s; still waiting", error)
            signal.wait(0.25 * 2**failures)


def _mendable(obj: Any, error: HyperExportError) -> bool:
    if is_caused_by(error, _COLLECTOR_LOST):
        return getattr(error.__cause__, "obj", None) != obj
    return error.transient


def _updates(session: Session, collector: Any, *, doing: str, stop: StopSignal) -> Iterator[Properties]:
    values = Properties(session, doing)
    version = ""
    truncated = 0
    options = _query.WaitOptions(maxWaitSeconds=_TICK)
    while True:
        stop.check()
        update = session.call(collector.WaitForUpdatesEx, version, options, doing=doing)
        if update is not None:
            version = update.version
            for change in _object_updates(update):
                if change.kind == "leave":
                    raise session.error(vmodl.fault.ManagedObjectNotFound(obj=change.obj), doing=doing)
                values.update_with(change)
        truncated = truncated + 1 if update is not None and update.truncated else 0
        if truncated > MOST_PAGES:
            raise ServerFault(f"{doing} failed: an update of {session.address} does not end")
        if not truncated:
            yield values.copy()


def _object_updates(update: Any) -> Iterator[Any]:
    for filtered in update.filterSet:
        yield from filtered.objectSet


@contextmanager
def _own_collector(session: Session, *, doing: str) -> Generator[Any]:
    # The session's default collector must not be shared between threads that wait: filters belong to the collector.
    collector = session.call(session.content.propertyCollector.CreatePropertyCollector, doing=doing)
    try:
        yield collector
    finally:
        _destroy(collector)


def _destroy(obj: Any) -> None:
    try:
        obj.Destroy()
    except FAILURES as error:
        logger.debug("a view or collector was left to the end of the session: %s", error)


def _filter(objects: Sequence[Any], paths: Sequence[str]) -> Any:
    kinds = {type(obj) for obj in objects}
    return _query.FilterSpec(
        objectSet=[_query.ObjectSpec(obj=obj, skip=False) for obj in objects],
        propSet=[_query.PropertySpec(type=kind, pathSet=list(paths), all=False) for kind in kinds],
    )


def _collect(session: Session, spec: Any, *, doing: str) -> Iterator[tuple[Any, Properties]]:
    collector = session.content.propertyCollector
    page = session.read(collector.RetrievePropertiesEx, [spec], _query.RetrieveOptions(maxObjects=PAGE), doing=doing)
    for _ in range(MOST_PAGES):
        if page is None:
            return
        for found in page.objects:
            # vcsim sends some unset properties as empty ones.
            read = {entry.name: entry.val for entry in found.propSet if entry.val is not None}
            values = Properties(session, doing, read)
            values.note_missing(found.missingSet)
            yield found.obj, values
        if not page.token:
            return
        page = session.call(collector.ContinueRetrievePropertiesEx, page.token, doing=doing)
    raise ServerFault(f"{doing} failed: the answer of {session.address} does not end after {MOST_PAGES} pages")
