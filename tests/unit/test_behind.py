"""Work that follows in a thread of its own is done in order, and none of it is forgotten."""

import threading

import pytest

from hyperexport.transfer.behind import Behind

MOST = 8


class DifferentError(Exception):
    pass


def test_all_is_done_in_order_before_the_end() -> None:
    seen: list[int] = []
    with Behind[int](seen.append, most=MOST, name="test") as behind:
        for number in range(3 * MOST):
            behind.put(number)
        behind.finish()
    assert seen == list(range(3 * MOST))


@pytest.mark.parametrize("wrong", [0, MOST, 2 * MOST])
def test_an_error_is_raised_however_late_it_happens_and_ends_the_work(wrong: int) -> None:
    seen: list[int] = []

    def work(number: int) -> None:
        seen.append(number)
        if number == wrong:
            raise DifferentError

    def put_all(behind: Behind[int]) -> None:
        for number in range(2 * MOST + 1):
            behind.put(number)
        behind.finish()

    with Behind[int](work, most=MOST, name="test") as behind, pytest.raises(DifferentError):
        put_all(behind)
    assert seen == list(range(wrong + 1))


def test_no_more_waits_than_memory_is_meant_for() -> None:
    go_on, begun = threading.Event(), threading.Event()
    added: list[int] = []

    def work(_: int) -> None:
        begun.set()
        assert go_on.wait(20)

    with Behind[int](work, most=MOST, name="test") as behind:

        def add() -> None:
            for number in range(2 * MOST):
                behind.put(number)
                added.append(number)

        adding = threading.Thread(target=add)
        adding.start()
        assert begun.wait(20)
        adding.join(0.2)
        assert len(added) <= MOST + 1  # one is being worked on
        go_on.set()
        adding.join()
        behind.finish()


def test_what_waits_when_the_caller_fails_is_not_done() -> None:
    go_on, seen = threading.Event(), list[int]()

    def work(number: int) -> None:
        assert go_on.wait(20)
        seen.append(number)

    def fail(behind: Behind[int]) -> None:
        with behind:
            for number in range(MOST):
                behind.put(number)
            threading.Timer(0.05, go_on.set).start()
            raise DifferentError

    with pytest.raises(DifferentError):
        fail(Behind[int](work, most=MOST, name="test"))
    assert len(seen) <= 1


def test_a_caller_who_meets_an_error_while_much_waits_is_not_held_up() -> None:
    """The end has to fit behind a full queue."""

    def work(_: int) -> None:
        raise DifferentError

    def put_until_it_fails(behind: Behind[int]) -> None:
        while True:
            behind.put(0)

    with Behind[int](work, most=1, name="test") as behind, pytest.raises(DifferentError):
        put_until_it_fails(behind)
