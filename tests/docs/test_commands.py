"""Every command line of the documentation is run as it stands, page by page, each page in a folder of its own.

What stands for the outside world is put in by the environment, or named in ``World.line``. A line that cannot be run
here is in ``ELSEWHERE``, with the reason or the test that runs it; a new line is in neither, and so it is run.
"""

import os
import re
import shlex
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest
from prefect.settings import get_current_settings

from hyperexport.cli.arguments import parse
from hyperexport.cli.main import run
from hyperexport.errors import UsageError
from hyperexport.simulator import Simulator
from hyperexport.store.local import LocalStore
from tests.docs.commands import commands, mentioned
from tests.docs.conftest import LOGIN
from tests.engine.s3_servers import S3Server
from tests.flows.smtp_server import Postbox

pytestmark = [pytest.mark.docs, pytest.mark.timeout(180)]

ELSEWHERE = {
    r"hyperexport serve": "it serves until it is stopped: tests/flows/test_schedules.py, test_jobs_api.py",
    r"hyperexport metrics --listen": "it serves until it is stopped: tests/engine/test_metrics_server.py",
    r"hyperexport nbd": "it serves until it is stopped: tests/engine/test_reading_commands.py",
    r"hyperexport files .*/disk0p1": "the pages' guests have no filesystem: tests/engine/test_reading_commands.py",
    r"hyperexport drill": "the pages' guests start in the simulator only: tests/engine/test_drill.py",
    r"hyperexport simulate": "it serves until it is stopped: tests/engine/test_simulator_process.py",
    r"hyperexport .*slack-webhook/": "Slack would be asked: tests/flows/test_notifiers.py has a server of its own",
    r"curl .*/api/v1/jobs": "tests/flows/test_jobs_api.py sends the documented request",
    r"hyperexport .*--spread": "it needs workers: tests/scale/test_fleet_over_workers.py has three",
    r"docker compose|prefect server": "tests/scale/servers.py starts the same server without containers",
    r"export ": "the reader's own values; the pages' worlds have theirs",
    r"prefect (deploy|work-pool|block|worker) ": "tests/flows/test_deployments.py, from the root of a clone",
    r"python -m hyperexport.deployments": "tests/flows/test_deployments.py",
    r"hyperexport schedules resume (backup|reap)": "tests/flows/test_deployments.py has them in place",
    r"([A-Z_]+=\S+ )*make": "CI runs the targets themselves",
    r"python -m (pytest|benchmarks)|pre-commit": "what it runs is run by CI, or takes long",
    r"hyperexport check ": "what it finds depends on the schedules that other pages made: tests/flows/test_check.py",
    r"govc ": "tests/conformance/test_govc_simulator.py",
    r"find backups": "it shows files",
}


class World:
    """Where a page's commands are run."""

    def __init__(self, folder: Path, s3: S3Server, postboxes: dict[bool, Postbox]) -> None:
        self.folder = folder
        self._s3 = s3
        self._postboxes = postboxes
        self._buckets: set[str] = set()

    def run(self, line: str) -> int:
        """Run a line as a shell would, in this process where it needs no shell."""
        line = self.line(line)
        if not re.search(r"[|>$~]|^[A-Z_]+=", line):
            return run(shlex.split(line)[1:])
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        settings = {"PATH": path, "PREFECT_API_URL": str(get_current_settings().api.url), "HOME": str(self.folder)}
        return subprocess.run(["bash", "-o", "pipefail", "-c", line], env={**os.environ, **settings}).returncode

    def line(self, line: str) -> str:
        """The line with this world's own names in place of the reader's."""
        line = re.sub(r"/srv/www/|/var/lib/node_exporter/", "", line.replace("/srv/exports", "exports"))
        line = line.replace("smtp.example.com", "localhost")
        if re.search(r"EXPORT|20261123T065304Z-00ff", line):
            newest = LocalStore(self.folder / "exports").exports()[0]
            line = re.sub(r"\bEXPORT\b|20261123T065304Z-00ff", newest.export_id, line)
        for bucket in re.findall(r"s3://([a-z0-9-]+)", line):
            if bucket not in self._buckets:
                self._buckets.add(bucket)
                self._s3.make_bucket(bucket)
        os.environ["HYPEREXPORT_SMTP_PORT"] = str(self._postboxes["--email-username" in line].port)
        return line


