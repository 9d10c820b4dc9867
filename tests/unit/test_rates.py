"""How fast files moved is remembered within bounds, and no byte of it is lost in between."""

from hyperexport.base.units import MIB
from hyperexport.model.progress import Progress, Stage
from hyperexport.model.rates import MOST_MOMENTS, RateRecorder
from hyperexport.model.vm import VmRef
from tests.examples import VM


class Transfer:
    """One file of a VM that moves as a test says, on a clock of its own."""

    def __init__(self, vm: VmRef = VM, item: str = "db01-disk-0.vmdk") -> None:
        self.now = 100.0
        self.recorder = RateRecorder(vm, clock=lambda: self.now)
        self.item = item

    def at(self, seconds: float, moved: int, *, vm: VmRef = VM, stage: Stage = Stage.TRANSFER, done: bool = False):
        self.now = 100.0 + seconds
        self.recorder.note(Progress(vm, self.item, stage, moved, 0, moved, done=done))


def test_the_curve_is_the_rate_between_each_two_moments():
    transfer = Transfer()
    for second, moved in enumerate((0, 10, 30)):
        transfer.at(second, moved * MIB)
    transfer.at(4, 40 * MIB, done=True)
    (rates,) = transfer.recorder.rates
    assert rates.item == "db01-disk-0.vmdk"
    assert rates.curve == [(0.5, 10 * MIB), (1.5, 20 * MIB), (3.0, 5 * MIB)]
    assert (rates.seconds, rates.moved) == (4.0, 40 * MIB)


def test_however_long_it_takes_the_moments_are_bounded_and_hold_every_byte():
    transfer = Transfer()
    for tick in range(50_000):
        transfer.at(tick / 5, tick * MIB)
    transfer.at(10_000, 50_000 * MIB, done=True)
    (rates,) = transfer.recorder.rates
    assert MOST_MOMENTS / 3 < len(rates.moments) <= MOST_MOMENTS
    assert (rates.moments[0].moved, rates.moved) == (0, 50_000 * MIB)
    apart = [b.at - a.at for a, b in zip(rates.moments, rates.moments[1:], strict=False)]
    assert max(apart) < 10_000 / 20
    assert sum(rate * width for (_, rate), width in zip(rates.curve, apart, strict=True)) == 50_000 * MIB


def test_reports_close_to_each_other_are_one_moment():
    transfer = Transfer()
    for tick in range(100):
        transfer.at(tick / 1000, tick)
    transfer.at(1, 1000, done=True)
    (rates,) = transfer.recorder.rates
    assert [moment.moved for moment in rates.moments] == [0, 1000]


def test_an_end_right_after_a_moment_takes_its_place():
    transfer = Transfer()
    transfer.at(0, 0)
    transfer.at(1, 900)
    transfer.at(1.001, 1000, done=True)
    (rates,) = transfer.recorder.rates
    assert [moment.moved for moment in rates.moments] == [0, 1000]


def test_a_second_attempt_goes_on_from_the_bytes_of_the_first():
    transfer = Transfer()
    for seconds, moved in ((0, 0), (1, 50), (2, 0), (3, 70)):
        transfer.at(seconds, moved)
    transfer.at(4, 100, done=True)
    (rates,) = transfer.recorder.rates
    assert [moment.moved for moment in rates.moments] == [0, 50, 50, 120, 150]
    assert all(rate >= 0 for _, rate in rates.curve)


def test_only_the_transfers_of_its_own_vm_are_recorded():
    transfer = Transfer()
    for seconds in range(3):
        transfer.at(seconds, seconds, vm=VM.model_copy(update={"moref": "vm-43"}))
        transfer.at(seconds, seconds, stage=Stage.REMOVE_SNAPSHOT)
    assert transfer.recorder.rates == ()


def test_what_came_at_once_had_no_rate():
    transfer = Transfer(item="db01.nvram")
    transfer.at(0, 0)
    transfer.at(0.01, 270_000, done=True)
    assert transfer.recorder.rates == ()
