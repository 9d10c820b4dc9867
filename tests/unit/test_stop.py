"""One flag stops everything: loops at their next check, waits at once, and blocked readers by their wakers."""

import threading

import pytest

from hyperexport.base.stop import StopSignal
from hyperexport.errors import Interrupted


def test_nothing_stops_before_the_flag_is_up():
    stop = StopSignal()
    stop.check()
    assert not stop.is_set()
    assert not stop.wait(0)


def test_a_check_raises_once_the_flag_is_up():
    stop = StopSignal()
    stop.set()
    with pytest.raises(Interrupted):
        stop.check()


def test_a_waiting_thread_wakes_when_another_raises_the_flag():
    stop = StopSignal()
    woken: list[bool] = []
    waiting = threading.Thread(target=lambda: woken.append(stop.wait(60)))
    waiting.start()
    stop.set()
    waiting.join(timeout=30)
    assert woken == [True]


def test_a_waker_is_called_by_the_thread_that_stops():
    stop = StopSignal()
    callers: list[threading.Thread] = []
    with stop.waking(lambda: callers.append(threading.current_thread())):
        stopping = threading.Thread(target=stop.set)
        stopping.start()
        stopping.join(timeout=30)
    assert callers == [stopping]


def test_a_waker_is_called_once_however_often_the_flag_is_raised():
    stop = StopSignal()
    calls: list[str] = []
    with stop.waking(lambda: calls.append("woken")):
        stop.set()
        stop.set()
    assert calls == ["woken"]


def test_who_registers_after_the_flag_is_up_is_woken_at_once():
    stop = StopSignal()
    stop.set()
    calls: list[str] = []
    with stop.waking(lambda: calls.append("woken")):
        assert calls == ["woken"]


def test_who_is_done_is_not_woken_any_more():
    stop = StopSignal()
    calls: list[str] = []
    with stop.waking(lambda: calls.append("woken")):
        pass
    stop.set()
    assert calls == []


def test_one_waker_that_fails_does_not_keep_the_others_asleep():
    stop = StopSignal()
    calls: list[str] = []
    with stop.waking(lambda: [].remove("not there")), stop.waking(lambda: calls.append("woken")):
        stop.set()
    assert calls == ["woken"]


def test_a_waker_may_itself_use_the_signal():
    stop = StopSignal()
    with stop.waking(stop.set):
        stop.set()
    assert stop.is_set()
