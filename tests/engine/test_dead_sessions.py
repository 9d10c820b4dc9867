"""A login says whose it is, so that one which a dead run left is ended, with its lease, and no other ever is."""

import pytest

from hyperexport.model.ownership import Owner
from hyperexport.simulator import DiskSpec, Simulator, UserSpec, VmSpec
from hyperexport.steps.leftovers import end_abandoned_sessions
from hyperexport.vsphere.endpoint import VSphereEndpoint
from hyperexport.vsphere.inventory import find_vm, vm_object
from hyperexport.vsphere.session import connect
from tests.engine.conftest import endpoint_of

OTHERS = frozenset({"VApp.Export"})


@pytest.fixture
def server():
    """A vCenter with a VM that is off, and a user who may not end sessions."""
    vm = VmSpec("db01", powered_on=False, disks=(DiskSpec(1 << 20),))
    with Simulator((vm,), users=(UserSpec("backup", "secret-1", OTHERS),)) as simulator:
        yield simulator


def keys(server: Simulator) -> set[str]:
    return {session.key for session in server.sessions()}


def dead(owner: Owner) -> bool:
    return owner.run == "dead"


def test_a_login_bears_the_mark_of_its_process(server: Simulator) -> None:
    with connect(endpoint_of(server), run="run-1"):
        (session,) = server.sessions()
        owner = Owner.from_description(session.user_agent)
    assert owner
    assert (owner.run, owner.process) == ("run-1", Owner.of_this_process(run="", vcenter="", vm="").process)
    assert server.password not in session.user_agent


def test_a_dead_runs_login_ends_with_its_lease_and_nobody_elses(server: Simulator) -> None:
    endpoint = endpoint_of(server)
    with connect(endpoint, run="dead") as left, connect(endpoint, run="alive") as alive, connect(endpoint) as own:
        # Asked for and never given back, as by a process that was killed then.
        left.call(vm_object(left, find_vm(left, "db01")).ExportVm, doing="asking for a lease")
        assert len(server.leases()) == 1
        assert end_abandoned_sessions(own, dead) == 1
        assert server.leases() == []
        assert keys(server) == {alive.key, own.key}
        assert end_abandoned_sessions(own, dead) == 0


def test_who_may_not_see_the_sessions_ends_none(server: Simulator) -> None:
    endpoint: VSphereEndpoint = endpoint_of(server)
    few = endpoint.model_copy(update={"username": "backup", "password": type(endpoint.password)("secret-1")})
    with connect(endpoint, run="dead") as left, connect(few) as own:
        assert end_abandoned_sessions(own, dead) == 0
        assert left.key in keys(server)
