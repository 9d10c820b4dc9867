"""Datastore access at the simulator: /folder, with sessions, ranges and locks."""

import base64
import http.client
import socket
import ssl
from pathlib import Path

import pytest

from hyperexport.simulator import DiskSpec, Fault, FaultKind, Simulator, UserSpec, VmSpec
from tests.engine.simulator_client import cookie_of, find, get, logged_in, take_snapshot

MIB = 1 << 20
READER = UserSpec("reader", "reading", frozenset())
WHERE = "?dcPath=DC0&dsName=datastore1"


@pytest.fixture(scope="module")
def sim():
    disks = (DiskSpec(2 * MIB), DiskSpec(MIB))
    with Simulator((VmSpec("on", disks=disks), VmSpec("off", powered_on=False, disks=disks)), users=(READER,)) as sim:
        yield sim


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.fixture
def login(sim):
    return basic(sim.username, sim.password)


def test_the_nvram_is_read_with_a_session_or_a_password(sim, login):
    path = f"/folder/on/on.nvram{WHERE}"
    with logged_in(sim) as service:
        assert get(sim, path, {"Cookie": cookie_of(service)})[2] == sim.vm("on").nvram
    assert get(sim, path, login)[2] == sim.vm("on").nvram


def test_without_either_it_is_refused_and_basic_is_offered(sim):
    status, headers, _ = get(sim, f"/folder/on/on.nvram{WHERE}")
    assert status == 401
    assert headers["WWW-Authenticate"].startswith("Basic")
    assert get(sim, f"/folder/on/on.nvram{WHERE}", basic(sim.username, "wrong"))[0] == 401
    assert get(sim, f"/folder/on/on.nvram{WHERE}", basic(READER.name, READER.password))[0] == 401


def test_the_extent_that_a_guest_writes_to_is_locked(sim, login):
    assert get(sim, f"/folder/on/on-flat.vmdk{WHERE}", login)[0] == 500


def test_the_frozen_base_of_a_running_vm_is_refused_unless_the_host_serves_it(sim, login):
    path = f"/folder/on/on-flat.vmdk{WHERE}"
    sim.vm("on").guest_write(0, 0, b"frozen")
    with logged_in(sim) as service:
        snapshot = take_snapshot(find(service, "on"))
    sim.vm("on").guest_write(0, 0, b"living")
    assert get(sim, path, {**login, "Range": "bytes=0-5"})[0] == 500
    sim.folder.serves_frozen = True
    try:
        status, headers, body = get(sim, path, {**login, "Range": "bytes=0-5"})
        assert (status, body) == (206, b"frozen")
        assert headers["Content-Range"] == f"bytes 0-5/{2 * MIB}"
        assert b'createType="seSparse"' in get(sim, f"/folder/on/on-000001.vmdk{WHERE}", login)[2]
        sim.vm("on").remove_snapshot(snapshot._moId)
        assert get(sim, path, login)[0] == 500
    finally:
        sim.folder.serves_frozen = False


def test_faults_of_datastore_access_strike_only_the_extent_that_they_name(sim, login):
    path = f"/folder/off/off-flat.vmdk{WHERE}"
    whole = sim.vm("off").read_disk(0, 0, 2 * MIB)
    part = {**login, "Range": "bytes=65536-131071"}
    sim.faults.add(Fault(FaultKind.FOLDER_REFUSED, vm="off", disk=0, times=1, status=503))
    assert get(sim, path, part)[0] == 503
    sim.faults.add(Fault(FaultKind.FOLDER_WHOLE, vm="off", disk=0, times=1))
    assert get(sim, path, part)[::2] == (200, whole)
    sim.faults.add(Fault(FaultKind.FOLDER_WRONG, vm="off", disk=0, times=1, at_byte=70_000))
    assert get(sim, path, {**login, "Range": "bytes=0-65535"})[2] == whole[:65536]
    wrong = get(sim, path, part)[2]
    assert [at for at in range(65536) if wrong[at] != whole[65536 + at]] == [70_000 - 65536]
    sim.faults.add(Fault(FaultKind.FOLDER_SHORT, vm="off", disk=0, times=1))
    with pytest.raises(http.client.IncompleteRead):
        get(sim, path, part)
    assert get(sim, path, part)[2] == whole[65536 : 2 * 65536]


