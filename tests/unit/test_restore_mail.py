"""The mails about a restore: where it went, and what did not come back."""

import pytest

from hyperexport.model.ownership import Run
from hyperexport.model.restore import Identity, LostSetting, RestoredFile, RestorePlan, RestoreResult
from hyperexport.model.vm import VmRef
from hyperexport.views.pages import markdown_of
from hyperexport.views.restore_mail import restored_mail, restoring_mail

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
    assert "NO, not everything was compared" in markdown_of(told)
