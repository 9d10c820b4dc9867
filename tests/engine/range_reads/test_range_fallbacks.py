"""Ranges that cannot be read: another transport or a clear error, and nothing is left of either."""

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import hyperexport
from hyperexport.errors import TransportUnavailable, UsageError
from hyperexport.formats.vmdk import GRAIN
from hyperexport.jobs.direct import DirectRunner
from hyperexport.jobs.reap import reap_snapshots
from hyperexport.model.transport import Transport
from hyperexport.options.precedence import ExportOptions, resolve
from hyperexport.simulator import Fault, FaultKind, Simulator
from hyperexport.steps import plan
from tests.chains import Place
from tests.engine.nbdkit_tool import Nbdkit
from tests.engine.ranges import OFF, ON, SIZE, change, disk_of, is_the_guests


def snapshots_asked_for(vcenter: Simulator) -> int:
    return sum(count for method, count in vcenter.requests.items() if method.startswith("CreateSnapshot"))


def no_export_began(vcenter: Simulator, name: str, place: Place, exports: int) -> None:
    assert vcenter.vm(name).snapshots() == []
    assert len(place.store.exports()) == exports
    assert vcenter.leases() == []


def test_a_host_that_refuses_costs_one_request_and_the_result_says_so(vcenter: Simulator, place: Place) -> None:
    place.export(ON)
    change(vcenter, ON)
    vcenter.folder.requests.clear()
    result = place.export(ON)
    entry = disk_of(result)
    assert (entry.transport, len(entry.chain), result.manifest.warnings) == (Transport.LEASE, 1, ())
    why = result.plan.disks[0].why
    assert "read by lease (datastore: the server answered 500" in why
    assert "nbdkit: --nbdkit-plugin was not given" in why
    assert [each.status for each in vcenter.folder.requests] == [200, 500]


def test_a_dry_run_says_how_a_disk_would_be_read(vcenter: Simulator, place: Place) -> None:
    place.export(OFF)
    change(vcenter, OFF)
    planned = place.export(OFF, dry_run=True).plan
    assert planned.disks[0].transport is Transport.DATASTORE
    assert "read by datastore" in planned.disks[0].why
    assert planned.transfer_bytes == place.export(OFF).plan.transfer_bytes < SIZE


