"""A command without a Prefect API loads only what it uses, runs in its own process, and leaves none behind."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from hyperexport.simulator import DiskSpec, Simulator, VmSpec

ROOT = Path(__file__).parents[2]
ALWAYS = ("prefect", "sqlalchemy", "fastapi", "httpx", "boto3", "jinja2", "prometheus_client")
"""What no command without Prefect, S3, a page or a mail may load."""
NO_PLAN = ("hyperexport.results", "hyperexport.policy", "hyperexport.verify", "hyperexport.notify", "smtplib", "ssl")
"""What a command may not load that neither plans, proves nor mails."""

PROGRAM = """
import json, sys
from hyperexport.cli.main import run
for words in json.loads(sys.argv[2]):
    code = run(words)
    found = [name for name in sys.argv[1].split(",") if name in sys.modules]
    print("LOADED", code, *found, file=sys.stderr, flush=True)
"""


@pytest.fixture(scope="module")
def vcenter() -> Generator[Simulator]:
    with Simulator([VmSpec("db01", disks=(DiskSpec(4 << 20),)), VmSpec("db02", disks=(DiskSpec(4 << 20),))]) as server:
        yield server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, vcenter: Simulator) -> Path:
    """A folder with one export."""
    folder = tmp_path_factory.mktemp("home")
    commands(vcenter, folder, (), "--vm db01 --snapshot --output store")
    return folder


class Ran(NamedTuple):
    """A command that has ended: its exit code, what it or one before it loaded of what is forbidden, its errors."""

    code: int
    loaded: list[str]
    errors: str


def commands(vcenter: Simulator, folder: Path, forbidden: tuple[str, ...], *lines: str) -> list[Ran]:
    """Run commands one after the other in a process of their own. In a line, an underscore is a space in a schedule."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_API")},
        **vcenter.environment(),
        "PYTHONPATH": str(ROOT),
        "PREFECT_HOME": str(folder / "prefect"),
        "XDG_CONFIG_HOME": str(folder / "config"),
    }
    given = [[word.replace("_", " ") if word.startswith("daily:") else word for word in line.split()] for line in lines]
    call = [sys.executable, "-c", PROGRAM, ",".join(forbidden), json.dumps(given)]
    done = subprocess.run(call, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    *ended, rest = re.split(r"^LOADED (.*)\n", done.stderr, flags=re.MULTILINE)
    assert rest == "", done.stderr
    ran = []
    for errors, words in zip(ended[::2], ended[1::2], strict=True):
        code, *found = words.split()
        ran.append(Ran(int(code), found, errors))
    return ran


@pytest.mark.parametrize(
    ("more", "lines"),
    [
        (("pydantic", "cyclopts", "rich", "pyVmomi"), {"--version": 0}),
        (("pyVmomi", "pydantic_settings", "rich", "importlib.metadata", "hyperexport.results"), {"--help": 0}),
        (("pyVmomi", "pydantic_settings", "tenacity"), {"list --help": 0}),
        (("pyVmomi", "tenacity"), {"config": 0}),
        (
            (*NO_PLAN, "pyVmomi", "cryptography", "hyperexport.cli.export", "rich.table"),
            {"list --output store --quiet": 0},
        ),
        ((*NO_PLAN, "pyVmomi", "cryptography", "hyperexport.cli.export"), {"list --output store": 0}),
        (
            ("pyVmomi", "cryptography"),
            {"report --output store": 0, "--cleanup --output store --cleanup-max-count 5": 0},
        ),
        (
            ("pyVmomi",),
            {
                "verify --output store": 0,
                "convert --vm db01 --to raw --into raw --output store": 0,
                "files --vm db01 --output store": 0,
                "--save-profile nightly --incremental": 0,
                "--list-profiles": 0,
                "--vm db01 --daemon-schedule daily:0_2_*_*_*": 2,
            },
        ),
        (
            (),
            {
                "--vm-info --vm db01": 0,
                "--vm-info --vm db01 --quiet": 0,
                "--vm nosuch --snapshot --dry-run": 1,
                "--vm db01 --snapshot --output other": 0,
                "--vm db01 --snapshot --output other --incremental-info": 0,
                "--match db* --snapshot --output other": 0,
                "reap-snapshots --output other": 0,
                "check --vm db01 --snapshot --output other": 0,
            },
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_command_loads_only_what_it_uses(
    vcenter: Simulator, home: Path, more: tuple[str, ...], lines: dict[str, int]
) -> None:
    """Those of which the same is forbidden share a process: what none of them may load, none has loaded at its end."""
    ran = commands(vcenter, home, (*ALWAYS, *more), *lines)
    for (line, code), command in zip(lines.items(), ran, strict=True):
        assert (command.code, command.loaded) == (code, []), f"{line}: {command.errors}"


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
    (ran,) = commands(vcenter, home, (), "--match db* --snapshot --output third --verify")
    assert ran.code == 0, ran.errors
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
    for command in commands(vcenter, home, ("prefect", "boto3"), *needing):
        (line,) = command.errors.splitlines()
        assert (command.code, command.loaded) == (2, []), command.errors
        assert "needs a Prefect server" in line
        assert "hyperexport serve" in line
