"""A command without a Prefect API loads only what it uses, runs in its own process, and leaves none behind."""

import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import psutil
import pytest

from hyperexport.simulator import DiskSpec, Simulator, VmSpec

ROOT = Path(__file__).parents[2]
ALWAYS = ("prefect", "sqlalchemy", "fastapi", "httpx", "boto3", "jinja2", "prometheus_client")
"""What no command without Prefect, S3, a page or a mail may load."""
NO_PLAN = ("hyperexport.results", "hyperexport.policy", "hyperexport.verify", "hyperexport.notify", "smtplib", "ssl")
"""What a command may not load that neither plans, proves nor mails."""

PROGRAM = """
import sys
from hyperexport.cli.main import run
code = run(sys.argv[2:])
found = [name for name in sys.argv[1].split(",") if name in sys.modules]
print("LOADED", code, *found, file=sys.stderr)
"""


@pytest.fixture(scope="module")
def vcenter() -> Generator[Simulator]:
    with Simulator([VmSpec("db01", disks=(DiskSpec(4 << 20),)), VmSpec("db02", disks=(DiskSpec(4 << 20),))]) as server:
        yield server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, vcenter: Simulator) -> Path:
    """A folder with one export."""
    folder = tmp_path_factory.mktemp("home")
    command(vcenter, folder, (), "--vm", "db01", "--snapshot", "--output", "store")
    return folder


def command(vcenter: Simulator, folder: Path, forbidden: tuple[str, ...], *words: str) -> tuple[int, list[str], str]:
    """Run a command in a process of its own; its exit code, what it loaded of that, and its standard error."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_API")},
        **vcenter.environment(),
        "PYTHONPATH": str(ROOT),
        "PREFECT_HOME": str(folder / "prefect"),
        "XDG_CONFIG_HOME": str(folder / "config"),
    }
    call = [sys.executable, "-c", PROGRAM, ",".join(forbidden), *words]
    done = subprocess.run(call, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    code, *found = done.stderr.splitlines()[-1].removeprefix("LOADED ").split()
    return int(code), found, done.stderr


@pytest.mark.parametrize(
    ("words", "more", "code"),
    [
        ("--version", ("pydantic", "cyclopts", "rich", "pyVmomi"), 0),
        ("--help", ("pyVmomi", "pydantic_settings", "rich", "importlib.metadata", "hyperexport.results"), 0),
        ("list --help", ("pyVmomi", "pydantic_settings", "tenacity"), 0),
        ("config", ("pyVmomi", "tenacity"), 0),
        ("list --output store", (*NO_PLAN, "pyVmomi", "cryptography", "hyperexport.cli.export"), 0),
        ("list --output store --quiet", (*NO_PLAN, "pyVmomi", "cryptography", "rich.table"), 0),
        ("report --output store", ("pyVmomi", "cryptography"), 0),
        ("verify --output store", ("pyVmomi",), 0),
        ("convert --vm db01 --to raw --into raw --output store", ("pyVmomi",), 0),
        ("files --vm db01 --output store", ("pyVmomi",), 0),
        ("--cleanup --output store --cleanup-max-count 5", ("pyVmomi", "cryptography"), 0),
        ("--vm-info --vm db01", (), 0),
        ("--vm-info --vm db01 --quiet", (), 0),
        ("--vm nosuch --snapshot --dry-run", (), 1),
        ("--vm db01 --snapshot --output other", (), 0),
        ("--vm db01 --snapshot --output other --incremental-info", (), 0),
        ("--match db* --snapshot --output other", (), 0),
        ("reap-snapshots --output other", (), 0),
        ("check --vm db01 --snapshot --output other", (), 0),
        ("--save-profile nightly --incremental", ("pyVmomi",), 0),
        ("--list-profiles", ("pyVmomi",), 0),
        ("--vm db01 --daemon-schedule daily:0_2_*_*_*", ("pyVmomi",), 2),
    ],
)
def test_a_command_loads_only_what_it_uses(
    vcenter: Simulator, home: Path, words: str, more: tuple[str, ...], code: int
) -> None:
    given = [word.replace("_", " ") if word.startswith("daily:") else word for word in words.split()]
    ended, loaded, errors = command(vcenter, home, (*ALWAYS, *more), *given)
    assert (ended, loaded) == (code, []), errors


def test_what_imports_have_made_is_passed_over_and_the_rest_collected_as_usual() -> None:
    program = (
        "import gc; from hyperexport.base.garbage import spare_imports; spare_imports(); print(gc.get_threshold()[0]);"
        "gc.collect(); print(gc.get_threshold()[0], len(gc.callbacks)); before = gc.get_freeze_count();"
        "[].append(gc); gc.collect(); print(int(before > 1000), gc.get_freeze_count() - before)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    first, *after = map(int, done.stdout.split())
    assert first > 500_000, done.stderr
    assert after == [20_000, 0, 1, 0]


def test_a_command_leaves_no_process_and_no_prefect_behind(vcenter: Simulator, home: Path) -> None:
    before = {process.pid for process in psutil.process_iter()}
    code, _, errors = command(vcenter, home, (), "--match", "db*", "--snapshot", "--output", "third", "--verify")
    assert code == 0, errors
    after = [process for process in psutil.process_iter(["cmdline", "environ"]) if process.pid not in before]
    ours = [one for one in after if (one.info["environ"] or {}).get("PREFECT_HOME") == str(home / "prefect")]
    assert ours == []
    assert not (home / "prefect").exists()
    assert vcenter.sessions() == []


def test_what_needs_a_server_says_so_in_one_line_with_the_command_that_brings_one(
    vcenter: Simulator, home: Path
) -> None:
    needing = (
        "--vm db01 --daemon-schedule daily:0_2_*_*_*",
        "schedules",
        "automations",
        "--vm db01 --snapshot --spread",
        "--vm db01 --snapshot --bandwidth-shared wan --bandwidth-limit 5",
        "--vm db01 --snapshot --leases-per-host 2",
        "--vm db01 --snapshot --vsphere-block prod",
        "list --upload s3://bucket/prefix --s3-credentials aws-credentials/prod",
    )
    for words in needing:
        given = [word.replace("_", " ") if word.startswith("daily:") else word for word in words.split()]
        code, loaded, errors = command(vcenter, home, ("prefect", "boto3"), *given)
        (line,) = errors.splitlines()[:-1]
        assert (code, loaded) == (2, []), errors
        assert "needs a Prefect server" in line
        assert "hyperexport serve" in line