def test_a_disk_that_is_gone_when_change_tracking_is_asked_is_not_read_in_ranges(
    vcenter: Simulator, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.export(OFF)
    change(vcenter, OFF)
    monkeypatch.setattr(plan, "read_disks", lambda *_: ())
    result = place.export(OFF)
    assert disk_of(result).transport is Transport.LEASE
    assert "the disk was removed from the VM meanwhile" in result.plan.disks[0].why


def test_a_transport_that_was_asked_for_and_cannot_work_is_an_error_before_anything_moves(
    vcenter: Simulator, place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place.export(ON)
    change(vcenter, ON)
    before = vcenter.most_at_once(), vcenter.requests.get("ExportSnapshot")
    with pytest.raises(TransportUnavailable, match=r"datastore cannot read Hard disk 1 .*500"):
        place.export(ON, transport="datastore")
    no_export_began(vcenter, ON, place, 1)
    snapshots = snapshots_asked_for(vcenter)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TransportUnavailable, match="nbdkit is not installed"):
        place.export(ON, transport="nbdkit")
    no_export_began(vcenter, ON, place, 1)
    assert snapshots_asked_for(vcenter) == snapshots > 0
    assert (vcenter.most_at_once(), vcenter.requests.get("ExportSnapshot")) == before


def test_a_range_transport_needs_an_incremental_export(place: Place) -> None:
    with pytest.raises(UsageError, match="--transport nbdkit needs --incremental"):
        hyperexport.export(ON, transport="nbdkit", output=place.options["output"])


def test_an_nbdkit_that_refuses_the_login_says_why(vcenter: Simulator, place: Place, nbdkit: Nbdkit) -> None:
    place.export(ON)
    change(vcenter, ON)
    nbdkit.set(password="another")
    with pytest.raises(TransportUnavailable, match="Login failed: wrong user name or password"):
        place.export(ON, transport="nbdkit")
    no_export_began(vcenter, ON, place, 1)
    nbdkit.set(password=vcenter.password, larger=512)
    with pytest.raises(TransportUnavailable, match=f"{SIZE + 512} bytes by nbdkit"):
        place.export(ON, transport="nbdkit")
    assert nbdkit.alive == []


def test_an_nbdkit_that_dies_is_started_again(vcenter: Simulator, place: Place, nbdkit: Nbdkit, tmp_path: Path) -> None:
    place.export(ON)
    change(vcenter, ON)
    nbdkit.die(after=4)
    result = place.export(ON, transport="nbdkit")
    assert (disk_of(result).transport, result.manifest.warnings) == (Transport.NBDKIT, ())
    assert len(nbdkit.started) == 3  # planned, killed, and again
    is_the_guests(vcenter, place, ON, tmp_path)
    assert nbdkit.alive == []


def test_an_nbdkit_that_dies_again_and_again_gives_way_to_the_lease(
    vcenter: Simulator, place: Place, nbdkit: Nbdkit, tmp_path: Path
) -> None:
    place.export(ON)
    change(vcenter, ON)
    nbdkit.die(after=0, always=True)
    result = place.export(ON, transport="nbdkit")
    assert (disk_of(result).transport, len(disk_of(result).chain)) == (Transport.LEASE, 1)
    assert any("read whole by its lease, not in ranges by nbdkit" in one for one in result.manifest.warnings)
    is_the_guests(vcenter, place, ON, tmp_path)
    assert nbdkit.alive == []
    assert vcenter.vm(ON).snapshots() == []


def test_a_datastore_that_fails_midway_gives_way_to_the_lease(vcenter: Simulator, place: Place, tmp_path: Path) -> None:
    place.export(OFF)
    change(vcenter, OFF)
    vcenter.faults.add(Fault(FaultKind.FOLDER_WHOLE, vm=OFF, times=0))
    result = place.export(OFF)  # found when the plan is made
    assert disk_of(result).transport is Transport.LEASE
    assert "ignores ranges" in result.plan.disks[0].why
    vcenter.faults.clear()
    change(vcenter, OFF, seed="2")
    vcenter.faults.add(Fault(FaultKind.FOLDER_SHORT, vm=OFF, at_byte=30 * GRAIN, times=0))
    result = place.export(OFF)
    assert disk_of(result).transport is Transport.LEASE
    assert any("not in ranges by datastore" in one for one in result.manifest.warnings)
    is_the_guests(vcenter, place, OFF, tmp_path)


def test_the_password_is_nowhere_and_nothing_is_left(
    vcenter: Simulator, place: Place, nbdkit: Nbdkit, temporary: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place.export(ON)
    change(vcenter, ON)
    with caplog.at_level(logging.DEBUG):
        place.export(ON, transport="nbdkit")
    assert nbdkit.started
    for start in nbdkit.started:
        parameters = start["parameters"]
        assert not any(vcenter.password in text for text in (*start["argv"], *start["environment"]))
        assert parameters["server"] == vcenter.host
        assert parameters["port"] == str(vcenter.port)
        assert parameters["user"] == vcenter.username
        assert parameters["vm"] == f"moref={vcenter.vm(ON).moref}"
        assert parameters["snapshot"].startswith("snapshot-")
        assert parameters["transports"] == "nbdssl:nbd"
        assert len(parameters["thumbprint"]) == 20 * 3 - 1
        assert "--readonly" in start["argv"]
    assert vcenter.password not in caplog.text
    assert nbdkit.alive == []
    assert list(temporary.iterdir()) == []


EXPORT = "import sys, hyperexport; hyperexport.export({vm!r}, output={root!r}, {options})"


def test_an_export_that_is_killed_while_nbdkit_waits_for_a_read_leaves_nothing(
    vcenter: Simulator, place: Place, nbdkit: Nbdkit, temporary: Path, tmp_path: Path
) -> None:
    place.export(ON)
    change(vcenter, ON)
    root = Path(place.store.url)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    hangs = nbdkit.hang(after=4)
    options = "snapshot=True, incremental=True, transport='nbdkit'"
    code = EXPORT.format(vm=ON, root=str(root), options=options)
    with subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"TMPDIR": str(temporary)}) as export:
        while not hangs.exists():
            assert export.poll() is None
            time.sleep(0.01)
        assert (len(nbdkit.alive), len(vcenter.vm(ON).snapshots()), len(place.store.abandoned())) == (1, 1, 1)
        export.kill()
    while nbdkit.alive:  # it is killed; a test that does not go on here has failed
        time.sleep(0.01)
    assert list(temporary.iterdir()) == []
    assert {path: path.read_bytes() for path in before} == before

    nbdkit.set(hangs=None)
    assert reap_snapshots(DirectRunner(), resolve(ExportOptions.from_keys({"output": str(root)})).options).failed == ()
    assert vcenter.vm(ON).snapshots() == []
    assert place.store.abandoned() == []
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    result = place.export(ON, transport="nbdkit")
    assert (disk_of(result).transport, len(disk_of(result).chain), nbdkit.alive) == (Transport.NBDKIT, 1, [])
    is_the_guests(vcenter, place, ON, tmp_path)
