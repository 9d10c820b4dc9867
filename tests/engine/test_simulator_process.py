"""A simulator in a process of its own: announced by a file, driven by its control, ended by a signal."""

import json
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hyperexport.simulator import Fault, FaultKind
from hyperexport.simulator.control import Control
from tests.peers import ROOT


@pytest.fixture
def process(tmp_path: Path):
    """A simulator with one VM, and what its ready file says."""
    ready = tmp_path / "ready.json"
    command = [
        sys.executable,
        "-m",
        "hyperexport.simulator",
        "--vms",
        "1",
        "--disk-size",
        "2097152",
        "--ready-file",
        str(ready),
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        deadline = time.monotonic() + 90
        while not ready.exists():
            assert child.poll() is None, child.stderr.read()
            assert time.monotonic() < deadline, "the simulator does not become ready"
            time.sleep(0.02)
        try:
            yield child, ready
        finally:
            child.kill()


@pytest.fixture
def control(process):
    ready = json.loads(process[1].read_text())
    return Control(ready["url"], ready["token"], ca_file=ready["ca_file"])


def test_the_ready_file_is_for_its_owner_only_and_tells_all(process):
    ready = json.loads(process[1].read_text())
    assert set(ready) == {"url", "username", "password", "ca_file", "thumbprint", "token"}
    assert stat.S_IMODE(process[1].stat().st_mode) == 0o600


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_and_silently(process, number):
    child, ready = process
    secrets = json.loads(ready.read_text())
    child.send_signal(number)
    out, err = child.communicate(timeout=90)
    assert child.returncode == 0
    assert out == b""
    assert b"Traceback" not in err
    assert secrets["password"].encode() not in err
    assert secrets["token"].encode() not in err


def test_everything_can_be_driven_from_outside(control, tmp_path):
    control.guest_write("vm-01", 1, 4096, b"written")
    moref = control.take_snapshot("vm-01", "mine", "of a user")
    control.guest_write("vm-01", 1, 4096, b"changed")
    assert control.read_disk("vm-01", 1, 4096, 7) == b"changed"
    assert control.read_disk("vm-01", 1, 4096, 7, moref) == b"written"
    control.save_raw("vm-01", 1, tmp_path / "raw", moref)
    raw = (tmp_path / "raw").read_bytes()
    assert len(raw) == 2097152
    assert raw[4096:4103] == b"written"
    control.power_off("vm-01")
    control.add_fault(Fault(FaultKind.SESSION_EXPIRED))
    state = control.state()
    (vm,) = state["vms"]
    assert vm["power"] == "poweredOff"
    assert [(each["moref"], each["name"], each["description"]) for each in vm["snapshots"]] == [
        (moref, "mine", "of a user")
    ]
    assert [fault["kind"] for fault in state["fired"]] == ["session-expired"]
    assert state["leases"] == state["sessions"] == []
    control.clear_faults()
    control.remove_snapshot("vm-01", moref)
    control.power_on("vm-01")
    (vm,) = control.state()["vms"]
    assert (vm["power"], vm["snapshots"]) == ("poweredOn", [])


def test_nonsense_is_refused_in_words(control):
    with pytest.raises(ValueError, match="KeyError"):
        control.power_on("nobody")
    with pytest.raises(ValueError, match="do not fit"):
        control.guest_write("vm-01", 0, 2097152, b"beyond")


def test_without_the_token_nothing_is_answered(process):
    ready = json.loads(process[1].read_text())
    with pytest.raises(ValueError, match="token"):
        Control(ready["url"], "wrong", ca_file=ready["ca_file"]).state()
