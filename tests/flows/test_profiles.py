"""Options kept under a name: saved from flags, used from every face, and refused in words when they make no sense."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from prefect.testing.standard_test_suites.blocks import BlockStandardTestSuite

import hyperexport
from hyperexport.blocks import ExportProfile
from hyperexport.blocks.export_profile import delete_profile, load_profile, profile_name, saved_names
from hyperexport.cli.main import run
from hyperexport.errors import NotificationFailed, UsageError
from hyperexport.flows import export_vm, reap_snapshots, send_test_email
from hyperexport.options.precedence import ExportOptions
from tests.flows.support import exports_in


class TestTheBlock(BlockStandardTestSuite):
    @pytest.fixture
    def block(self):
        return ExportProfile

    test_has_a_valid_image: Any = None  # it would ask the internet for the logo


@pytest.fixture
def hyperexport_answers(capsys, no_profile_stays):
    """Runs a command line in this process: its exit code, standard output and standard error."""

    def answer(*words: str) -> tuple[int, str, str]:
        code = run(words)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return answer


@pytest.fixture
def no_profile_stays():
    yield
    for name in saved_names():
        delete_profile(name)


def test_a_profile_is_saved_listed_shown_and_deleted(hyperexport_answers):
    flags = ("--snapshot", "--incremental", "--bandwidth-limit", "20", "--email-notify", "--cleanup")
    code, out, err = hyperexport_answers("--save-profile", "production-backup", *flags)
    assert (code, err) == (0, "")
    assert out.startswith("saved production-backup: --snapshot=true")
    assert hyperexport_answers("--list-profiles", "--quiet")[1].splitlines() == [
        "profile=production-backup",
        "snapshot=true",
        "incremental=true",
        "bandwidth_limit=20.0",
        "cleanup=true",
        "email_notify=true",
    ]
    shown = json.loads(hyperexport_answers("--show-profile", "production-backup", "--json")[1])["profiles"]
    assert shown[0]["saved_with"] == hyperexport.__version__
    assert shown[0]["options"]["bandwidth_limit"] == 20
    assert hyperexport_answers("--delete-profile", "production-backup")[0] == 0
    assert hyperexport_answers("--list-profiles")[1] == "no profiles\n"
    code, _, err = hyperexport_answers("--show-profile", "production-backup")
    assert (code, "there is no profile production-backup" in err) == (2, True)


def test_a_profile_is_saved_over_another_one(hyperexport_answers):
    hyperexport_answers("--save-profile", "base", "--snapshot", "--parallel=2")
    hyperexport_answers("--save-profile", "more", "--profile", "base", "--parallel=3", "--verify")
    assert load_profile("more").options == {"snapshot": True, "verify": "on", "parallel": 3}
    assert load_profile("base").options == {"snapshot": True, "parallel": 2}


def test_a_profile_completes_what_flags_leave_open_and_never_wins_over_them(
    vcenter, store, hyperexport_answers, monkeypatch
):
    monkeypatch.setenv("HYPEREXPORT_VERIFY", "off")
    words = ("--snapshot", "--verify", "--bandwidth-limit=500", "--output", str(store))
    hyperexport_answers("--save-profile", "Nightly backup", *words)
    code, out, err = hyperexport_answers("--profile", "nightly_backup", "--vm=db01", "--bandwidth-limit=400", "--quiet")
    assert code == 0, err
    assert "verified=" in out.splitlines()  # the environment said so
    (export,) = exports_in(store)
    assert export.manifest.transfer.limit == 400 * (1 << 20)  # the flag said so
    assert export.manifest.snapshot is not None  # the profile said so


def test_flags_and_a_profile_are_checked_only_once_they_are_merged(vcenter, hyperexport_answers, store):
    hyperexport_answers("--save-profile", "to-s3", "--upload=s3://bucket/vms", "--snapshot")
    code, out, _ = hyperexport_answers("config", "--profile=to-s3", "--no-keep-local", "--quiet")
    assert code == 0
    assert {"keep_local=false", "keep_local.source=given", "upload.source=profile"} <= set(out.splitlines())
    code, _, err = hyperexport_answers("--profile=to-s3", "--vm=db01", "--no-keep-local", "--format=ova")
    assert (code, "cannot be streamed" in err) == (2, True)


def test_a_flow_takes_a_profile_by_name_or_as_a_block(vcenter, store, no_profile_stays):
    profile = ExportProfile.of(ExportOptions.from_keys({"snapshot": True, "dry_run": True}))
    profile.save("dry")
    for given in ("dry", ExportProfile.load("dry")):
        assert export_vm("db01", ExportOptions.from_keys({"output": store}), profile=given).dry_run
    assert not store.exists()


def test_the_flows_around_exports_take_a_profile_too(vcenter):
    assert reap_snapshots(profile=ExportProfile(options={"dry_run": True})).dry_run
    mail = {"email_smtp_host": "127.0.0.1", "email_smtp_port": 1, "email_tls": "none", "email_from": "a@example.com"}
    with pytest.raises(NotificationFailed, match="ops@example"):
        send_test_email(profile=ExportProfile(options={**mail, "email_to": "ops@example.com"}))


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (("--save-profile=a", "--email-notify", "--email-password=hunter2"), "Email Server Credentials block"),
        (("--save-profile=a",), "nothing to save"),
        (("--save-profile=a/b", "--snapshot"), "cannot name a profile"),
        (("--save-profile=a", "--snapshot", "--dry-run"), "--dry-run"),
        (("--profile=nobody", "--vm=db01"), "there is no profile nobody"),
        (("--list-profiles", "--delete-profile=a"), "exclude each other"),
        (("--show-profile=a", "--snapshot"), "does nothing else"),
        (("--vm-info", "--vm=db01", "--profile=a"), "--profile"),
        (("--save-profile=a", "--keep-snapshots=-1"), "--keep-snapshots"),
    ],
)
def test_what_makes_no_sense_is_refused(hyperexport_answers, words, refusal):
    code, out, err = hyperexport_answers(*words)
    assert (code, out) == (2, "")
    assert refusal in err
    assert "hunter2" not in err


def test_a_profile_of_another_version_says_by_key_what_is_wrong(hyperexport_answers):
    options = {"snapshot": True, "warp_speed": 9, "keep_snapshots": 99}
    ExportProfile(options=options, saved_with="0.0.1").save("old")
    code, _, err = hyperexport_answers("--profile=old", "--vm=db01")
    assert code == 2
    for words in ("profile old, saved by HyperExport 0.0.1", "no option warp_speed", "--keep-snapshots: "):
        assert words in err
    assert hyperexport_answers("--show-profile=old")[1].startswith("old: --snapshot=true")


@pytest.mark.parametrize(
    ("name", "block"), [("production-backup", "production-backup"), ("Two  Words", "two-words"), ("a_b", "a-b")]
)
def test_a_persons_name_becomes_a_blocks_name(name, block):
    assert profile_name(name) == block


@pytest.mark.parametrize("name", ["", "-", "a/b", "Übung", "a--b", "-a", "a.b"])
def test_a_name_that_no_block_can_bear_is_refused(name):
    with pytest.raises(UsageError, match="cannot name a profile"):
        profile_name(name)


def test_a_profile_lasts_where_no_prefect_server_is_configured(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_API")}
    environment |= {"PREFECT_HOME": str(tmp_path / "prefect"), "XDG_CONFIG_HOME": str(tmp_path / "config")}

    def answer(*words):
        program = [sys.executable, "-m", "hyperexport.cli.main", *words]
        done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=150)
        assert done.returncode == 0, done.stderr
        return done.stdout

    answer("--save-profile", "kept", "--snapshot")
    assert "kept" in answer("--list-profiles", "--quiet")
    assert "snapshot=true" in answer("--show-profile", "kept", "--quiet")
    assert "kept" not in saved_names(), "not on our own server"
    assert not (tmp_path / "prefect").exists(), "no database is made for it"
    answer("--delete-profile", "kept")
    assert "kept" not in answer("--list-profiles", "--quiet")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--email-to=a@example.com",), "mail server"),
        (("--email-to=a@example.com", "--email-smtp-host=mail.example.com"), "--email-from"),
        (("--email-smtp-host=mail.example.com", "--email-from=b@example.com"), "--email-to"),
        (("--email-to=a@example.com", "--email-from=b@example.com", "--email-credentials=nobody"), "nobody"),
        (("--notify-webhook=slack-webhook/nobody",), "slack-webhook/nobody"),
    ],
)
def test_a_profile_whose_mails_could_not_be_sent_is_not_saved(hyperexport_answers, flags, named):
    code, out, err = hyperexport_answers("--save-profile=p", "--email-notify", *flags)
    assert (code, out) == (2, "")
    assert named in err
    assert hyperexport_answers("--list-profiles")[1] == "no profiles\n"
