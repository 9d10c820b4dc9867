"""The mails about a restore: where it went, and what did not come back."""

from contextlib import suppress

import pytest

from hyperexport.errors import Interrupted, RestoreFailed
from hyperexport.jobs.direct import DirectRunner
from hyperexport.jobs.notices import notifying_of_restore
from hyperexport.model.ownership import Run
from hyperexport.model.restore import Identity, LostSetting, RestoredFile, RestorePlan, RestoreResult
from hyperexport.model.vm import VmRef
from hyperexport.notify import Notifier
from hyperexport.options.groups import Email
from hyperexport.options.precedence import ExportOptions
from hyperexport.views.mail import Mail
from hyperexport.views.pages import markdown_of
from hyperexport.views.restore_mails import restored_mail, restoring_mail

SOURCE = VmRef(moref="vm-1", name="db01", path="/DC0/vm/db01", instance_uuid="5020")
PLAN = RestorePlan(
    export_id="20261123T065304Z-00ff",
    source=SOURCE,
    vcenter="vc01",
    name="copy",
    path="/DC0/vm/copy",
    folder="/DC0/vm",
    resource_pool="/DC0/host/C0/Resources",
    host=None,
    datastore="ssd",
    networks=(("VM Network", "Isolated"),),
    identity=Identity.NEW,
    identity_reason="the original VM is still there (db01)",
    files=(RestoredFile(name="db01-disk-0.vmdk", size=1 << 20, capacity=1 << 22, number=0, label="Hard disk 1"),),
    space_needed=1 << 20,
    space_free=None,
    lost=(LostSetting("virtual TPM", "its secrets cannot be exported"),),
)


def result(*warnings: str, verified: bool = True) -> RestoreResult:
    return RestoreResult(
        dry_run=False, plan=PLAN, vm=SOURCE, verified=verified, uploaded=1 << 20, seconds=3.0, warnings=warnings
    )


def test_the_mail_at_the_start_says_where_it_goes() -> None:
    mail = restoring_mail(PLAN, run=Run("run-1"))
    assert mail.subject.endswith("Restore of db01 started")
    assert "/DC0/vm/copy" in mail.text
    assert "20261123T065304Z-00ff" in mail.text


@pytest.mark.parametrize(
    ("warnings", "subject"), [((), "db01 restored"), (("a", "b"), "db01 restored, with 2 warnings")]
)
def test_the_mail_at_the_end_says_what_did_not_come_back(warnings: tuple[str, ...], subject: str) -> None:
    mail = restored_mail(result(*warnings), run=Run("run-1"))
    assert mail.subject.endswith(subject)
    for words in ("virtual TPM", "its secrets cannot be exported", "the server has what was sent", *warnings):
        assert words in mail.text
        assert words in mail.html


def test_a_restore_that_was_not_compared_says_so_everywhere() -> None:
    told = result(verified=False)
    assert "NOT everything was compared" in restored_mail(told, run=Run("run-1")).text
    assert "NOT everything was compared" in markdown_of(told)


class Attempt(DirectRunner):
    """One attempt of a run that an orchestrator retries; it keeps what people and automations are told."""

    name = "the mail server"

    def __init__(self, number: int, *, will_retry: bool) -> None:
        super().__init__()
        self._number, self._will_retry = number, will_retry
        self.told: list[str] = []

    @property
    def attempt(self) -> int:
        return self._number

    @property
    def will_retry(self) -> bool:
        return self._will_retry

    def notifiers(self, email: Email, *, mails: bool | None = None) -> tuple[Notifier, ...]:
        del email, mails
        return (self,)

    def probe(self) -> str:
        return ""

    def send(self, mail: Mail) -> None:
        self.told.append(mail.subject.rpartition("] ")[2])

    def restore_failed(self, vm: VmRef | str, error: BaseException, *, stopped: bool) -> None:
        del vm, error, stopped
        self.told.append("the event")


def told_of(attempt: Attempt, error: Exception | None) -> list[str]:
    options = ExportOptions(email=Email(on_start=True, on_failure=True, on_complete=True))
    with suppress(RestoreFailed, Interrupted), notifying_of_restore(attempt, "db01", options) as notices:
        notices.started(PLAN)
        if error:
            raise error
        notices.completed(result())
    return attempt.told


def test_a_restore_that_is_retried_tells_of_its_start_once_and_of_its_failure_at_the_end() -> None:
    failed = RestoreFailed("the lease was lost")
    first, second, last = (Attempt(number, will_retry=number < 3) for number in (1, 2, 3))

    assert [len(told_of(each, failed)) for each in (first, second, last)] == [1, 0, 2]

    assert "Restore of db01 started" in first.told[0]
    assert last.told[0] == "the event"
    assert last.told[1].endswith("Restore of db01 FAILED")


def test_a_restore_that_is_stopped_tells_so_at_once_whatever_attempt_it_is() -> None:
    assert len(told_of(Attempt(1, will_retry=True), Interrupted("the run was cancelled"))) == 3


def test_a_restore_whose_second_attempt_succeeds_tells_of_its_end() -> None:
    assert len(told_of(Attempt(2, will_retry=True), None)) == 1
