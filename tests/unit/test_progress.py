"""Whoever listens hears every report while it listens, and cannot disturb the transfer."""

import threading

from hyperexport.model.progress import Progress, Stage, report, subscribed
from tests.examples import VM

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
