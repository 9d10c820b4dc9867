"""Who may begin while others are at work."""

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from hyperexport.options.groups import Fleet
from hyperexport.policy.placement import Queue


class Vm(NamedTuple):
    name: str
    host: str | None = "h1"
    datastores: tuple[str, ...] = ("d1",)


def started(queue: Queue[Vm]) -> list[str]:
    """Begin as many as may."""
    names: list[str] = []
    while (vm := queue.begin()) is not None:
        names.append(vm.name)
    return names


def test_no_more_begin_than_the_limit_allows() -> None:
    queue = Queue([Vm("a"), Vm("b"), Vm("c")], Fleet(max_vms=2))
    assert started(queue) == ["a", "b"]
    queue.done(Vm("a"))
    assert started(queue) == ["c"]


def test_a_vm_whose_host_is_full_lets_others_pass() -> None:
    waiting = [Vm("a"), Vm("b"), Vm("c", host="h2")]
    queue = Queue(waiting, Fleet(max_per_host=1))
    assert started(queue) == ["a", "c"]
    queue.done(Vm("a"))
    assert started(queue) == ["b"]


def test_every_datastore_of_a_vm_must_have_room() -> None:
    waiting = [Vm("a", datastores=("d1",)), Vm("b", datastores=("d2", "d1")), Vm("c", datastores=("d2",))]
    assert started(Queue(waiting, Fleet(max_per_datastore=1))) == ["a", "c"]


def test_a_vm_on_no_host_burdens_none() -> None:
    waiting = [Vm("a", host=None), Vm("b", host=None)]
    assert started(Queue(waiting, Fleet(max_per_host=1))) == ["a", "b"]


places = st.sampled_from(["1", "2", "3"])
vms = st.lists(st.builds(Vm, st.uuids().map(str), places | st.none(), st.sets(places).map(tuple)), max_size=20)
limits = st.builds(
    Fleet, max_vms=st.integers(1, 5), max_per_host=st.integers(1, 3), max_per_datastore=st.integers(1, 3)
)


@given(vms, limits, st.randoms())
def test_every_vm_has_its_turn_and_no_limit_is_ever_passed(waiting: list[Vm], fleet: Fleet, dice) -> None:
    queue, running, finished = Queue(waiting, fleet), [], []
    while len(finished) < len(waiting):
        while (vm := queue.begin()) is not None:
            running.append(vm)
        assert running, "somebody may always begin when nobody is at work"
        assert len(running) <= fleet.max_vms
        for place in "123":
            assert sum(vm.host == place for vm in running) <= fleet.max_per_host
            assert sum(place in vm.datastores for vm in running) <= fleet.max_per_datastore
        vm = running.pop(dice.randrange(len(running)))
        queue.done(vm)
        finished.append(vm)
    assert {vm.name for vm in finished} == {vm.name for vm in waiting}
