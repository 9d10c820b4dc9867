"""What is built for others: a wheel and a source distribution that hold what is needed and nothing else."""

import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

import hyperexport
from tests.checkout import ROOT, copy_checkout

ROOMS = {"blocks", "cli", "deployments", "flows", "simulator", "tasks"}
"""Folders at the top of the checkout; in the package they lie in ``hyperexport``, so that they shadow nobody's."""
UV = Path(sys.executable).parent / "uv"


def run(*words: object, **keywords: Any) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, **keywords)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both, built from a copy of what is (or is about to be) under version control."""
    copy, dist = copy_checkout(tmp_path_factory.mktemp("source")), tmp_path_factory.mktemp("dist")
    run(UV, "build", "--offline", "--no-build-isolation", "--python", sys.executable, "--out-dir", dist, copy)
    return dist


def test_the_wheel_holds_the_rooms_with_their_data_and_no_tests(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry_points,) = [archive.read(name).decode() for name in names if name.endswith("entry_points.txt")]
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"hyperexport"}
    assert {name.split("/")[1] for name in names if name.startswith("hyperexport/")} >= ROOMS
    assert {"hyperexport/py.typed", "hyperexport/flows/py.typed", "hyperexport/views/templates/mail.html.j2"} <= names
    assert "hyperexport = hyperexport.cli.main:main" in entry_points
    data = {path.relative_to(ROOT).as_posix() for path in (ROOT / "hyperexport").rglob("*.j2")}
    assert data <= names


def test_the_source_distribution_builds_the_same_wheel(built: Path, tmp_path: Path) -> None:
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    run(UV, "build", "--wheel", "--offline", "--no-build-isolation", "--python", sys.executable, "-o", tmp_path, folder)
    (wheel,), (again,) = built.glob("*.whl"), tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        assert set(one.namelist()) == set(other.namelist())


def test_the_installed_wheel_gives_the_command(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    run(UV, "pip", "install", "--offline", "--no-deps", "--python", python, wheel)
    # Its dependencies are those of this environment; our own rooms come from the wheel, which is found first.
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (packages / "locked.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = tmp_path / "venv" / "bin" / "hyperexport"
    assert run(command, "--version", cwd=tmp_path).strip() == hyperexport.__version__
    assert "reap-snapshots" in run(command, "--help", cwd=tmp_path)
    where = run(python, "-c", "from hyperexport.cli import main; print(main.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(tmp_path)


def test_the_hooks_before_a_commit_are_valid_and_run_make_targets() -> None:
    run(Path(sys.executable).parent / "pre-commit", "validate-config", ROOT / ".pre-commit-config.yaml")
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    targets = (ROOT / "Makefile").read_text()
    for hook in local["hooks"]:
        make, target = hook["entry"].split()
        assert make == "make"
        assert f"\n{target}:" in targets


def test_prefect_finds_our_kinds_of_blocks_by_the_entry_point(tmp_path: Path) -> None:
    look = "from prefect.plugins import load_prefect_collections as load; print(*load()['hyperexport'].__all__)"
    assert {"VSphereCredentials", "ExportProfile"} <= set(run(sys.executable, "-c", look, cwd=tmp_path).split())
