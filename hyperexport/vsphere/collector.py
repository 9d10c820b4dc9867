"""Properties of many objects in few requests, and properties as they change.

vSphere's PropertyCollector, in the three forms that are needed: all objects of some kinds (paged), some paths of given
objects, and the values of one object whenever they change. Reading attributes of managed objects one by one costs a
request each and is done nowhere.
"""

import logging
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from pyVmomi import vim, vmodl

from hyperexport.base.stop import StopSignal
from hyperexport.errors import HyperExportError, ServerFault
from hyperexport.vsphere.faults import FAILURES, GONE, is_caused_by
from hyperexport.vsphere.session import Session

logger = logging.getLogger(__name__)

Properties = dict[str, Any]
"""What was read, by path. A property that is unset, or that the user may not see, is not in it."""

_PAGE: Final = 1000
_TICK: Final = 1  # seconds that one WaitForUpdatesEx lasts at most: how soon a stop is obeyed
_REBUILDS: Final = 6
_MOST_PAGES: Final = 10_000
"""Of one answer. vCenter's own limit is 40,000 powered-on VMs, some dozen pages ("Configuration Maximums")."""
_COLLECTOR_LOST: Final[tuple[type[Exception], ...]] = (*GONE, vmodl.query.InvalidCollectorVersion)

_query = vmodl.query.PropertyCollector


def retrieve(session: Session, wanted: Mapping[Any, Sequence[str]], *, doing: str) -> Iterator[tuple[Any, Properties]]:
    """Read some properties of every object of some kinds, a thousand objects a request.

    Args:
        session: The login.
        wanted: Property paths by managed object type.
        doing: For error messages.
    """
    manager = session.content.viewManager
    root = session.content.rootFolder
    view = session.read(manager.CreateContainerView, root, list(wanted), True, doing=doing)
    try:
        through = _query.TraversalSpec(name="view", path="view", skip=False, type=vim.view.ContainerView)
        start = _query.ObjectSpec(obj=view, skip=True, selectSet=[through])
        specs = [_query.PropertySpec(type=kind, pathSet=list(paths), all=False) for kind, paths in wanted.items()]
        yield from _collect(session, _query.FilterSpec(objectSet=[start], propSet=specs), doing=doing)
    finally:
        _destroy(view)


def properties(session: Session, obj: Any, paths: Sequence[str], *, doing: str) -> Properties:
    """Read some properties of one object.

    Raises:
        ServerFault: The object is gone; the API's ManagedObjectNotFound is its cause.
    """
    for _, values in properties_of(session, [obj], paths, doing=doing):
        return values
    return {}


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

    A lost collector (the session was renewed) or a broken connection is mended, a few times in a row at most.

    Raises:
        ServerFault: The object is gone; the API's ManagedObjectNotFound is its cause.
        Interrupted: ``stop`` was raised.
    """
    patience = stop or StopSignal()
    failures = 0
    while True:
        try:
            with _own_collector(session, doing=doing) as collector:
                session.call(collector.CreateFilter, _filter([obj], paths), False, doing=doing)
                for values in _updates(session, collector, doing=doing, stop=patience):
                    yield values
                    failures = 0
        except HyperExportError as error:
            failures += 1
            if not _mendable(obj, error) or failures > _REBUILDS:
                raise
            logger.warning("%s; waiting goes on", error)
            patience.wait(0.25 * 2**failures)


def _mendable(obj: Any, error: HyperExportError) -> bool:
    if is_caused_by(error, _COLLECTOR_LOST):
        return getattr(error.__cause__, "obj", None) != obj
    return error.transient


def _updates(session: Session, collector: Any, *, doing: str, stop: StopSignal) -> Iterator[Properties]:
    values: Properties = {}
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
                values |= {entry.name: entry.val for entry in change.changeSet}
        truncated = truncated + 1 if update is not None and update.truncated else 0
        if truncated > _MOST_PAGES:
            raise ServerFault(f"{doing} failed: an update of {session.address} does not end")
        if not truncated:
            yield dict(values)


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
    page = session.read(collector.RetrievePropertiesEx, [spec], _query.RetrieveOptions(maxObjects=_PAGE), doing=doing)
    for _ in range(_MOST_PAGES):
        if page is None:
            return
        for found in page.objects:
            # vcsim sends some unset properties as empty ones.
            yield found.obj, {entry.name: entry.val for entry in found.propSet if entry.val is not None}
        if not page.token:
            return
        page = session.call(collector.ContinueRetrievePropertiesEx, page.token, doing=doing)
    raise ServerFault(f"{doing} failed: the answer of {session.address} does not end after {_MOST_PAGES} pages")
