"""Blocks are compared beside the reading, and none of them is forgotten."""

import threading

import pytest

from hyperexport.steps.comparisons import MOST_WAITING, Comparisons


class DifferentError(Exception):
    pass


def test_every_block_is_compared_in_order_before_the_end() -> None:
    seen: list[tuple[int, bytes]] = []
    blocks = [(number, b"%d" % number) for number in range(3 * MOST_WAITING)]
    with Comparisons(lambda number, content: seen.append((number, content))) as comparisons:
        for block in blocks:
            comparisons.add(*block)
        comparisons.finish()
    assert seen == blocks


@pytest.mark.parametrize("wrong", [0, MOST_WAITING, 2 * MOST_WAITING])
def test_a_difference_is_raised_however_late_it_is_found(wrong: int) -> None:
    def compare(number: int, _: bytes) -> None:
        if number == wrong:
            raise DifferentError

    def compare_all(comparisons: Comparisons) -> None:
        for number in range(2 * MOST_WAITING + 1):
            comparisons.add(number, b"")
        comparisons.finish()

    with Comparisons(compare) as comparisons, pytest.raises(DifferentError):
        compare_all(comparisons)


def test_no_more_blocks_wait_than_memory_is_meant_for() -> None:
    go_on, begun = threading.Event(), threading.Event()
    added: list[int] = []

    def compare(_number: int, _content: bytes) -> None:
        begun.set()
        assert go_on.wait(20)

    with Comparisons(compare) as comparisons:

        def add() -> None:
            for number in range(MOST_WAITING + 1):
                comparisons.add(number, b"")
                added.append(number)

        adding = threading.Thread(target=add)
        adding.start()
        assert begun.wait(20)
        adding.join(0.2)
        assert len(added) <= MOST_WAITING
        go_on.set()
        adding.join()
        comparisons.finish()


def test_what_waits_when_the_reading_fails_is_not_compared() -> None:
    go_on, seen = threading.Event(), list[int]()

    def compare(number: int, _: bytes) -> None:
        assert go_on.wait(20)
        seen.append(number)

    def fail(comparisons: Comparisons) -> None:
        with comparisons:
            for number in range(MOST_WAITING):
                comparisons.add(number, b"")
            threading.Timer(0.05, go_on.set).start()
            raise DifferentError

    with pytest.raises(DifferentError):
        fail(Comparisons(compare))
    assert len(seen) <= 1
