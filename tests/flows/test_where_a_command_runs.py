"""A command believes only a service that lives, mails without a Prefect server, and leaves no process behind."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from hyperexport.model.ownership import identity_of
from hyperexport.simulator import Simulator
from tests.flows.smtp_server import Postbox, closed_port, smtp_server, text_of
from tests.flows.support import exports_in, leftovers

pytestmark = pytest.mark.usefixtures("vcenter")
MAIL = ("--email-notify", "--email-to", "ops@example.com", "--email-from", "backup@example.com", "--email-tls", "none")


def command(home: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, with this Prefect home and no Prefect API configured."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "HYPEREXPORT_"))}
    return subprocess.run(
        [sys.executable, "-m", "hyperexport.cli.main", *words],
        cwd=home.parent,
        env={**inherited, "PREFECT_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def processes_of(home: Path) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for process in psutil.process_iter(["environ"]):
        environment: dict[str, str] = process.info["environ"] or {}
        if environment.get("PREFECT_HOME") == str(home):
            found.append(process)
    return found


# -- what a dead service left ------------------------------------------------------------------------------------------


class _Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"true")

    def log_message(self, *_words: object) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Say nothing."""


@contextmanager
def something_that_answers() -> Generator[str]:
    """An address where a request for its health is answered, as by a server that took the port since."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Healthy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()


def announce(home: Path, **facts: object) -> None:
    home.mkdir(exist_ok=True)
    path = home / "hyperexport-serve.json"
    path.write_text(json.dumps({"pid": os.getpid(), "process": str(identity_of(os.getpid())), **facts}))
    path.chmod(0o600)


def _ended_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def _of_another_boot() -> str:
    own = identity_of(os.getpid())
    assert own is not None
    return str(own).replace(own.boot, "00000000-0000-0000-0000-000000000000")


def test_a_service_is_believed_that_lives_and_answers(tmp_path: Path) -> None:
    with something_that_answers() as url:
        announce(tmp_path / "prefect", url=url)
        assert f"runs=as a flow run of {url}" in command(tmp_path / "prefect", "config", "--quiet").stdout


@pytest.mark.sample("number given again", "silent address", "not private")
@pytest.mark.parametrize("stale", ["dead process", "other boot", "number given again", "silent address", "not private"])
def test_a_file_that_a_dead_service_left_is_not_believed(tmp_path: Path, stale: str) -> None:
    home = tmp_path / "prefect"
    with something_that_answers() as url:
        cases: dict[str, dict[str, object]] = {
            "dead process": {"pid": _ended_process()},
            "other boot": {"process": _of_another_boot()},
            "number given again": {"pid": 1},  # a process that began at another moment
            "silent address": {"url": f"http://127.0.0.1:{closed_port()}/api"},
            "not private": {},
        }
        facts = cases[stale]
        announce(home, **{"url": url, **facts})
        if stale == "not private":
            (home / "hyperexport-serve.json").chmod(0o664)
        done = command(home, "--vm", "db01", "--snapshot", "--quiet", "--output", "exports")
        where = command(home, "config", "--quiet").stdout
    assert done.returncode == 0, done.stderr
    assert "runs=in its own process: no Prefect API is configured" in where
    assert len(exports_in(tmp_path / "exports")) == 1


@pytest.mark.sample("http_proxy")
@pytest.mark.parametrize("proxy", ["http_proxy", "HTTPS_PROXY", "all_proxy"])
def test_a_proxy_of_the_environment_does_not_hide_a_service_on_this_machine(tmp_path: Path, proxy: str) -> None:
    settings = {proxy: f"http://127.0.0.1:{closed_port()}", "NO_PROXY": "", "no_proxy": ""}
    with something_that_answers() as url:
        announce(tmp_path / "prefect", url=url)
        where = command(tmp_path / "prefect", "config", "--quiet", **settings).stdout
    assert f"runs=as a flow run of {url}: hyperexport serve is running" in where


def test_a_service_of_another_user_is_not_believed(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give a file to another user")
    with something_that_answers() as url:
        announce(tmp_path / "prefect", url=url)
        os.chown(tmp_path / "prefect" / "hyperexport-serve.json", 12345, 12345)
        assert "runs=in its own process" in command(tmp_path / "prefect", "config", "--quiet").stdout


# -- what is configured ------------------------------------------------------------------------------------------------


def test_a_prefect_profile_counts_and_no_prefect_forces_the_own_process(tmp_path: Path) -> None:
    home = tmp_path / "prefect"
    home.mkdir()
    url = f"http://127.0.0.1:{closed_port()}/api"
    (home / "profiles.toml").write_text(f'active = "work"\n[profiles.work]\nPREFECT_API_URL = "{url}"\n')
    assert (
        f"runs=as a flow run of {url}: the active Prefect profile sets it" in command(home, "config", "--quiet").stdout
    )
    for forced in (("--no-prefect", {}), ("--quiet", {"HYPEREXPORT_NO_PREFECT": "1"})):
        done = command(home, "--vm", "db01", "--snapshot", "--output", "exports", forced[0], **forced[1])
        assert done.returncode == 0, done.stderr
    assert len(exports_in(tmp_path / "exports")) == 2


@pytest.mark.sample("--vm db01 *", "verify")
@pytest.mark.parametrize(
    "words",
    ["--vm db01 --snapshot", "verify", "--vm-info --vm db01", "schedules", "--list-profiles"],
)
def test_a_prefect_api_that_is_away_is_said_before_prefect_is_imported(tmp_path: Path, words: str) -> None:
    url = f"http://127.0.0.1:{closed_port()}/api"
    done = command(tmp_path / "prefect", *words.split(), PREFECT_API_URL=url)
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.splitlines()
    assert f"the Prefect API at {url} cannot be reached" in line
    assert "--no-prefect" in line
    assert line.endswith("[server-unreachable]")
    assert not (tmp_path / "prefect").exists()  # Prefect makes it when it is imported


# -- no process stays --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("--vm db01 --snapshot --output exports", 0),
        ("--vm nosuch --snapshot --output exports", 1),
        ("--match db* --snapshot --verify --output exports", 0),
        ("check --vm db01 --snapshot --output exports", 0),
        ("--vm db01 --snapshot --spread --output exports", 2),
    ],
)
def test_a_command_leaves_no_process(tmp_path: Path, vcenter: Simulator, words: str, code: int) -> None:
    home = tmp_path / "prefect"
    done = command(home, *words.split())
    assert done.returncode == code, done.stderr
    assert processes_of(home) == []
    assert leftovers(vcenter, tmp_path / "exports") == []
    assert not home.exists()


# -- mail without a server of Prefect's --------------------------------------------------------------------------------


@pytest.fixture
def postbox(tmp_path: Path) -> Generator[Postbox]:
    with smtp_server(tmp_path, login=("backup", "s3cret-mail")) as server:
        yield server


def test_a_command_mails_start_and_success_directly(tmp_path: Path, postbox: Postbox) -> None:
    done = _mailing(tmp_path, postbox, "--vm", "db01", "--email-on-start")
    assert done.returncode == 0, done.stderr
    started, succeeded = postbox.messages
    assert "db01" in str(started["Subject"])
    assert exports_in(tmp_path / "exports")[0].export_id in text_of(succeeded)
    assert str(started["Subject"]) != str(succeeded["Subject"])
    assert postbox.recipients == [["ops@example.com"]] * 2
    assert postbox.users == ["backup"] * 2
    assert "s3cret-mail" not in done.stdout + done.stderr


def test_a_command_mails_a_failure_directly_with_its_reason(tmp_path: Path, postbox: Postbox) -> None:
    done = _mailing(tmp_path, postbox, "--vm", "nosuch", "--email-on-start")
    assert done.returncode == 1
    mail = postbox.only()
    assert "nosuch" in str(mail["Subject"])
    assert "vm-not-found" in text_of(mail)


def test_a_command_mails_directly_as_a_test(tmp_path: Path, postbox: Postbox) -> None:
    done = _mailing(tmp_path, postbox, "send-test-email")
    assert done.returncode == 0, done.stderr
    assert len(postbox.messages) == 1


def test_a_mail_server_that_is_away_costs_no_export(tmp_path: Path, postbox: Postbox) -> None:
    postbox.port = closed_port()
    done = _mailing(tmp_path, postbox, "--vm", "db01", "--email-on-start")
    assert done.returncode == 0, done.stderr
    assert "was not sent" in done.stderr
    assert len(exports_in(tmp_path / "exports")) == 1


def _mailing(folder: Path, postbox: Postbox, *words: str) -> subprocess.CompletedProcess[str]:
    mail = (*MAIL, "--email-smtp-host=127.0.0.1", f"--email-smtp-port={postbox.port}", "--email-username", "backup")
    exporting = words[0] != "send-test-email"
    places = ("--snapshot", "--output", str(folder / "exports")) if exporting else ()
    return command(folder / "prefect", *words, *mail, *places, HYPEREXPORT_EMAIL_PASSWORD="s3cret-mail")


# -- what only a server can do -----------------------------------------------------------------------------------------


def test_a_webhook_without_a_server_is_refused_in_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    words = ("--vm", "db01", "--snapshot", "--notify-webhook", "slack-webhook/ops", "--output", "exports")
    done = command(tmp_path / "prefect", *words)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "--notify-webhook" in line
    assert "hyperexport serve" in line
    assert not (tmp_path / "exports").exists()
