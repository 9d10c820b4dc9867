"""What a server that is broken, or in somebody else's hands, may answer: nothing of it is believed, and all of it ends.

Over real TLS where the wire matters; by hand-made answers where only what they say does.
"""

import itertools
import threading
import time
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from pyVmomi import vim

from hyperexport.base.stop import StopSignal
from hyperexport.errors import ChangeTrackingUnavailable, DescriptorFailed, HyperExportError, ServerFault
from hyperexport.formats import vmdk
from hyperexport.formats.vmdk_stream import StreamCheck
from hyperexport.model.tls import Trust
from hyperexport.model.vm import PowerState
from hyperexport.steps import package
from hyperexport.transfer.source import Source, open_source
from hyperexport.vsphere import capacities, change_tracking, collector, devices, inventory, tags, wire
from hyperexport.vsphere.endpoint import VSphereEndpoint
from hyperexport.vsphere.inventory import _path
from hyperexport.vsphere.lease import _checksum
from hyperexport.vsphere.ovf import Descriptor
from hyperexport.vsphere.session import connect
from hyperexport.vsphere.snapshot_tree import flatten
from tests.engine.support import Exchange, certificate, tls_server
from tests.examples import NOW, VM

VERSIONS = (
    b'<namespaces version="1.0"><namespace><name>urn:vim25</name><version>8.0.3.0</version></namespace></namespaces>'
)
_ENVELOPE = (
    '<?xml version="1.0" encoding="UTF-8"?>{dtd}<soapenv:Envelope '
    'xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
    '<soapenv:Body><RetrieveServiceContentResponse xmlns="urn:vim25">{content}</RetrieveServiceContentResponse>'
    "</soapenv:Body></soapenv:Envelope>"
)
_BOMB = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))


def soap(content: str, *, dtd: str = "") -> bytes:
    return _ENVELOPE.format(content=content, dtd=dtd).encode()


ANSWERS = {
    "nothing": b"",
    "no XML": b"\x00\x01\x02",
    "half an answer": soap("<returnval>")[:200],
    "billion laughs": soap(
        "<returnval><rootFolder>&l11;</rootFolder></returnval>", dtd=f'<!DOCTYPE x [<!ENTITY l0 "lol">{_BOMB}]>'
    ),
    "a quadratic bomb": soap(
        f"<returnval><rootFolder>{'&a;' * 40_000}</rootFolder></returnval>",
        dtd=f'<!DOCTYPE x [<!ENTITY a "{"a" * 40_000}">]>',
    ),
    "an external entity": soap(
        '<returnval><rootFolder type="Folder">&e;</rootFolder></returnval>',
        dtd='<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>',
    ),
    "a type that is none": soap('<returnval xsi:type="NoSuchType"><a/></returnval>'),
    "a type of another kind": soap('<returnval xsi:type="VirtualDisk"><capacityInKB>1</capacityInKB></returnval>'),
    "a field that is none": soap("<returnval><bogus>1</bogus></returnval>"),
    "no number": soap('<returnval xsi:type="VirtualDisk"><key>many</key></returnval>'),
    "nothing in it": soap(""),
    "twice": soap("<returnval/><returnval/>"),
    "ten thousand deep": soap("<returnval>" * 10_000 + "</returnval>" * 10_000),
    "a fault without words": soap("").replace(b"Response", b"Fault"),
    "HTML": b"<html><body>Welcome</body></html>",
}


def test_what_makes_no_sense_is_told_in_words_and_soon() -> None:
    for name, body in ANSWERS.items():
        with pytest.raises(HyperExportError) as caught:
            ask(body)
        assert len(str(caught.value)) < 2000, name
        assert "root:" not in str(caught.value), name


def ask(body: bytes, *headers: str) -> None:
    """Log in to a server that gives this answer to the first question."""

    def script(exchange: Exchange) -> None:
        exchange.read_body()
        found = VERSIONS if exchange.request.startswith(b"GET") else body
        exchange.head("200 OK", f"Content-Length: {len(found)}", "Connection: close", *headers)
        exchange.send(found)

    with tls_server(script) as server, connect(at(server.url)):
        pass


def at(url: str) -> VSphereEndpoint:
    return VSphereEndpoint.model_validate(
        {"url": url.split("/")[2], "username": "u", "password": "pass-word", "ca_pem": certificate().pem, "timeout": 10}
    )


