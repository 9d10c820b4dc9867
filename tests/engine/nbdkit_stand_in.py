"""A plugin for ``nbdkit python`` in the place of ``nbdkit vddk``: the same parameters, and a simulated VM's disk.

It runs in nbdkit's own Python, so it has only the standard library. ``standin=FILE`` is its own parameter: JSON that
says where the simulator is, and what is to go wrong.
"""

# pyright: basic

import base64
import json
import os
import signal
import ssl
import threading
import urllib.request
from pathlib import Path

API_VERSION = 2

parameters: dict[str, str] = {}
standin: dict = {}
reads: list[int] = []


def config(key, value):
    if key == "standin":
        standin.update(json.loads(Path(value).read_text()))
    elif key == "password":
        if value.startswith("+"):
            parameters[key] = Path(value[1:]).read_text().rstrip("\n")
        elif value.startswith("-") and value[1:].isdigit():
            parameters[key] = os.read(int(value[1:]), 4096).decode().rstrip("\n")
        else:
            raise RuntimeError("the password is on the command line")
    else:
        parameters[key] = value


def config_complete():
    seen = {
        "parameters": {key: value for key, value in parameters.items() if key != "password"},
        "argv": Path("/proc/self/cmdline").read_bytes().decode().split("\0"),
        "environment": Path("/proc/self/environ").read_bytes().decode().split("\0"),
        "pid": os.getpid(),
    }
    with Path(standin["log"]).open("a") as log:
        log.write(json.dumps(seen) + "\n")
    if parameters.get("password") != standin["password"]:
        raise RuntimeError("VixDiskLib: Login failed: wrong user name or password")


def _ask(verb, **fields):
    request = urllib.request.Request(
        f"{standin['url']}/simulator/{verb}",
        data=json.dumps(fields).encode() if fields else None,
        headers={"X-Simulator-Token": standin["token"]},
    )
    context = ssl.create_default_context(cafile=standin["ca_file"])
    with urllib.request.urlopen(request, context=context, timeout=60) as answer:
        return json.load(answer)


def open(readonly):  # noqa: A001 - nbdkit's name
    if not readonly:
        raise RuntimeError("it was not opened read-only")
    return 1


def _vm():
    return next(vm for vm in _ask("state")["vms"] if vm["moref"] == parameters["vm"].removeprefix("moref="))


def _disk():
    name = parameters["file"].rpartition("/")[2].removesuffix(".vmdk").partition("-0000")[0]
    number = name.rpartition("_")[2]
    return int(number) if number.isdigit() else 0


def get_size(h):
    return _vm()["disks"][_disk()] + standin.get("larger", 0)


def pread(h, buffer, offset, flags):
    reads.append(offset)
    dies = standin.get("dies")
    if dies and len(reads) > dies["after"] and (dies["always"] or not Path(dies["marker"]).exists()):
        Path(dies["marker"]).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    hangs = standin.get("hangs")
    if hangs and len(reads) > hangs["after"]:
        Path(hangs["marker"]).touch()
        threading.Event().wait()
    if fails := standin.get("fails"):
        raise RuntimeError(fails)
    data = bytearray(
        base64.b64decode(
            _ask(
                "read-disk",
                vm=_vm()["name"],
                disk=_disk(),
                offset=offset,
                length=len(buffer),
                snapshot=parameters.get("snapshot"),
            )
        )
    )
    if standin.get("wrong"):
        data[0] ^= 1
    buffer[:] = data