@pytest.mark.parametrize(
    ("asked", "first", "end"),
    [("bytes=100-199", 100, 200), ("bytes=1048000-", 1048000, MIB), ("bytes=-16", MIB - 16, MIB)],
)
def test_ranges_are_inclusive_and_open_ended(sim, login, asked, first, end):
    path = f"/folder/off/off_1-flat.vmdk{WHERE}"
    status, headers, body = get(sim, path, {**login, "Range": asked})
    assert status == 206
    assert headers["Content-Range"] == f"bytes {first}-{end - 1}/{MIB}"
    assert body == sim.vm("off").read_disk(1, first, end - first)


def test_a_whole_extent_of_a_vm_that_is_off_is_its_disk(sim, login):
    status, headers, body = get(sim, f"/folder/off/off-flat.vmdk{WHERE}", login)
    assert status == 200
    assert int(headers["Content-Length"]) == len(body) == 2 * MIB
    assert body == sim.vm("off").read_disk(0, 0, 2 * MIB)


def test_a_head_tells_the_size(sim, login):
    status, headers, body = get(sim, f"/folder/off/off-flat.vmdk{WHERE}", login, method="HEAD")
    assert (status, int(headers["Content-Length"]), body) == (200, 2 * MIB, b"")


def test_a_range_beyond_the_end_is_not_satisfiable(sim, login):
    assert get(sim, f"/folder/off/off-flat.vmdk{WHERE}", {**login, "Range": "bytes=99999999-"})[0] == 416


@pytest.mark.parametrize(
    "path",
    [
        f"/folder/off/nothing.vmdk{WHERE}",
        "/folder/off/off.vmx?dcPath=Other&dsName=datastore1",
        "/folder/off/off.vmx?dcPath=DC0&dsName=other",
        f"/folder/none/none.vmx{WHERE}",
    ],
)
def test_what_is_not_there_is_not_found(sim, login, path):
    assert get(sim, path, login)[0] == 404


def test_small_files_describe_the_vm(sim, login):
    assert b'displayName = "off"' in get(sim, f"/folder/off/off.vmx{WHERE}", login)[2]
    assert b'RW 4096 VMFS "off-flat.vmdk"' in get(sim, f"/folder/off/off.vmdk{WHERE}", login)[2]


def test_connections_are_kept_alive(sim, login):
    context = ssl.create_default_context(cafile=str(sim.ca_file))
    connection = http.client.HTTPSConnection(sim.host, sim.port, context=context, timeout=20)
    for _ in range(3):
        connection.request("GET", f"/folder/off/off.vmx{WHERE}", headers=login)
        assert b"displayName" in connection.getresponse().read()
    connection.close()


def test_the_ca_file_is_where_it_was_asked_for(tmp_path: Path):
    with Simulator((), directory=tmp_path / "certs") as sim:
        assert sim.ca_file == tmp_path / "certs" / "ca.pem"
        assert [each.name for each in (tmp_path / "certs").iterdir()] == ["ca.pem"]
        assert get(sim, "/sdk/vimServiceVersions.xml")[0] == 200
        assert get(sim, "/sdk/vimService.wsdl")[0] == 200
        assert get(sim, "/nothing")[0] == 404


@pytest.mark.parametrize(
    "unusual",
    ["Range:bytes=0-3", "range: bytes=0-3", "Range: bytes=0-3\r\nConnection: close", "X: ä\r\nRange: bytes=0-3"],
    ids=["no space", "small letters", "to be closed", "not ASCII"],
)
def test_a_request_is_read_in_whatever_form_it_comes(sim, login, unusual):
    head = f"GET /folder/on/on.nvram{WHERE} HTTP/1.1\r\nHost: x\r\nAuthorization: {login['Authorization']}\r\n{unusual}"
    context = ssl.create_default_context(cafile=sim.ca_file)
    with (
        socket.create_connection((sim.host, sim.port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname=sim.host) as connection,
    ):
        connection.sendall(f"{head}\r\n\r\n".encode("latin-1"))
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert (answer.status, answer.read()) == (206, sim.vm("on").nvram[:4])
