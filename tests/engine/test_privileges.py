"""What a user may not do is known before anything is begun."""

import pytest

from hyperexport.vsphere.inventory import find_vm
from hyperexport.vsphere.privileges import CREATE_SNAPSHOT, EXPORT, READ, REMOVE_SNAPSHOT, missing_privileges
from hyperexport.vsphere.session import connect
from simulator import DiskSpec, Simulator, UserSpec, VmSpec
from tests.engine.conftest import endpoint_of

EVERYTHING = EXPORT | CREATE_SNAPSHOT | REMOVE_SNAPSHOT | READ


@pytest.fixture(scope="module")
def as_reader():
    """A session of a user who may make snapshots and nothing else."""
    reader = UserSpec("reader", "a password", CREATE_SNAPSHOT)
    with Simulator((VmSpec("db01", disks=(DiskSpec(1 << 20),)),), users=(reader,)) as server:
        endpoint = endpoint_of(server).model_copy(update={"username": reader.name})
        endpoint = type(endpoint)(**{**endpoint.model_dump(), "password": reader.password})
        with connect(endpoint) as session:
            yield session


def test_an_administrator_lacks_nothing(session, vm):
    assert missing_privileges(session, vm, EVERYTHING) == []


def test_what_is_missing_is_listed_in_order(as_reader):
    vm = find_vm(as_reader, "db01")
    assert missing_privileges(as_reader, vm, EVERYTHING) == sorted(EXPORT | REMOVE_SNAPSHOT)
    assert missing_privileges(as_reader, vm, CREATE_SNAPSHOT) == []


def test_a_privilege_that_the_server_does_not_know_spoils_no_question(as_reader):
    vm = find_vm(as_reader, "db01")
    assert missing_privileges(as_reader, vm, {"No.Such.Privilege"}) == []
    assert missing_privileges(as_reader, vm, EXPORT | {"No.Such.Privilege"}) == sorted(EXPORT)
