"""The simulator as its user holds it: started and stopped, with a handle on every VM."""

import logging
import secrets
import tempfile
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pyVmomi import vmodl

from hyperexport.simulator import certificates, neighbours, reconfigure, snapshots
from hyperexport.simulator.control import ControlFace
from hyperexport.simulator.dispatch import Dispatcher
from hyperexport.simulator.faults import Faults
from hyperexport.simulator.folder_log import FolderLog
from hyperexport.simulator.hardware import AttachedDisk
from hyperexport.simulator.leases import Lease
from hyperexport.simulator.machine import Machine, PowerState
from hyperexport.simulator.net import Handler, HttpsServer
from hyperexport.simulator.nfc import NfcHandler
from hyperexport.simulator.server import VCenterHandler
from hyperexport.simulator.sessions import Session
from hyperexport.simulator.snapshots import Snapshot
from hyperexport.simulator.spec import DEFAULT_VMS, DatastoreSpec, DiskSpec, UserSpec, VmSpec
from hyperexport.simulator.vcenter import VCenter
from hyperexport.simulator.world import World

logger = logging.getLogger(__name__)


class Simulator:
    """A simulated vCenter with its hosts, serving on real ports in threads of this process.

    Use it as a context manager, or call :meth:`start` and :meth:`stop`.

    Args:
        vms: What its inventory holds.
        port: The vCenter's port; 0 chooses a free one.
        username: The administrator's name.
        password: The administrator's password; None makes one up.
        users: Further users.
        lease_timeout: Seconds without progress after which a lease ends (300 on a real vCenter).
        session_timeout: Seconds without a call after which a session ends (1800 on a real vCenter).
        hosts: How many ESXi hosts there are, each with a port and a self-signed certificate of its own.
        datacenter: The datacenter's name.
        address: The address to listen on.
        directory: Where the CA's certificate is written; None makes a temporary directory.
        manifests: Whether hosts hash what they send; where they don't, GetManifest is empty, and serving costs half.
        tags: Tags that no VM has, each as ``category:name``, beside those that the VMs have.
        datastores: The datastores; the first is that of VMs for which none is named.
        networks: The networks; the first is that of adapters for which none is named.
        pools: Resource pools below the cluster's own.
        folders: Folders for VMs, such as ``restored/linux``, beside those that the VMs are in.
        boot_seconds: How long a guest takes to start after ``PowerOnVM_Task``.
        drs: Whether the cluster chooses hosts by itself; where not, an import has to name one.
    """

    def __init__(
        self,
        vms: Sequence[VmSpec] = DEFAULT_VMS,
        *,
        port: int = 0,
        username: str = "administrator@vsphere.local",
        password: str | None = None,
        users: tuple[UserSpec, ...] = (),
        lease_timeout: float = 300.0,
        session_timeout: float = 1800.0,
        hosts: int = 2,
        datacenter: str = "DC0",
        address: str = "127.0.0.1",
        directory: Path | None = None,
        manifests: bool = True,
        tags: tuple[str, ...] = (),
        datastores: tuple[DatastoreSpec, ...] = (DatastoreSpec("datastore1"),),
        networks: tuple[str, ...] = ("VM Network",),
        pools: tuple[str, ...] = (),
        folders: tuple[str, ...] = (),
        boot_seconds: float = 0.5,
        drs: bool = False,
    ) -> None:
        if hosts < 1:
            raise ValueError("a vCenter without a host has no place for VMs")
        self.username = username
        self.password = password or secrets.token_urlsafe(16)
        self.control_token = secrets.token_urlsafe(24)
        self.faults = Faults(self._expire_sessions)
        self._world = World(self.faults)
        self._vcenter = VCenter(
            self._world,
            tuple(vms),
            (UserSpec(username, self.password), *users),
            hosts=hosts,
            datacenter=datacenter,
            lease_timeout=lease_timeout,
            session_timeout=session_timeout,
            manifests=manifests,
            tags=tags,
            datastores=datastores,
            networks=networks,
            pools=pools,
            folders=folders,
            boot_seconds=boot_seconds,
            drs=drs,
        )
        self._dispatcher = Dispatcher(self._vcenter)
        self._temporary = tempfile.TemporaryDirectory(prefix="simulator-") if directory is None else None
        self._directory = Path(self._temporary.name if self._temporary else directory or ".")
        self._address = address
        self._asked_port = port
        self._servers: list[HttpsServer] = []
        self._clock = threading.Thread(target=self._end_idle_sessions, name="session clock", daemon=True)
        self.host = address
        self.port = 0
        self.ca_file = self._directory / "ca.pem"
        self.thumbprint = ""

    # -- life ----------------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Listen and serve.

        Raises:
            OSError: The port cannot be listened on, or the directory cannot be written.
        """
        try:
            self._listen()
        except OSError:
            self.stop()
            raise
        for server in self._servers:
            server.start()
        self._clock.start()
        logger.info("simulated vCenter at %s with %d VMs", self.url, len(self._vcenter.machines()))
        return self

    def _listen(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        authority = certificates.make_authority()
        self.ca_file.write_bytes(authority.pem)
        identity = certificates.make_server(self._address, authority=authority)
        self.thumbprint = identity.thumbprint("sha256")
        handler = partial(VCenterHandler, self._vcenter, self._dispatcher, ControlFace(self, self.control_token))
        vcenter = self._serve_with(identity, "vcenter", self._asked_port, handler)
        self.port = vcenter.server_port
        for host in self._vcenter.hosts:
            own = certificates.make_server(self._address, name=host.name)
            handler = partial(NfcHandler, self._world, host, self._expire_sessions)
            host.netloc = self._serve_with(own, host.name, 0, handler).netloc
            host.thumbprint = own.thumbprint("sha1")

    def _serve_with(
        self, identity: certificates.Identity, name: str, port: int, handler: Callable[..., Handler]
    ) -> HttpsServer:
        server = HttpsServer(self._address, port, identity.server_context(self._directory, name), handler)
        self._servers.append(server)
        return server

    def stop(self) -> None:
        """Stop serving; all connections, threads and tasks end."""
        with self._world.lock:
            self._world.stopping = True
            self._world.touch()
        for server in self._servers:
            server.stop()
        self._servers.clear()
        self._vcenter.tasks.join()
        if self._clock.is_alive():
            self._clock.join()
        if self._temporary:
            self._temporary.cleanup()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    # -- what a client needs -------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The URL that clients connect to."""
        return f"https://{self.host}:{self.port}/sdk"

    def environment(self) -> dict[str, str]:
        """The variables by which govc and this tool find and trust it."""
        return {
            "GOVC_URL": self.url,
            "GOVC_USERNAME": self.username,
            "GOVC_PASSWORD": self.password,
            "GOVC_TLS_CA_CERTS": str(self.ca_file),
        }

    # -- what a test looks at ------------------------------------------------------------------------------------------

    @property
    def requests(self) -> dict[str, int]:
        """How often each SOAP method was called."""
        with self._world.lock:
            return dict(self._dispatcher.requests)

    def sessions(self) -> list[Session]:
        """The sessions that have not ended."""
        return self._vcenter.sessions.live()

    def rest_sessions(self) -> int:
        """How many logins to the REST API have not ended."""
        return self._vcenter.tagging.open_sessions

    def leases(self) -> list[Lease]:
        """The leases that hold a VM."""
        with self._world.lock:
            return [lease for machine in self._vcenter.machines() for lease in machine.leases]

    def most_at_once(self) -> dict[str, dict[str, int]]:
        """The most leases and downloads that there ever were at once on each host, by its name."""
        loads = ((host.name, host.load) for host in self._vcenter.hosts)
        return {name: {"leases": load.leases.most, "downloads": load.downloads.most} for name, load in loads}

    @contextmanager
    def downloads_held(self) -> Generator[None]:
        """No host sends a byte of a download while the block runs: what reads a disk goes on reading it."""
        self._world.downloads_held = True
        try:
            yield
        finally:
            self._world.downloads_held = False
            self._world.touch()

    @property
    def folder(self) -> FolderLog:
        """What was read by ``/folder``, and whether the frozen base of a running VM may be."""
        return self._vcenter.folder_log

    def detached_disks(self) -> list[str]:
        """The disks that lie in a datastore and that no VM has, each as ``[datastore] path``."""
        with self._world.lock:
            stores = self._vcenter.datastores.values()
            return [
                f"[{store.name}] {path}" for store in stores for path, disk in store.disks.items() if not disk.attached
            ]

    def vms(self) -> list["VmHandle"]:
        """All VMs."""
        return [VmHandle(machine) for machine in self._vcenter.machines()]

    def vm(self, name: str) -> "VmHandle":
        """The VM with this name or inventory path.

        Raises:
            KeyError: There is none, or several of that name.
        """
        found = [vm for vm in self.vms() if name in {vm.name, vm.path}]
        if len(found) != 1:
            raise KeyError(f"{len(found)} simulated VMs are named {name}")
        return found[0]

    def _expire_sessions(self) -> None:
        self._vcenter.sessions.end_all()

    def _end_idle_sessions(self) -> None:
        with self._world.lock:
            while not self._world.stopping:
                self._world.changed.wait(self._vcenter.sessions.expire())


