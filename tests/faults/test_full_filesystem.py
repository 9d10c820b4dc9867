"""A filesystem without a free byte, with the store, the home and the temporary folder on it: what frees room works, in
processes of their own, from Python and from the command line."""

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

import hyperexport
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from hyperexport.store.local import LocalStore

MIB = 1 << 20

CLEANUP = "print(hyperexport.cleanup_exports(output=store, cleanup=True, cleanup_max_count=1)[0].failed)"
CLI = [sys.executable, "-m", "hyperexport.cli.main"]

LEAVE_A_STAGING = """
import os
from hyperexport.model.manifest import new_export_id
from hyperexport.model.ownership import Owner
from hyperexport.store.local import LocalStore
from datetime import UTC, datetime
from pathlib import Path
import sys
store = LocalStore(Path(sys.argv[1]))
owner = Owner.of_this_process(run="killed", vcenter="vc", vm="vm-1")
staging = store.stage(sys.argv[2], new_export_id(datetime.now(UTC)), owner)
staging.__enter__()
staging.put("db01-disk-0.vmdk", b"x" * 100_000)
os._exit(9)
"""


class Place(NamedTuple):
    """A small filesystem, and what a process finds that has everything on it."""

    root: Path
    environment: dict[str, str]

    @property
    def store(self) -> Path:
        return self.root / "exports"

    def names(self) -> list[str]:
        return [str(export) for export in LocalStore(self.store).exports()]

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=self.environment, cwd=self.root, capture_output=True, text=True, timeout=240, check=False
        )

    def python(self, code: str) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-c", f"import hyperexport\nstore = {str(self.store)!r}\n{code}")

    def free(self) -> int:
        found = os.statvfs(self.root)
        return found.f_bavail * found.f_frsize


def fill(root: Path) -> None:
    """Write until not one more byte fits, and no other file can be made to hold one."""
    with suppress(OSError), (root / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 4096)
    with pytest.raises(OSError, match="No space left"):
        (root / "one-byte").write_bytes(b"x")
    (root / "one-byte").unlink(missing_ok=True)


@pytest.fixture
def vcenter(monkeypatch: pytest.MonkeyPatch) -> Generator[Simulator]:
    with Simulator([VmSpec("db01", disks=(DiskSpec(4 * MIB, used=0.2),))]) as simulator:
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        yield simulator


@pytest.fixture
def full(tmp_path: Path, vcenter: Simulator) -> Generator[Place]:
    """Three exports and a staging of a killed run, on a filesystem that is full to the last byte."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small filesystem")
    root = tmp_path / "small"
    root.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", root], check=False).returncode:
        pytest.skip("no filesystem can be mounted here")
    try:
        (root / "home").mkdir()
        (root / "tmp").mkdir()
        homes = {"HOME": root / "home", "TMPDIR": root / "tmp", "XDG_STATE_HOME": root / "home" / "state"}
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PREFECT", "XDG_", "HYPEREXPORT")) and name not in ("TEMP", "TMP")
        }
        environment = {**clean, **vcenter.environment(), **{name: str(path) for name, path in homes.items()}}
        place = Place(root, environment)
        for _ in range(3):
            hyperexport.export("db01", output=place.store, snapshot=True)
        folder = place.names()[0].partition("/")[0]
        assert place.run(sys.executable, "-c", LEAVE_A_STAGING, place.store, folder).returncode == 9
        assert len(LocalStore(place.store).abandoned()) == 1
        fill(root)
        yield place
    finally:
        subprocess.run(["umount", "--lazy", root], check=True)


@pytest.mark.parametrize("face", ["python", "command line"])
def test_a_cleanup_deletes_old_exports_and_what_a_killed_run_left(full: Place, face: str) -> None:
    newest = full.names()[0]
    words = ("--cleanup", "--cleanup-max-count=1", f"--output={full.store}", "--quiet")
    done = full.python(CLEANUP) if face == "python" else full.run(*CLI, *words)

    assert done.returncode == 0, done.stderr
    assert full.names() == [newest]
    assert LocalStore(full.store).abandoned() == []
    assert full.free() > MIB
    files = {path.name for path in full.store.rglob("*") if path.is_file()}
    assert not any(name.startswith(".") for name in files), files


@pytest.mark.parametrize("face", ["python", "command line"])
def test_an_export_fails_in_words_and_leaves_neither_a_file_nor_a_snapshot(
    full: Place, vcenter: Simulator, face: str
) -> None:
    before = full.names()
    if face == "python":
        done = full.python("hyperexport.export('db01', output=store, snapshot=True)")
    else:
        done = full.run(*CLI, "--vm=db01", "--snapshot", f"--output={full.store}", "--quiet")

    assert done.returncode != 0
    assert "No space left on device" in done.stderr
    assert "--cleanup" in done.stderr
    assert full.names() == before
    assert vcenter.vm("db01").snapshots() == []


@pytest.mark.parametrize("face", ["python", "command line"])
def test_a_verification_finds_what_it_can_and_says_what_it_could_not_record(full: Place, face: str) -> None:
    rotten = full.names()[1]
    (disk,) = (full.store / rotten).glob("*.vmdk")
    with disk.open("r+b") as file:
        file.seek(70_000)
        byte = file.read(1)
        file.seek(70_000)
        file.write(bytes([byte[0] ^ 1]))
    if face == "python":
        done = full.python("hyperexport.verify_exports(output=store)")
    else:
        done = full.run(*CLI, "verify", f"--output={full.store}")

    assert done.returncode != 0
    text = done.stdout + done.stderr
    assert rotten.partition("/")[2] in text
    assert disk.name in text
    assert "No space left" in text or "could not be recorded" in text
    assert len(full.names()) == 3
