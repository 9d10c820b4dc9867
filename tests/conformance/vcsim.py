"""VMware's own vCenter simulator as a running server, and real disks in the place of its dummies."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Vcsim:
    """A vcsim that serves: where it is, who may log in, and the certificate that vouches for it."""

    url: str
    username: str
    password: str
    ca_file: Path
    home: Path
    """A folder of its own: its datastores (as temporary folders) and govc's settings lie in it."""
    govc_program: Path
    pid: int

    @property
    def host(self) -> str:
        """The address, without the port."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return urlsplit(self.url).port or 0

    @property
    def environment(self) -> dict[str, str]:
        """What govc, and this tool, read to connect to it with its certificate verified."""
        return {
            "GOVC_URL": self.url,
            "GOVC_USERNAME": self.username,
            "GOVC_PASSWORD": self.password,
            "GOVC_TLS_CA_CERTS": str(self.ca_file),
        }

    def govc(self, *arguments: str, seconds: float = 60, **environment: str) -> str:
        """Run govc against it and return what it printed.

        Raises:
            subprocess.CalledProcessError: govc failed; its ``stderr`` says why.
        """
        # A kept session would let a wrong password pass.
        settings = {"GOVMOMI_HOME": str(self.home / "govmomi"), "GOVC_PERSIST_SESSION": "false"}
        return subprocess.run(
            [self.govc_program, *arguments],
            env=os.environ | self.environment | settings | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=seconds,
        ).stdout


@contextmanager
def running_vcsim(peers: Path, home: Path, *flags: str) -> Generator[Vcsim]:
    """Start a vcsim on a free port of loopback, and end it with the block.

    Args:
        peers: The folder with the programs ``vcsim`` and ``govc``.
        home: An empty folder for everything that it writes.
        flags: Of ``peers/cmd/vcsim``, such as ``"-vm", "10"`` or ``"-disks", "2"``.
    """
    username, password = "administrator@vsphere.local", "vcsim: p@ss/word"
    ca_file = home / "ca.pem"
    command = [peers / "vcsim", "-username", username, "-password", password, "-ca-file", ca_file, *flags]
    environment = os.environ | {"TMPDIR": str(home)}
    with (
        (home / "vcsim.log").open("wb") as log,
        subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, f"vcsim did not start: {(home / 'vcsim.log').read_text()}"
            ready = json.loads(line)
            yield Vcsim(ready["url"], username, password, ca_file, home, peers / "govc", process.pid)
        finally:
            process.terminate()


def disk_file(vcsim: Vcsim, vm: str, disk: int = 0) -> Path:
    """The file on this machine that vcsim serves as a VM's disk when it is exported.

    Args:
        vcsim: The server.
        vm: The VM's inventory path or name.
        disk: The disk's place among the VM's disks, from 0.
    """
    # govmomi's simulator: a datastore is a local folder, named by its summary.url; disks are small text files in it.
    devices = json.loads(vcsim.govc("device.info", "-json", "-vm", vm))["devices"]
    disks = sorted((device for device in devices if "capacityInKB" in device), key=lambda device: device["key"])
    found = re.fullmatch(r"\[(.+)\] (.+)", disks[disk]["backing"]["fileName"])
    assert found, disks[disk]
    datastore, path = found.groups()
    folder = vcsim.govc("find", "/", "-type", "s", "-name", datastore).split("\n")[0]
    return Path(vcsim.govc("object.collect", "-s", folder, "summary.url").strip()) / path


def place_disk(vcsim: Vcsim, vm: str, file: Path, disk: int = 0) -> None:
    """Have vcsim serve ``file`` (a streamOptimized VMDK), byte for byte, as a VM's disk."""
    shutil.copyfile(file, disk_file(vcsim, vm, disk))