class VmHandle:
    """The hands on one VM: its guest, and a user who works on it at the vSphere client."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._world = machine.world

    @property
    def name(self) -> str:
        """Its name."""
        return self._machine.settings.name

    @property
    def moref(self) -> str:
        """Its managed object id."""
        return self._machine.moid

    @property
    def path(self) -> str:
        """Its inventory path."""
        return self._machine.path

    @property
    def instance_uuid(self) -> str:
        """VCenter's identity of it."""
        return self._machine.settings.instance_uuid

    @property
    def nvram(self) -> bytes:
        """Its NVRAM file; empty where it has none."""
        return self._machine.nvram

    @property
    def consolidation_needed(self) -> bool:
        """runtime.consolidationNeeded."""
        return self._machine.consolidation_needed

    @consolidation_needed.setter
    def consolidation_needed(self, needed: bool) -> None:
        with self._world.lock:
            self._machine.consolidation_needed = needed
            self._world.touch()

    def power_on(self) -> None:
        """Power it on."""
        with self._world.lock:
            self._machine.set_power(PowerState.poweredOn)

    def power_off(self) -> None:
        """Power it off."""
        with self._world.lock:
            self._machine.set_power(PowerState.poweredOff)

    def destroy(self) -> None:
        """Delete it from disk, with its snapshots."""
        with self._world.lock:
            self._machine.set_power(PowerState.poweredOff)
            self._machine.destroy()
            self._world.touch()

    @property
    def heartbeat(self) -> str:
        """Its guestHeartbeatStatus."""
        return str(self._machine.guestHeartbeatStatus)

    def conflicts(self) -> dict[str, list[str]]:
        """What it has in common with other VMs and should not: their names, by MAC address or ``uuid``."""
        with self._world.lock:
            return neighbours.conflicts(self._machine)

    def custom_attributes(self) -> dict[str, str]:
        """Its custom attributes."""
        with self._world.lock:
            names = {each.key: each.name for each in self._machine.availableField}
            return {names[key]: value for key, value in self._machine.custom_values.items()}

    def snapshots(self) -> list[tuple[str, str, str, datetime]]:
        """Its snapshots, parents first, as (id, name, description, time)."""
        with self._world.lock:
            return [(each.moid, each.name, each.description, each.created) for each in self._machine.all_snapshots()]

    def take_snapshot(self, name: str, description: str = "") -> str:
        """Take a snapshot as a user would; answers its id."""
        with self._world.lock:
            return self._machine.freeze(name, description).moid

    def remove_snapshot(self, moref: str) -> None:
        """Remove a snapshot as a user would.

        Raises:
            KeyError: It has no such snapshot.
        """
        with self._world.lock:
            snapshots.unlink(self._machine, self._snapshot(moref))
            self._machine.stunned()

    def guest_write(self, disk: int, offset: int, data: bytes) -> None:
        """Have the guest write to a disk; snapshots taken before don't see it.

        Raises:
            ValueError: Beyond the disk's end.
        """
        self._disk(disk).image.write(offset, data)

    def read_disk(self, disk: int, offset: int, length: int, snapshot: str | None = None) -> bytes:
        """Read a disk, as it is or as a snapshot froze it."""
        return self._content(disk, snapshot).read(offset, length)

    def save_raw(self, disk: int, path: Path, snapshot: str | None = None) -> None:
        """Write a disk as a sparse raw image."""
        content = self._content(disk, snapshot)
        (content.freeze() if hasattr(content, "freeze") else content).save_raw(path)

    def reset_change_tracking(self, disk: int) -> None:
        """Void all change ids of a disk, as a host's crash does."""
        self._disk(disk).image.reset_tracking()

    def add_disk(self, spec: DiskSpec) -> None:
        """Hang one more disk on it."""
        with self._world.lock:
            reconfigure.add_disk(self._machine, spec)

    def resize_disk(self, disk: int, capacity: int) -> None:
        """Make a disk larger.

        Raises:
            ValueError: It has snapshots, or the disk would become smaller.
        """
        with self._world.lock:
            try:
                reconfigure.resize_disk(self._machine, self._disk(disk).key, capacity)
            except vmodl.MethodFault as fault:
                raise ValueError(fault.msg) from fault

    def state(self) -> dict[str, Any]:
        """What it is like now, as plain values."""
        return {
            "name": self.name,
            "moref": self.moref,
            "path": self.path,
            "instance_uuid": self.instance_uuid,
            "power": str(self._machine.power),
            "consolidation_needed": self.consolidation_needed,
            "disks": [disk.image.capacity for disk in self._machine.disks],
            "snapshots": [
                {"moref": moref, "name": name, "description": description, "created": created.isoformat()}
                for moref, name, description, created in self.snapshots()
            ],
        }

    def _disk(self, position: int) -> AttachedDisk:
        return self._machine.disks[position]

    def _content(self, disk: int, snapshot: str | None) -> Any:
        return self._snapshot(snapshot).frozen[self._disk(disk).key] if snapshot else self._disk(disk).image

    def _snapshot(self, moref: str) -> Snapshot:
        for each in self._machine.all_snapshots():
            if each.moid == moref:
                return each
        raise KeyError(f"{self.name} has no snapshot {moref}")
