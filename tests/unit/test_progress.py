"""Whoever listens hears every report while it listens, and cannot disturb the transfer."""

import threading

from hyperexport.model.progress import Progress, Stage, expect, report, subscribed
from hyperexport.model.progress_totals import ALL_FILES, WithTotals, report_fleet
from hyperexport.views.interactive_progress import NotebookBoard
from tests.examples import VM

MIB = 1 << 20

MOMENT = Progress(VM, "db01-disk-0.vmdk", Stage.TRANSFER, position=512, total=1024, moved=100)


def test_a_listener_hears_what_is_reported_while_it_listens():
    heard: list[Progress] = []
    report(MOMENT)
    with subscribed(heard.append):
        report(MOMENT)
    report(MOMENT)
    assert heard == [MOMENT]


def test_every_listener_hears_every_report():
    one: list[Progress] = []
    two: list[Progress] = []
    with subscribed(one.append), subscribed(two.append):
        report(MOMENT)
    assert one == two == [MOMENT]


def test_a_listener_that_fails_disturbs_neither_the_transfer_nor_the_others():
    heard: list[Progress] = []
    with subscribed(lambda _progress: [].remove("not there")), subscribed(heard.append):
        report(MOMENT)
    assert heard == [MOMENT]


def test_a_listener_hears_reports_of_other_threads():
    heard: list[Progress] = []
    with subscribed(heard.append):
        transfer = threading.Thread(target=report, args=(MOMENT,))
        transfer.start()
        transfer.join()
    assert heard == [MOMENT]


def test_a_listener_may_stop_listening_while_it_hears():
    heard: list[str] = []
    inner = subscribed(lambda _progress: heard.append("inner"))

    def leave(_progress: Progress) -> None:
        inner.__exit__(None, None, None)

    with subscribed(leave):
        inner.__enter__()
        report(MOMENT)
        report(MOMENT)
    # What was under way is finished; the next report is no longer heard. A second leaving fails, and is not heard of.
    assert heard == ["inner"]


def totals(heard: list[Progress]) -> list[tuple[int, int, bool]]:
    return [(each.position // MIB, each.total // MIB, each.done) for each in heard if each.item == ALL_FILES]


def test_a_vm_of_several_disks_has_one_line_that_counts_those_that_wait_from_the_beginning():
    heard: list[Progress] = []
    with subscribed(WithTotals(heard.append)):
        expect(VM, Stage.TRANSFER, [("0.vmdk", 10 * MIB), ("1.vmdk", 30 * MIB)])
        report(Progress(VM, "0.vmdk", Stage.TRANSFER, 10 * MIB, 10 * MIB, MIB, done=True))
        report(Progress(VM, "1.vmdk", Stage.TRANSFER, 15 * MIB, 30 * MIB, 2 * MIB))
        report(Progress(VM, "1.vmdk", Stage.TRANSFER, 0, 30 * MIB, 0, failed=True))
        report(Progress(VM, "1.vmdk", Stage.TRANSFER, 30 * MIB, 30 * MIB, 5 * MIB, done=True))
    assert totals(heard) == [(0, 40, False), (10, 40, False), (25, 40, False), (10, 40, False), (40, 40, True)]
    assert heard[-1].moved == 6 * MIB


def test_one_disk_beside_an_nvram_needs_no_sum():
    heard: list[Progress] = []
    with subscribed(WithTotals(heard.append)):
        expect(VM, Stage.TRANSFER, [("0.vmdk", 10 * MIB), ("db01.nvram", 8192)])
    assert totals(heard) == []


def test_vms_and_stages_are_summed_apart():
    other = VM.model_copy(update={"moref": "vm-99", "name": "web01"})
    heard: list[Progress] = []
    with subscribed(WithTotals(heard.append)):
        expect(VM, Stage.TRANSFER, [("0.vmdk", MIB), ("1.vmdk", MIB)])
        expect(other, Stage.TRANSFER, [("0.vmdk", MIB)])
        expect(other, Stage.RESTORE, [("1.vmdk", MIB)])
    assert {each.vm.name for each in heard if each.item == ALL_FILES} == {VM.name}


def test_a_notebook_draws_one_output_again_and_again_in_which_no_name_is_markup():
    drawn: list[dict[str, str]] = []

    class Handle:
        def update(self, bundle: dict[str, str], *, raw: bool) -> None:
            assert raw
            drawn.append(bundle)

    def display(bundle: dict[str, str], *, raw: bool, display_id: bool) -> Handle:
        assert raw
        assert display_id
        assert not drawn, "the first output is the only one"
        drawn.append(bundle)
        return Handle()

    board = NotebookBoard(display)
    with subscribed(WithTotals(board.note)):
        expect(VM, Stage.TRANSFER, [("<b>0</b>.vmdk", MIB), ("1.vmdk", MIB)])
        board._draw()
        report_fleet(1, 2)
        report(Progress(VM, "<b>0</b>.vmdk", Stage.TRANSFER, MIB, MIB, 100, done=True))
        board._draw()
        board._draw()  # nothing has changed
    assert len(drawn) == 2
    assert "<b>" not in drawn[1]["text/html"]
    assert "&lt;b&gt;0" in drawn[1]["text/html"]
    assert f"{VM.name}: all files: 50 %" in drawn[1]["text/plain"]
    assert "fleet: 1 of 2 VMs" in drawn[1]["text/plain"]
    assert drawn[1]["text/html"].count("<progress ") == 3
