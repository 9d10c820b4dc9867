"""What an nbdkit that fails says: its reason is shown, the password is not."""

import json
import shlex
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from pydantic import SecretStr

from hyperexport.base.stop import StopSignal
from hyperexport.errors import TransportUnavailable
from hyperexport.nbd.nbdkit import NbdkitDisk, NbdkitSource
from hyperexport.simulator import Simulator
from hyperexport.transfer import ranges
from tests.chains import Place
from tests.engine.nbdkit_tool import Nbdkit
from tests.engine.ranges import ON, SIZE, change

PASSWORD = """it's 50% "of" p@ss/w\\rd"""


@pytest.mark.parametrize("before", [0, 285, 300], ids=["short", "cut within the password", "cut before it"])
@pytest.mark.parametrize(
    "printed",
    [PASSWORD, quote(PASSWORD, safe=""), quote_plus(PASSWORD), json.dumps(PASSWORD), shlex.quote(PASSWORD)],
    ids=["as it is", "in an address", "in a form", "in a string", "for a shell"],
)
def test_a_password_that_nbdkit_prints_in_an_error_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int, printed: str
) -> None:
    (tmp_path / "said").write_text(f"{'x' * before}{printed}\n")
    program = tmp_path / "nbdkit"
    program.write_text(f"#!/bin/sh\ncat '{tmp_path}/said'\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    disk = NbdkitDisk("vddk", "vc", 443, "root", SecretStr(PASSWORD), "AB", "vm-1", None, "[a] b/b.vmdk", SIZE, "Disk")

    with pytest.raises(TransportUnavailable, match="nbdkit ended as it started") as caught:
        NbdkitSource(disk, stop=StopSignal())

    left = str(caught.value).replace("x", "")
    assert left in {f"nbdkit ended as it started ({mark})" for mark in ("***", '"***"', "'***'", '"***', "'***", "")}
    assert ("***" in left) == (before < 300)


def test_the_reason_for_a_read_that_failed_is_the_one_that_nbdkit_gives(
    vcenter: Simulator, place: Place, nbdkit: Nbdkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "_FIRST_PAUSE", 0)
    place.export(ON)
    change(vcenter, ON)
    nbdkit.set(fails="VixDiskLib_Read: host esx-07 is not reachable on port 902")
    warnings = place.export(ON, transport="nbdkit").manifest.warnings
    assert "VixDiskLib_Read: host esx-07 is not reachable on port 902" in warnings[0]
    assert nbdkit.alive == []
