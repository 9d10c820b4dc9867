"""A plain pyVmomi client and plain sockets against the simulator: nothing of the product is in between."""

import contextlib
import http.client
import re
import ssl
import time
from collections.abc import Generator
from typing import Any
from urllib.parse import urlsplit

from pyVim.connect import Disconnect, SmartConnect
from pyVmomi import vim, vmodl

from hyperexport.simulator import Simulator

PC = vmodl.query.PropertyCollector


@contextlib.contextmanager
def logged_in(sim: Simulator, user: str | None = None, password: str | None = None) -> Generator[Any]:
    """A service instance with a session of its own, its certificate checked against the simulator's CA."""
    context = ssl.create_default_context(cafile=str(sim.ca_file))
    service = SmartConnect(
        host=sim.host,
        port=sim.port,
        user=user or sim.username,
        pwd=password or sim.password,
        sslContext=context,
        httpConnectionTimeout=20,
    )
    try:
        yield service
    finally:
        with contextlib.suppress(vmodl.MethodFault, OSError):
            Disconnect(service)
        stub: Any = service._stub
        stub.DropConnections()


def find(service: Any, name: str) -> Any:
    """The VM of this name."""
    content = service.RetrieveContent()
    view = content.viewManager.CreateContainerView(content.rootFolder, [vim.VirtualMachine], True)
    try:
        return next(vm for vm in view.view if vm.name == name)
    finally:
        view.Destroy()


def finish(task: Any) -> Any:
    """Wait for a task with the property collector; return its result or raise its fault."""
    collector = vim.ServiceInstance("ServiceInstance", task._stub).content.propertyCollector.CreatePropertyCollector()
    try:
        spec = PC.FilterSpec(
            objectSet=[PC.ObjectSpec(obj=task)],
            propSet=[PC.PropertySpec(type=vim.Task, pathSet=["info.state", "info.error", "info.result"])],
        )
        collector.CreateFilter(spec, True)
        version, seen = "", {}
        while seen.get("info.state") not in {"success", "error"}:
            updates = collector.WaitForUpdatesEx(version, PC.WaitOptions(maxWaitSeconds=20))
            assert updates is not None, f"the task {task} did not end"
            version = updates.version
            for update in updates.filterSet:
                for change in update.objectSet:
                    seen.update({each.name: each.val for each in change.changeSet})
    finally:
        collector.Destroy()
    if seen["info.state"] == "error":
        raise seen["info.error"]
    return seen.get("info.result")


def ready(lease: Any) -> Any:
    """Wait until a lease is ready (or failed); return its info."""
    deadline = time.monotonic() + 90
    while lease.state == "initializing":
        assert time.monotonic() < deadline, "the lease stays initializing"
    if lease.state == "error":
        raise lease.error
    return lease.info


def take_snapshot(vm: Any, name: str = "snap", *, quiesce: bool = False) -> Any:
    """Take a snapshot and return it."""
    return finish(vm.CreateSnapshot_Task(name, "", memory=False, quiesce=quiesce))


class Download:
    """One NFC download over a raw HTTP connection, with the chunks told apart."""

    def __init__(self, url: str, headers: dict[str, str] | None = None) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        context = ssl._create_unverified_context()
        self._connection = http.client.HTTPSConnection(parts.hostname, parts.port, context=context, timeout=20)
        self._connection.request("GET", parts.path, headers=headers or {})
        self.response = self._connection.getresponse()

    def read(self) -> bytes:
        """Everything; raises what the connection raises."""
        try:
            return self.response.read()
        finally:
            self.close()

    def read_part(self, size: int) -> bytes:
        """So many bytes."""
        return self.response.read(size)

    def close(self) -> None:
        """Let go of the connection."""
        self.response.close()
        self._connection.close()


def fetch(url: str) -> bytes:
    """Download a whole file."""
    return Download(url).read()


def get(sim: Simulator, path: str, headers: dict[str, str] | None = None, method: str = "GET") -> Any:
    """Ask the vCenter's port for a path; return (status, headers, body)."""
    context = ssl.create_default_context(cafile=str(sim.ca_file))
    connection = http.client.HTTPSConnection(sim.host, sim.port, context=context, timeout=20)
    try:
        connection.request(method, path, headers=headers or {})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def cookie_of(service: Any) -> str:
    """The session cookie that a service instance sends, without its attributes."""
    found = re.match(r'vmware_soap_session="?[^";]+"?', service._stub.cookie)
    assert found
    return found[0]
