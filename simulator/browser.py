"""The datastore browser: which files lie in a VM's folder, how large they are, and when they were last written.

vSphere API: HostDatastoreBrowser. Only the folders of VMs are known; what can be asked for is what FileQueryFlags name.
"""

# ruff: noqa: D102 - what has a name of the vSphere API is documented there

import fnmatch
import re
from datetime import datetime
from typing import Any

from pyVmomi import vim

from hyperexport.simulator.inventory import Datastore
from hyperexport.simulator.machine import Machine
from hyperexport.simulator.sessions import require
from hyperexport.simulator.tasks import Task, TaskRunner
from hyperexport.simulator.world import Managed, World

_PATH = re.compile(r"\[(?P<store>[^\]]+)\] ?(?P<folder>.*?)/?")
_WRITTEN_BY_GUEST = ("-flat.vmdk", "-sesparse.vmdk")


class DatastoreBrowser(Managed):
    """vim.host.DatastoreBrowser of one datastore."""

    kind = vim.host.DatastoreBrowser

    def __init__(self, world: World, datastore: Datastore, tasks: TaskRunner) -> None:
        super().__init__(world, world.new_id("datastoreBrowser"))
        self._datastore = datastore
        self._tasks = tasks
        datastore.browser = self.ref
        world.add(self)

    @property
    def place(self) -> Managed:
        return self._datastore

    def SearchDatastore_Task(self, datastorePath: str, searchSpec: Any) -> Any:
        # vSphere API: HostDatastoreBrowser requires Datastore.Browse on the datastore; no method has it as privId.
        require("Datastore.Browse", self._datastore)

        def work(task: Task) -> Any:
            del task
            return self._search(datastorePath, searchSpec)

        return self._tasks.start(self._datastore, "SearchDatastore_Task", work)

    def _search(self, path: str, spec: Any) -> Any:
        found = _PATH.fullmatch(path)
        if found is None or found["store"] != self._datastore.name:
            raise vim.fault.InvalidDatastorePath(msg=f"Invalid datastore path '{path}'.", datastorePath=path)
        machine = next((vm for vm in self._datastore.vms if vm.settings.home == found["folder"]), None)
        if machine is None:
            raise vim.fault.FileNotFound(msg=f"File {path} was not found", file=path)
        patterns = list(spec.matchPattern) if spec and spec.matchPattern else ["*"]
        details = (spec and spec.details) or vim.host.DatastoreBrowser.FileInfo.Details()
        files = [
            _described(name, size, written, details)
            for name, size, written in _files(machine)
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
        ]
        return vim.host.DatastoreBrowser.SearchResults(
            datastore=self._datastore.ref, folderPath=f"{path.rstrip('/')}/", file=files
        )


def _described(name: str, size: int, written: datetime, details: Any) -> Any:
    # vSphere API: what the details do not ask for is unset.
    return vim.host.DatastoreBrowser.FileInfo(
        path=name,
        fileSize=size if details.fileSize else None,
        modification=written if details.modification else None,
    )


def _files(machine: Machine) -> list[tuple[str, int, datetime]]:
    """Name, size and time of every file in the VM's folder."""
    by_stem = {disk.base.rpartition("/")[2].removesuffix(".vmdk"): disk for disk in machine.disks}
    result: list[tuple[str, int, datetime]] = []
    for file in machine.layoutEx.file:
        name = file.name.rpartition("/")[2]
        stem = next((name.removesuffix(end) for end in _WRITTEN_BY_GUEST if name.endswith(end)), "")
        disk = by_stem.get(re.sub(r"-\d{6}$", "", stem))
        written = disk.image.written if disk else machine.created if name.endswith(".vmdk") else machine.settled
        result.append((name, file.size, written))
    # Virtual machine configuration guide: the log is begun anew whenever the VM is powered on.
    result += [(name, len(content), machine.settled) for name, content in machine.screenshots.items()]
    return [*result, ("vmware.log", 250_000, machine.settled)]