def test_an_answer_without_an_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire._BoundedResponse, "_left", 1_000_000)
    sent = []

    def script(exchange: Exchange) -> None:
        if exchange.request.startswith(b"GET"):
            exchange.chunked(VERSIONS)
            return
        exchange.read_body()
        exchange.head("200 OK", "Transfer-Encoding: chunked")
        head = soap("<returnval><about><name>").partition(b"</RetrieveServiceContentResponse>")[0]
        exchange.send(b"%x\r\n%s\r\n" % (len(head), head))
        for _ in range(100_000):
            exchange.send(b"%x\r\n%s\r\n" % (10_000, b"a" * 10_000))
            sent.append(10_000)

    with tls_server(script) as server, pytest.raises(HyperExportError, match="more than"), connect(at(server.url)):
        pass
    assert 1_000_000 <= sum(sent) + 10_000 < 50_000_000, "what the sockets had buffered is all that came after"


def test_an_answer_that_would_unfold_is_not_unfolded() -> None:
    for encoding in ("gzip", "deflate"):
        with pytest.raises(HyperExportError, match="compressed"):
            ask(b"\x1f\x8b", f"Content-Encoding: {encoding}")


def test_a_list_of_versions_with_a_bomb_in_it_is_no_vsphere() -> None:
    def script(exchange: Exchange) -> None:
        exchange.chunked(ANSWERS["billion laughs"])

    with tls_server(script) as server, pytest.raises(HyperExportError, match="not a vSphere"), connect(at(server.url)):
        pass


# -- lists that do not end


class FakeSession:
    """Calls what it is given, as a session does."""

    address = "vc.example.com"
    is_vcenter = True

    def __init__(self, **content: Any) -> None:
        self.content = SimpleNamespace(**content)

    def call(self, method: Any, *args: Any, doing: str) -> Any:
        assert doing
        return method(*args)

    read = call


def test_pages_of_properties_without_an_end_are_cut() -> None:
    page = SimpleNamespace(objects=[], token="again")
    pages = SimpleNamespace(RetrievePropertiesEx=lambda *_: page, ContinueRetrievePropertiesEx=lambda _token: page)
    session: Any = FakeSession(propertyCollector=pages)
    with pytest.raises(ServerFault, match="does not end"):
        list(collector._collect(session, None, doing="listing"))


@pytest.mark.parametrize(
    "answer",
    [b"<a><token>1</token></a>", b"<a><objects><obj>vm-1</obj>%s</objects></a>", b"<a>", b"", b"<html/>tail"],
    ids=["no end", "no number", "cut", "empty", "no XML"],
)
def test_capacities_without_an_end_or_a_number_are_told_in_words(answer: bytes) -> None:
    devices = (
        b"<propSet><name>config.hardware.device</name><val>"
        b'<VirtualDevice xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="VirtualDisk">'
        b"<capacityInBytes>many</capacityInBytes></VirtualDevice></val></propSet>"
    )
    body = answer.replace(b"<a>", b'<a xmlns="urn:vim25">').replace(b"%s", devices)
    session: Any = FakeSession(propertyCollector=None)
    session.read_raw = lambda *_, **__: body
    with pytest.raises(ServerFault):
        capacities._read(session, [vim.VirtualMachine("vm-1")])


def listing(body: bytes) -> Any:
    """A session whose server answers the question for all VMs so."""
    stub = SimpleNamespace(InvokeMethod=lambda *_: None)
    view = SimpleNamespace(CreateContainerView=lambda *_: vim.view.ContainerView("view-1", stub))
    session: Any = FakeSession(propertyCollector=None, viewManager=view, rootFolder=vim.Folder("group-d1"))
    session.user = "u"
    session.read_raw = lambda *_, **__: body
    return session


@pytest.mark.parametrize(
    ("vm", "told"),
    [
        (b"<name>config.hardware.numCPU</name><val>many</val>", "numCPU of vm-1 is not a number"),
        (b"<name>parent</name><val>vm-1</val>", "contain one another"),
    ],
    ids=["no number", "its own folder"],
)
def test_a_list_of_vms_that_makes_no_sense_is_told_in_words(vm: bytes, told: str) -> None:
    body = (
        b'<a xmlns="urn:vim25"><objects><obj type="VirtualMachine">vm-1</obj><propSet>%s</propSet></objects></a>' % vm
    )
    with pytest.raises(ServerFault, match=told):
        inventory.read_inventory(listing(body))


