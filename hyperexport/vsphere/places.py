"""Where a VM can be put: folders, resource pools, hosts, datastores and networks, and which of them is meant.

A place is named by its whole inventory path, or by a name that only one has. What is missing or ambiguous is an error
that lists what is there; nothing is ever guessed. What is there already and could be in the way is read here, too.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pyVmomi import vim

from hyperexport.errors import PlaceNotFound
from hyperexport.model.restore import RestoreRequest, VmPlace
from hyperexport.vsphere.collector import Properties, properties, properties_of, retrieve
from hyperexport.vsphere.names import escape, unescape
from hyperexport.vsphere.session import Session

_KINDS: Final = {
    vim.Folder: ("name", "parent", "childType"),
    vim.Datacenter: ("name", "parent", "vmFolder"),
    vim.ComputeResource: ("name", "parent", "resourcePool", "host", "datastore", "network"),
    vim.ClusterComputeResource: (
        "name",
        "parent",
        "resourcePool",
        "host",
        "datastore",
        "network",
        "configurationEx",
    ),
    vim.ResourcePool: ("name", "parent", "owner"),
    vim.HostSystem: ("name", "parent", "runtime.connectionState", "runtime.inMaintenanceMode", "datastore", "network"),
    vim.Datastore: ("name", "parent", "summary.accessible", "summary.maintenanceMode", "summary.freeSpace"),
    vim.Network: ("name", "parent"),
    vim.dvs.DistributedVirtualPortgroup: ("name", "parent", "config.uplink"),
    vim.OpaqueNetwork: ("name", "parent"),
}
_MOST_LISTED: Final = 20


@dataclass(frozen=True)
class Place:
    """Something that a VM can be put into, or on."""

    obj: Any = field(compare=False, repr=False)
    name: str
    path: str
    values: Properties = field(compare=False, repr=False)

    @property
    def moref(self) -> str:
        """Its managed object id."""
        return self.obj._GetMoId()

    def within(self, objects: Iterable[Any]) -> bool:
        """Whether it is one of these."""
        return self.moref in {each._GetMoId() for each in objects}


@dataclass(frozen=True)
class Placement:
    """The folder, resource pool, host and datastore that a VM is restored to."""

    folder: Place
    pool: Place
    host: Place | None
    datastore: Place
    networks: dict[str, Place]
    """The target of each network that was asked for."""
    datacenter: Place | None = None
    """The one that the folder is in."""

    @property
    def free(self) -> int | None:
        """Bytes that are free on the datastore; None where the server does not tell."""
        return self.datastore.values.shown("summary.freeSpace")


class Places:
    """All places of a server that the user may see."""

    def __init__(self, session: Session) -> None:
        found = {
            obj._GetMoId(): (obj, values)
            for obj, values in retrieve(session, _KINDS, doing="reading the places for a VM")
        }
        self._address = session.address
        self._user = session.user
        self._parents = {moref: _moref(values.shown("parent")) for moref, (_, values) in found.items()}
        self._names = {moref: values.shown("name", moref) for moref, (_, values) in found.items()}
        self._all = {
            moref: Place(obj, unescape(self._names[moref]), self._path(moref), values)
            for moref, (obj, values) in found.items()
        }
        roots = {_moref(each.values.shown("vmFolder")) for each in self._of(vim.Datacenter)}
        self.folders = [each for each in self._of(vim.Folder) if roots & set(self._above(each.moref))]
        self.pools = [each for each in self._of(vim.ResourcePool) if not isinstance(each.obj, vim.VirtualApp)]

    def resolve(self, request: RestoreRequest, was: VmPlace, *, networks: Sequence[str]) -> Placement:
        """Find the place of a VM: what is asked for, or else where it was.

        Args:
            request: What is asked for.
            was: Where the exported VM was, as far as that is known.
            networks: The names of the networks that it was on.

        Raises:
            PlaceNotFound: Something is missing, or ambiguous; the message lists the candidates.
        """
        folder = self.folder(request.folder, was.folder)
        computes = [
            each for each in self._of(vim.ComputeResource) if self._datacenter(each) == self._datacenter(folder)
        ]
        pool = self._pool(request, was, computes)
        compute = self._all.get(_moref(pool.values.shown("owner")))
        if compute is None:
            raise PlaceNotFound(
                f"the cluster or host of {pool.path} is not on {self.seen_by}", fix="Choose another --resource-pool"
            )
        host = self._host(request.host, was.host, compute)
        reach = host or compute
        stores = [each for each in self._of(vim.Datastore) if each.within(reach.values.shown("datastore", ()))]
        usable = [each for each in stores if _usable(each)]
        datastore = self._one("--datastore", request.datastore, next(iter(was.datastores), None), usable, "datastore")
        there = [each for each in self._of(vim.Network) if each.within(reach.values.shown("network", ()))]
        there = [each for each in there if not each.values.shown("config.uplink", False)]
        datacenter = self._datacenter(folder)
        return Placement(
            folder,
            pool,
            host,
            datastore,
            self._networks(request, networks, there),
            self._all[datacenter] if datacenter else None,
        )

    def folder(self, wanted: str | None, was: str | None) -> Place:
        """The VM folder that is asked for, or in which the VM was."""
        return self._one("--folder", wanted, was, self.folders, "VM folder")

    def path_of(self, moref: str) -> str | None:
        """The inventory path of a place; None where it is not seen."""
        place = self._all.get(moref)
        return place.path if place else None

    def name_of(self, moref: str) -> str | None:
        """The name of a place; None where it is not seen."""
        place = self._all.get(moref)
        return place.name if place else None

    # -- each of them --------------------------------------------------------------------------------------------------

    def _pool(self, request: RestoreRequest, was: VmPlace, computes: Sequence[Place]) -> Place:
        owners = {each.moref for each in computes}
        pools = [each for each in self.pools if _moref(each.values.shown("owner")) in owners]
        wanted = request.resource_pool
        # A cluster or a host stands for its root pool.
        roots = {_moref(each.values.shown("resourcePool")): each for each in computes}
        if wanted:
            named = [root for root, each in roots.items() if wanted in (each.name, each.path)]
            named += [root for root in roots for each in self._hosts_of(roots[root]) if wanted == each.name]
            if len(set(named)) == 1 and named[0] in self._all:
                return self._all[named[0]]
        if wanted is None and request.host:
            above = [each for each in computes if any(request.host in (h.name, h.path) for h in self._hosts_of(each))]
            own = (
                was.resource_pool
                if any(was.resource_pool and _below(was.resource_pool, e.path) for e in above)
                else None
            )
            if len(above) == 1 and own is None and (root := _moref(above[0].values.shown("resourcePool"))) in self._all:
                return self._all[root]
        return self._one("--resource-pool", wanted, was.resource_pool, pools, "resource pool")

    def _hosts_of(self, compute: Place) -> list[Place]:
        return [each for each in self._of(vim.HostSystem) if each.within(compute.values.shown("host", ()))]

    def _host(self, wanted: str | None, was: str | None, compute: Place) -> Place | None:
        hosts = self._hosts_of(compute)
        ready = [each for each in hosts if _ready(each)]
        if wanted is None and was not in {each.name for each in ready} and _chooses(compute):
            return None
        return self._one("--host", wanted, was, ready, f"ready host of {compute.name}")

    def _networks(self, request: RestoreRequest, sources: Sequence[str], there: Sequence[Place]) -> dict[str, Place]:
        targets = request.network_targets()
        unknown = sorted(targets.keys() - set(sources))
        if unknown:
            raise PlaceNotFound(
                f"--network: the exported VM was on no network {unknown[0]!r}",
                fix=f"It was on: {', '.join(sources) or 'none'}",
            )
        found: dict[str, Place] = {}
        for source in sources:
            if request.disconnected:
                same = [each for each in there if each.name == source] or list(there)
                if not same:
                    raise _missing(self, "network", source, there, "--network")
                found[source] = same[0]
                continue
            name = targets.get(source, source)
            same = [each for each in there if name in (each.name, each.path)]
            if len(same) != 1:
                fix = f"Give --network '{source}=TARGET', or --network none to leave every adapter disconnected"
                raise _missing(self, "network", name, same or there, "--network", fix=fix, several=len(same) > 1)
            found[source] = same[0]
        return found

    def _one(self, flag: str, wanted: str | None, was: str | None, places: Sequence[Place], kind: str) -> Place:
        """The one place that is asked for, or that the VM was in, or that is the only one."""
        name = wanted or was
        named = [each for each in places if name and _is_named(each, name)]
        if len(named) == 1:
            return named[0]
        if wanted is None and not named and len(places) == 1:
            return places[0]
        raise _missing(self, kind, name, named or places, flag, several=len(named) > 1, asked=wanted is not None)

    # -- the tree ------------------------------------------------------------------------------------------------------

    def _of(self, kind: Any) -> list[Place]:
        return sorted((each for each in self._all.values() if isinstance(each.obj, kind)), key=lambda each: each.path)

    def _above(self, moref: str) -> list[str]:
        """The object itself, and all that it lies in."""
        chain: list[str] = []
        while moref and moref in self._parents and len(chain) <= len(self._parents):
            chain.append(moref)
            moref = self._parents[moref]
        return chain

    def _path(self, moref: str) -> str:
        return "/" + "/".join(self._names[each] for each in reversed(self._above(moref)))

    def _datacenter(self, place: Place) -> str | None:
        return next(
            (each for each in self._above(place.moref) if isinstance(self._all[each].obj, vim.Datacenter)), None
        )

    @property
    def seen_by(self) -> str:
        """Whose view it is, for messages."""
        return f"{self._address}, or {self._user} may not see it"


def _missing(
    places: Places,
    kind: str,
    name: str | None,
    candidates: Sequence[Place],
    flag: str,
    *,
    fix: str = "",
    several: bool = False,
    asked: bool = True,
) -> PlaceNotFound:
    listed = [each.name if kind in {"datastore", "network"} or "host" in kind else each.path for each in candidates]
    more = f" and {len(listed) - _MOST_LISTED} more" if len(listed) > _MOST_LISTED else ""
    shown = ", ".join(listed[:_MOST_LISTED]) + more or "none"
    if several:
        return PlaceNotFound(f"several are named {name!r}: {shown}", fix=f"Give {flag} with the whole path")
    if name is None:
        return PlaceNotFound(f"the {kind} is not known, and there are several: {shown}", fix=fix or f"Give {flag}")
    where = "" if asked else ", where the VM was,"
    return PlaceNotFound(
        f"no {kind} {name!r}{where} is usable there on {places.seen_by}; there are: {shown}", fix=fix or f"Give {flag}"
    )


def _is_named(place: Place, name: str) -> bool:
    path = "/" + name.strip("/")
    return name in (place.name, escape(place.name)) or path in (place.path, unescape(place.path))


def _below(path: str, above: str) -> bool:
    return path.startswith(f"{above}/")


def vms_with_uuid(session: Session, instance_uuid: str) -> list[str]:
    """The names of the VMs of a server that have this instance UUID, in alphabetical order."""
    doing = f"looking for the VM {instance_uuid}"
    found = session.read(session.content.searchIndex.FindAllByUuid, None, instance_uuid, True, True, doing=doing)
    vms = [each for each in found or () if isinstance(each, vim.VirtualMachine)]
    named = properties_of(session, vms, ("name",), doing=doing)
    return sorted(unescape(values.shown("name", obj._GetMoId())) for obj, values in named)


def names_in(session: Session, folder: Any) -> set[str]:
    """The names of everything that lies in a folder of the inventory."""
    doing = "reading the names in the target folder"
    members = properties(session, folder, ("childEntity",), doing=doing).get("childEntity", ())
    return {unescape(values["name"]) for _, values in properties_of(session, list(members), ("name",), doing=doing)}


def _usable(store: Place) -> bool:
    accessible = store.values.shown("summary.accessible", True)
    return bool(accessible) and store.values.shown("summary.maintenanceMode", "normal") in ("normal", None)


def _ready(host: Place) -> bool:
    connected = host.values.shown("runtime.connectionState", "connected") == "connected"
    return connected and not host.values.shown("runtime.inMaintenanceMode", False)


def _chooses(compute: Place) -> bool:
    """Whether the cluster chooses the hosts of its VMs by itself."""
    configuration = compute.values.shown("configurationEx")
    drs = getattr(configuration, "drsConfig", None)
    return bool(drs and drs.enabled)


def _moref(obj: Any) -> str:
    return "" if obj is None else obj._GetMoId()