@pytest.fixture
def world(
    vcenter: Simulator,
    s3: S3Server,
    postboxes: dict[bool, Postbox],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> World:
    """A folder with an export of db01 in its store, and servers for whatever the page asks for."""
    monkeypatch.chdir(tmp_path)
    for folder in (".local/share/bash-completion/completions", ".zfunc", ".config/fish/completions"):
        (tmp_path / folder).mkdir(parents=True)
    authorities = tmp_path / "mail-ca.pem"
    authorities.write_bytes(b"".join(postbox.ca_file.read_bytes() for postbox in postboxes.values()))
    for name, value in {
        "AWS_ACCESS_KEY_ID": s3.access_key,
        "AWS_SECRET_ACCESS_KEY": s3.secret_key,
        "AWS_CA_BUNDLE": str(s3.ca_file),
        "HYPEREXPORT_S3_ENDPOINT": s3.endpoint_url,
        "SSL_CERT_FILE": str(authorities),
        "HYPEREXPORT_SMTP_HOST": "localhost",
        "HYPEREXPORT_SMTP_PORT": "0",
        "HYPEREXPORT_EMAIL_FROM": LOGIN[0],
        "HYPEREXPORT_EMAIL_TO": "admin@example.com",
        "HYPEREXPORT_EMAIL_PASSWORD": LOGIN[1],
    }.items():
        monkeypatch.setenv(name, value)
    return World(tmp_path, s3, postboxes)


BY_PAGE = {page: [command.line for command in found] for page, found in groupby(commands(), lambda each: each.page)}
HERE = {
    page: here
    for page, lines in BY_PAGE.items()
    if (here := [line for line in lines if not any(re.match(pattern, line) for pattern in ELSEWHERE)])
}


@pytest.mark.parametrize("page", HERE)
def test_the_commands_of_a_page_do_what_they_are_shown_for(
    world: World, page: str, vcenter: Simulator, capsys: pytest.CaptureFixture[str]
) -> None:
    assert world.run("hyperexport --vm db01 --snapshot --incremental --output exports --quiet") == 0
    failed: list[str] = []
    for line in HERE[page]:
        if line.startswith("hyperexport --vm db01 --consolidate-snapshots"):
            vcenter.vm("db01").power_off()  # the page says so
        if line.startswith("hyperexport verify --deep --upload s3://bucket/prefix"):
            assert world.run("hyperexport --vm db01 --snapshot --upload s3://bucket/prefix --quiet") == 0
        capsys.readouterr()
        if world.run(line):
            failed.append(f"{line}\n{capsys.readouterr().err}")
    assert not failed, "\n".join(failed)


def test_every_reason_for_not_running_a_line_is_needed() -> None:
    lines = [line for lines in BY_PAGE.values() for line in lines]
    assert [pattern for pattern in ELSEWHERE if not any(re.match(pattern, line) for line in lines)] == []


def test_the_tutorial_starts_what_keeps_schedules_before_it_makes_one() -> None:
    lines = next(lines for page, lines in BY_PAGE.items() if page.endswith("tutorial.md"))
    assert lines.index("hyperexport serve") < next(n for n, line in enumerate(lines) if "--daemon-schedule" in line)


def test_a_command_within_a_sentence_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPEREXPORT_UPLOAD", "s3://bucket")
    refused: list[str] = []
    for command in mentioned():
        if command.line in {"hyperexport preserve", "hyperexport nbd", "hyperexport files"}:
            continue  # the name of a command, which wants an export
        try:
            parse(shlex.split(command.line)[1:])
        except UsageError as error:
            refused.append(f"{command.page}: {command.line}: {error}")
    assert refused == []