def test_a_listed_vm_of_which_the_server_gives_nothing_is_listed_by_its_id() -> None:
    fault = b'<fault><fault xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="%s"/></fault></missingSet>'
    missing = b"<missingSet><path>config.instanceUuid</path>" + fault
    for kind, unread in ((b"NoPermission", True), (b"InvalidProperty", False)):
        body = b'<a xmlns="urn:vim25"><objects><obj type="VirtualMachine">vm-1</obj>%s</objects></a>' % (missing % kind)
        (row,) = inventory.read_inventory(listing(body)).rows
        assert (row.ref.path, row.power_state, row.uuid_unread) == ("/vm-1", PowerState.UNKNOWN, unread)


def test_an_update_without_an_end_is_cut() -> None:
    update = SimpleNamespace(version="1", truncated=True, filterSet=[])
    endless: Any = SimpleNamespace(WaitForUpdatesEx=lambda *_: update)
    session: Any = FakeSession()
    with pytest.raises(ServerFault, match="does not end"):
        next(collector._updates(session, endless, doing="watching", stop=StopSignal()))


def page(start: int, length: int, areas: int = 0) -> Any:
    return change_tracking._Page(start, length, (change_tracking.Extent(0, 1),) * areas)


@pytest.mark.parametrize(
    "answer",
    [
        lambda offset: page(offset, 0),
        lambda offset: page(offset, -5),
        lambda _offset: page(0, 512),
        lambda offset: page(offset + 1, 512),
        lambda offset: page(offset, 1),
        lambda offset: page(offset, 512, areas=200_000),
    ],
    ids=["no step", "a step back", "the same again", "another place", "a byte at a time", "areas without end"],
)
def test_changes_that_are_never_all_told_mean_that_the_disk_is_read_whole(answer: Any) -> None:
    asked = itertools.count()

    def ask_server(offset: int) -> Any:
        assert next(asked) <= 60_000
        return answer(offset)

    with pytest.raises(ChangeTrackingUnavailable):
        list(change_tracking._pages("what changed", ask_server, 2**50))


def test_folders_that_lie_in_one_another_are_no_path() -> None:
    tree = {"group-1": ("a", "group-2"), "group-2": ("b", "group-1"), "vm-1": ("db01", "group-1")}
    with pytest.raises(ServerFault, match="contain one another"):
        _path("vm-1", tree)


def test_a_tree_of_snapshots_as_deep_as_the_server_likes_is_read() -> None:
    node = None
    for number in range(5000, 0, -1):
        node = vim.vm.SnapshotTree(
            snapshot=vim.vm.Snapshot(f"snapshot-{number}"),
            vm=vim.VirtualMachine("vm-1"),
            name=f"s{number}",
            description="",
            createTime=NOW,
            state="poweredOff",
            quiesced=False,
            childSnapshotList=[node] if node else [],
        )
    found = flatten(vim.vm.SnapshotInfo(currentSnapshot=None, rootSnapshotList=[node]))
    assert [one.depth for one in found] == list(range(1, 5001))


# -- sizes that cannot be


@pytest.mark.parametrize("capacity", [2**60, -1, -(2**60), 0, 64 * 2**40 + 512])
def test_a_disk_of_a_size_that_cannot_be_is_not_exported_and_named(capacity: int) -> None:
    disk = vim.vm.device.VirtualDisk(
        key=2000,
        controllerKey=1000,
        unitNumber=0,
        capacityInBytes=capacity,
        capacityInKB=0,
        backing=vim.vm.device.VirtualDisk.FlatVer2BackingInfo(fileName="[ds] a.vmdk", diskMode="persistent"),
    )
    (found,) = devices.disks([disk])
    assert "cannot be" in (found.unexportable or "")


def test_a_checksum_without_a_size_is_none() -> None:
    entry = SimpleNamespace(checksumType="sha256", checksum="ab", sha1=None, size=None)
    assert _checksum(entry) is None


def endless(exchange: Exchange) -> None:
    exchange.head("200 OK", "Transfer-Encoding: chunked")
    while True:
        exchange.send(b"10000\r\n" + bytes(65_536) + b"\r\n")


def read_all(source: Source, buffer: memoryview) -> None:
    while source.readinto(buffer):
        pass


def test_a_file_that_has_no_end_of_its_own_is_given_up_at_a_bound() -> None:
    buffer = memoryview(bytearray(65_536))
    trust = Trust(ca_pem=certificate().pem)
    with (
        tls_server(endless) as server,
        open_source(server.url, trust=trust, stop=StopSignal(), largest=1_000_000) as source,
        pytest.raises(ServerFault, match="more than 1000000 bytes"),
    ):
        read_all(source, buffer)
    assert source.received <= 1_000_000 + len(buffer)


