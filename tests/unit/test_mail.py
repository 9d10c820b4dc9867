"""The mails: every fact is in both parts, and no name can break out of its place."""

import re
from datetime import timedelta
from email import message_from_bytes, policy
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hyperexport.errors import SnapshotFailed
from hyperexport.views.mail import (
    FleetRow,
    Mail,
    Run,
    brief_line,
    failure_mail,
    fleet_mail,
    probe_mail,
    start_mail,
    success_mail,
    to_message,
)
from tests.examples import NOW, VM
from tests.unit.test_summary import a_manifest, a_result

RUN = Run("olive-badger", "https://prefect.example.com/runs/flow-run/1")
EVIL = "<b onmouseover=x>\r\nBcc: evil@example.com\n\nx\u202eevil & 'co'\x00"


class Words(HTMLParser):
    """What a reader of HTML sees, and the elements that there are."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []
        self._hidden = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name == "href"]

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def a_failure(**changes: object) -> Mail:
    values = {
        "error": SnapshotFailed("the snapshot of /DC0/vm/db01 was not made: no space", fix="Free some space"),
        "vm": VM.path,
        "step": "take-snapshot",
        "started": NOW,
        "failed": NOW + timedelta(minutes=3, seconds=4),
        "cleaned_up": ["the half-written export in /backups was discarded"],
        "stopped": False,
        "run": RUN,
    }
    return failure_mail(**{**values, **changes})


def all_mails(name: str = "db01") -> dict[str, Mail]:
    vm = VM.model_copy(update={"name": name, "path": f"/DC0/vm/{name}"})
    result = a_result(manifest=a_manifest(vm=vm), warnings=(f"{name} was not quiesced",))
    assert result.manifest is not None
    run = Run(f"export {name}", RUN.url)
    return {
        "start": start_mail(vm=vm.path, vcenter="vc.example", export_format="ovf", started=NOW, run=run),
        "success": success_mail(result, result.manifest, run=run),
        "failure": a_failure(vm=vm.path, error=SnapshotFailed(f"{name} failed"), cleaned_up=[name], run=run),
        "fleet": fleet_mail([FleetRow(name, "failed", message=name)], started=NOW, seconds=9, run=run),
        "probe": probe_mail(sent=NOW, run=run),
    }


# -- what is said ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["start", "success", "failure", "fleet", "probe"])
def test_text_and_html_state_the_same_facts(kind: str) -> None:
    mail = all_mails()[kind]
    seen = Words(mail.html).text
    lines = [line.strip() for line in mail.text.splitlines() if line.strip(" -")]
    for line in lines:
        words = re.split(r":\s+|, ", line.removeprefix("- "))
        if line.startswith("The run: "):
            assert words[1] in Words(mail.html).links
        else:
            assert all(word.rstrip(":") in seen for word in words), line


def test_a_start_says_which_vm_where_from_how_and_when() -> None:
    text = all_mails()["start"].text
    assert all(word in text for word in ("/DC0/vm/db01", "vc.example", "OVF", "2026-11-23 06:00:00 UTC"))


def test_a_success_says_what_the_contract_lists() -> None:
    mail = all_mails()["success"]
    for fact in (
        r"Duration: +1m03s",
        r"Transferred: +100.0 MB",
        r"Stored: +200.0 MB in 2 files",
        r"Saved: +100.0 MB \(50 %\)",
        r"Verified: +not asked for",
        r"Destination: +/backups/",
        r"Destination: +s3://bucket/",
        r"Warnings\n- db01 was not quiesced",
        r"Hard disk 3.*independent",
    ):
        assert re.search(fact, mail.text), fact
    assert mail.subject == "HyperExport: db01 exported, with a warning"


def test_a_success_without_warnings_is_plainly_good() -> None:
    result = a_result()
    assert result.manifest is not None
    assert success_mail(result, result.manifest, run=RUN).subject == "HyperExport: db01 exported"


def test_a_failure_says_the_step_the_error_the_times_what_was_cleaned_up_and_where_to_look() -> None:
    mail = a_failure()
    for fact in (
        r"Step: +take-snapshot",
        r"Error: +The snapshot of /DC0/vm/db01 was not made: no space\.",
        r"What to do: +Free some space\.",
        r"Code: +snapshot-failed",
        r"Started: +2026-11-23 06:00:00 UTC",
        r"Failed: +2026-11-23 06:03:04 UTC",
        r"The export failed after 3m04s, in step take-snapshot\.",
        r"Cleaned up\n- the half-written export in /backups was discarded",
        r"The run: https://prefect.example.com/runs/flow-run/1",
    ):
        assert re.search(fact, mail.text), fact
    assert mail.subject == "HyperExport: Export of db01 FAILED"


def test_a_run_that_was_stopped_is_not_called_failed() -> None:
    mail = a_failure(error=KeyboardInterrupt(), stopped=True)
    assert mail.subject == "HyperExport: Export of db01 stopped"
    assert "FAILED" not in mail.text


def test_an_unforeseen_error_is_named_and_not_quoted() -> None:
    mail = a_failure(error=RuntimeError("password hunter2"))
    assert "RuntimeError" in mail.text
    assert "hunter2" not in mail.text + mail.html


def test_a_fleet_is_one_mail_with_its_failures_first() -> None:
    rows = [
        FleetRow("web01", "exported", bytes=1 << 20, seconds=9),
        FleetRow("db01", "failed", seconds=2, message="the vCenter is busy"),
        FleetRow("old01", "skipped", message="exported by the last run"),
    ]
    mail = fleet_mail(rows, started=NOW, seconds=11, run=RUN)
    assert mail.subject == "HyperExport: 1 of 3 VMs exported, 1 FAILED"
    assert mail.text.index("db01") < mail.text.index("web01") < mail.text.index("old01")
    assert "1.0 MB" in mail.text


# -- what no name can do -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["start", "success", "failure", "fleet", "probe"])
def test_html_in_a_name_is_shown_and_not_obeyed(kind: str) -> None:
    plain, evil = Words(all_mails()[kind].html), Words(all_mails(EVIL)[kind].html)
    assert evil.tags == plain.tags
    if kind != "probe":
        assert "<b onmouseover=x>" in evil.text


@pytest.mark.parametrize("kind", ["start", "success", "failure", "fleet", "probe"])
def test_line_breaks_in_a_name_make_no_header_and_no_line(kind: str) -> None:
    mail = all_mails(EVIL)[kind]
    message = to_message(mail, sender="a@example.com", recipients=["b@example.com"])
    parsed = message_from_bytes(message.as_bytes(), policy=policy.default)
    assert parsed["Bcc"] is None
    assert parsed["To"] == "b@example.com"
    assert not any(line.startswith("Bcc") for line in mail.text.splitlines())
    assert len(mail.text.splitlines()) == len(all_mails()[kind].text.splitlines())
    assert not set(mail.subject + mail.text + mail.html) & set("\u202e\x00\r")


def test_a_link_that_is_none_is_left_out() -> None:
    mail = probe_mail(sent=NOW, run=Run("x", "javascript:alert(1)"))
    assert "javascript" not in mail.html + mail.text


def test_a_text_from_outside_is_one_bounded_line() -> None:
    assert brief_line(" a\t\n b\u2028c ") == "a b c"
    assert len(brief_line("x" * 10_000)) == 500


# -- the message -------------------------------------------------------------------------------------------------------


def test_the_message_is_addressed_dated_and_marked_as_a_programs() -> None:
    recipients = ["a@example.com", "b@example.com", "c@example.com"]
    message = to_message(all_mails()["success"], sender="backup@corp.example", recipients=recipients)
    assert message["To"] == "a@example.com, b@example.com, c@example.com"
    assert message["From"] == "HyperExport <backup@corp.example>"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Date"]
    assert str(message["Message-ID"]).endswith("@corp.example>")
    assert message.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]


def test_names_of_any_script_arrive_as_they_are() -> None:
    mail = all_mails("ärchiv-数据库")["success"]
    parsed = message_from_bytes(
        to_message(mail, sender="a@example.com", recipients=["b@example.com"]).as_bytes(), policy=policy.default
    )
    assert "ärchiv-数据库" in parsed["Subject"]
    body = parsed.get_body(("plain",))
    assert body is not None
    assert "ärchiv-数据库" in body.get_content()


def test_the_templates_travel_with_the_package() -> None:
    import tomllib

    document = tomllib.loads(Path("pyproject.toml").read_text())
    assert document["tool"]["setuptools"]["package-data"]["hyperexport.views"] == ["templates/*.j2"]