def test_a_file_announced_as_absurd_is_not_begun() -> None:
    def script(exchange: Exchange) -> None:
        exchange.head("200 OK", f"Content-Length: {2**60}")
        exchange.stall()

    trust = Trust(ca_pem=certificate().pem)
    with (
        tls_server(script) as server,
        pytest.raises(ServerFault, match="more than"),
        open_source(server.url, trust=trust, stop=StopSignal(), largest=package.LARGEST_NVRAM),
    ):
        pass


def test_a_disks_stream_ends_at_the_disks_bound_whatever_comes() -> None:
    """The largest stream that a disk of 1 MiB can have: every grain at its longest, and markers as many as fit."""
    capacity = 1 << 20
    header = vmdk.Header(capacity=capacity // 512, directory=vmdk.GD_AT_END, overhead=128)
    grain = vmdk.largest_compressed(vmdk.GRAIN)
    check = StreamCheck(capacity=capacity)
    check.feed(header.pack() + bytes(127 * 512))

    def record(lba: int) -> bytes:
        head = vmdk.GRAIN_HEADER.pack(lba, grain) + b"\x78\x9c"
        return head.ljust(-(-(grain + 12) // 512) * 512, b"\0")

    with pytest.raises(HyperExportError, match="off its end"):
        feed_all(check, map(record, itertools.count(0, 128)), most=2 * capacity)
    check = StreamCheck(capacity=capacity)
    check.feed(header.pack() + bytes(127 * 512))
    with pytest.raises(HyperExportError, match="more markers"):
        feed_all(check, itertools.repeat(vmdk.MARKER.pack(0, 0, vmdk.MARKER_PROGRESS)), most=capacity)


def feed_all(check: StreamCheck, records: Iterable[bytes], *, most: int) -> None:
    for record in records:
        check.feed(record)
        assert check.bytes < most


# -- descriptors


def envelope(href: str, *, dtd: str = "") -> str:
    return (
        f'{dtd}<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" '
        'xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">'
        f'<References><File ovf:href="{href}" ovf:id="f0"/></References></Envelope>'
    )


@pytest.mark.parametrize(
    "text",
    [
        *map(envelope, ("../../etc/passwd", "/etc/passwd", "a/b.vmdk", "C:\\disk.vmdk", "..", ".hidden", "",
                        "https://example.com/x.vmdk", "file:disk", "x" * 4000 + "/y", "gnp\u202e.vmdk")),
        envelope("&e;", dtd='<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>'),
        envelope("a.vmdk", dtd=f'<!DOCTYPE x [<!ENTITY l0 "lol">{_BOMB}]>'),
        "<Envelope/>",
        "no XML",
        "<a>" * 100_000,
    ],
)  # fmt: skip
def test_a_descriptor_that_leads_out_of_the_export_is_not_stored(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "create_descriptor", lambda *_, **__: Descriptor(text=text))
    job: Any = SimpleNamespace(session=FakeSession(), ref=VM, warn=None)
    with pytest.raises(DescriptorFailed, match="is not kept"):
        package.ovf_text(job, (), None)


def test_a_descriptor_that_names_files_beside_it_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    text = envelope("db01-disk-0.vmdk")
    monkeypatch.setattr(package, "create_descriptor", lambda *_, **__: Descriptor(text=text))
    job: Any = SimpleNamespace(session=FakeSession(), ref=VM, warn=None)
    assert package.ovf_text(job, (), None) == text


# -- the REST API


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000, b"null", b"5", b'"a"', b'{"value": 7}', b'[{"no": "name"}]', b"[[[]]]", b'{"a": {}}',
        b'["' + b"\\u0000" * 100 + b'"]', b"\xff\xfe",
    ],
)  # fmt: skip
def test_tags_that_make_no_sense_are_told_in_words(body: bytes) -> None:
    def script(exchange: Exchange) -> None:
        status = "201 Created" if b"/api/session" in exchange.request else "200 OK"
        found = b'"token"' if b"/api/session" in exchange.request else body
        exchange.head(status, f"Content-Length: {len(found)}", "Connection: close")
        exchange.send(found)

    session: Any = FakeSession()
    with tls_server(script) as server:
        session.endpoint = at(server.url)
        with pytest.raises(HyperExportError):
            tags.tagged_vms(session, ["backup:daily"])


def test_nothing_of_this_leaves_a_thread_behind() -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and any(one.name.startswith("vsphere") for one in threading.enumerate()):
        threading.Event().wait(0.05)
    assert not [one for one in threading.enumerate() if one.name.startswith("vsphere")]
