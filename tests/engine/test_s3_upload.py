"""Streams into a bucket, byte for byte, whatever the network does to them."""

import hashlib
import logging
import random
import threading
import traceback
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.credentials import RefreshableCredentials
from botocore.session import get_session
from pydantic import SecretStr

from hyperexport.base.stop import StopSignal
from hyperexport.base.units import GIB, MIB
from hyperexport.errors import ChecksumMismatch, HyperExportError, Interrupted, StoreUnreachable
from hyperexport.model.ownership import Owner
from hyperexport.store.base import Staging, Stored
from hyperexport.store.s3 import S3Location, S3Settings, S3Store
from hyperexport.store.s3_parts import PIECE
from hyperexport.store.s3_upload import MAX_PARTS, buffers, part_size
from tests.engine.s3_proxy import Fault, Proxy, faulty_proxy
from tests.engine.s3_servers import S3Server, rclone_s3

FOLDER, EXPORT = "db01.0a1b2c3d", "20261123T065304Z-00a1"
KEY = f"{FOLDER}/{EXPORT}/disk"
OWNER = Owner.of_this_process(run="run-1", vcenter="vc.example", vm="0a1b2c3d")
DATA = random.Random(7).randbytes(33 * MIB + 3)
SECOND_PART = "partNumber=2"

pytestmark = pytest.mark.usefixtures("short_s3_pauses")


@pytest.fixture
def bucket(server: S3Server, request: pytest.FixtureRequest) -> str:
    return server.make_bucket("b" + hashlib.sha256(request.node.name.encode()).hexdigest()[:12])


@pytest.fixture
def proxy(server: S3Server, tmp_path: Path) -> Generator[Proxy]:
    with faulty_proxy(server, tmp_path) as running:
        yield running


Opener = Callable[..., S3Store]


@pytest.fixture
def open_store(server: S3Server, bucket: str) -> Opener:
    """Open the bucket, through the proxy where one is given."""

    def make(
        proxy: Proxy | None = None, *, stop: StopSignal | None = None, throttle: Any = None, **how: Any
    ) -> S3Store:
        login = how or {
            "access_key": SecretStr(server.access_key),
            "secret_key": SecretStr(server.secret_key),
        }
        settings = S3Settings(endpoint_url=(proxy or server).endpoint_url, ca_bundle=(proxy or server).ca_file, **login)
        return S3Store(S3Location(bucket=bucket), settings, throttle=throttle, stop=stop or StopSignal())

    return make


def upload(staging: Staging, data: bytes, block: int = MIB) -> Stored:
    """Write a file as the pipeline does: in blocks, from a buffer that is used again."""
    sink = staging.create("disk")
    buffer = bytearray(block)
    try:
        for start in range(0, len(data), block):
            piece = data[start : start + block]
            buffer[: len(piece)] = piece
            sink.write(memoryview(buffer)[: len(piece)])
        return sink.finish()
    except BaseException:
        sink.abort()
        raise


def stage(store: S3Store) -> AbstractContextManager[Staging]:
    return store.stage(FOLDER, EXPORT, OWNER)


def stored(server: S3Server, bucket: str, key: str = KEY) -> bytes:
    return server.client().get_object(Bucket=bucket, Key=key)["Body"].read()


def leftovers(server: S3Server, bucket: str) -> list[str]:
    client = server.client()
    objects = [item["Key"] for item in client.list_objects_v2(Bucket=bucket).get("Contents", [])]
    return objects + [item["Key"] for item in client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])]


def test_parts_reach_five_tebibytes_within_s3s_limits() -> None:
    sizes = [part_size(number) for number in range(1, MAX_PARTS + 1)]
    assert sum(sizes) >= 5 * 1024 * GIB
    assert all(5 * MIB <= size <= 5 * GIB for size in sizes), "S3: 5 MiB to 5 GiB"
    assert sizes == sorted(sizes)


@pytest.mark.parametrize(
    ("length", "memory"),
    [(GIB, 48), (16 * GIB, 48), (50 * GIB, 96), (130 * GIB, 128), (290 * GIB, 256), (5 * 1024 * GIB, 3200)],
)
def test_a_stream_needs_no_more_memory_than_the_table_says(length: int, memory: int) -> None:
    position, number, peak = 0, 0, 0
    while position < length:
        number += 1
        position += part_size(number)
        peak = max(peak, part_size(number) * buffers(number))
    assert number <= MAX_PARTS
    assert peak == memory * MIB


@pytest.mark.parametrize("length", [0, 1, 16 * MIB - 1, 16 * MIB, 16 * MIB + 1, 32 * MIB, len(DATA)])
def test_a_stream_of_any_length_arrives_byte_for_byte(
    server: S3Server, bucket: str, open_store: Opener, length: int
) -> None:
    with stage(open_store()) as staging:
        result = upload(staging, DATA[:length], block=1_000_003)
        assert stored(server, bucket) == DATA[:length]
        assert result.size == length
        assert result.protection == "MD5 of each part, checked by the server"
        with staging.open("disk") as reader:
            assert b"".join(reader.chunks()) == DATA[:length]


def test_what_the_server_keeps_is_what_was_recorded(server: S3Server, bucket: str, open_store: Opener) -> None:
    with stage(open_store()) as staging:
        result = upload(staging, DATA)
        head = server.client().head_object(Bucket=bucket, Key=KEY)
    assert (result.etag, result.checksum) == (head["ETag"], f"ETag:{head['ETag']}")


def test_a_file_begun_again_has_no_byte_of_the_first_try(server: S3Server, bucket: str, open_store: Opener) -> None:
    with stage(open_store()) as staging:
        staging.create("disk").write(memoryview(DATA[: 32 * MIB]))
        upload(staging, b"second")
        assert stored(server, bucket) == b"second"
        staging.create("disk").write(memoryview(DATA[: 32 * MIB]))
        assert KEY not in [item["Key"] for item in server.client().list_objects_v2(Bucket=bucket)["Contents"]]
    assert leftovers(server, bucket) == []


def test_an_overloaded_server_is_asked_again(server: S3Server, bucket: str, open_store: Opener, proxy: Proxy) -> None:
    proxy.fault = lambda request, count: Fault.SLOW_DOWN if SECOND_PART in request and count < 2 else None
    with stage(open_store(proxy)) as staging:
        upload(staging, DATA)
        assert stored(server, bucket) == DATA
    assert sum(SECOND_PART in request for request in proxy.requests) == 3


@pytest.mark.parametrize(
    "failure",
    [(Fault.SLOW_DOWN, StoreUnreachable), (Fault.HANG_UP, StoreUnreachable), (Fault.CORRUPT, ChecksumMismatch)],
)
def test_a_part_that_never_arrives_fails_the_upload_and_leaves_nothing(
    server: S3Server, bucket: str, open_store: Opener, proxy: Proxy, failure: tuple[Fault, type[HyperExportError]]
) -> None:
    fault, kind = failure
    proxy.fault = lambda request, _count: fault if SECOND_PART in request else None
    with pytest.raises(kind, match="part 2 of s3://") as caught, stage(open_store(proxy)) as staging:
        upload(staging, DATA)
    assert caught.value.transient
    assert sum(SECOND_PART in request for request in proxy.requests) == 5
    assert leftovers(server, bucket) == []


def test_a_part_that_is_damaged_on_the_way_is_sent_again(
    server: S3Server, bucket: str, open_store: Opener, proxy: Proxy
) -> None:
    damaged: list[str] = []

    def fault(request: str, count: int) -> Fault | None:
        if (
            count == 0
            and request.startswith("PUT")
            and ("partNumber" in request and "hyperexport-probe" not in request)
        ):
            damaged.append(request)
            return Fault.CORRUPT
        return None

    proxy.fault = fault
    with stage(open_store(proxy)) as staging:
        upload(staging, DATA)
        assert stored(server, bucket) == DATA
    assert len(damaged) == 3, "each of the parts was"


def test_a_small_file_that_is_damaged_on_the_way_is_sent_again(
    server: S3Server, bucket: str, open_store: Opener, proxy: Proxy
) -> None:
    proxy.fault = lambda request, count: Fault.CORRUPT if "/disk" in request and count == 0 else None
    with stage(open_store(proxy)) as staging:
        upload(staging, b"small")
        assert stored(server, bucket) == b"small"


def test_a_completion_that_fails_with_status_200_is_repeated(
    server: S3Server, bucket: str, open_store: Opener, proxy: Proxy
) -> None:
    proxy.fault = lambda request, count: Fault.ERROR_IN_200 if _completes(request) and count == 0 else None
    with stage(open_store(proxy)) as staging:
        assert upload(staging, DATA).size == len(DATA)
        assert stored(server, bucket) == DATA


def test_a_completion_whose_answer_is_lost_is_recognised(
    server: S3Server, bucket: str, open_store: Opener, proxy: Proxy
) -> None:
    proxy.fault = lambda request, count: Fault.LOSE_ANSWER if _completes(request) and count == 0 else None
    with stage(open_store(proxy)) as staging:
        assert upload(staging, DATA).size == len(DATA)
        assert stored(server, bucket) == DATA


def _completes(request: str) -> bool:
    return request.startswith("POST") and "uploadId=" in request


def test_a_server_that_goes_away_leaves_nothing_that_looks_complete(
    server: S3Server, bucket: str, open_store: Opener, proxy: Proxy
) -> None:
    gone = threading.Event()

    def fault(request: str, _count: int) -> Fault | None:
        if SECOND_PART in request:
            gone.set()
        return Fault.HANG_UP if gone.is_set() else None

    proxy.fault = fault
    with pytest.raises(StoreUnreachable), stage(open_store(proxy)) as staging:
        upload(staging, DATA)
    later = open_store()
    assert later.exports() == []
    (left,) = later.abandoned()
    assert left.owner == OWNER
    assert f"{FOLDER}/{EXPORT}/disk" in leftovers(server, bucket), "the unfinished upload is there"
    later.remove_abandoned(left)
    assert leftovers(server, bucket) == []


def test_a_killed_server_is_an_error_and_not_a_traceback_of_the_cleanup(tmp_path: Path) -> None:
    with rclone_s3(tmp_path) as doomed:
        settings = S3Settings(
            endpoint_url=doomed.endpoint_url,
            ca_bundle=doomed.ca_file,
            access_key=SecretStr(doomed.access_key),
            secret_key=SecretStr(doomed.secret_key),
        )
        store = S3Store(S3Location(bucket=doomed.make_bucket("b01")), settings, stop=StopSignal())

        def upload_to_the_end() -> None:
            with stage(store) as staging:
                sink = staging.create("disk")
                sink.write(memoryview(DATA[: 20 * MIB]))
                doomed.kill()
                sink.write(memoryview(DATA[20 * MIB :]))
                sink.finish()

        with pytest.raises(StoreUnreachable):
            upload_to_the_end()


def test_a_stop_breaks_off_a_send_that_is_stuck(
    server: S3Server, bucket: str, open_store: Opener, proxy: Proxy
) -> None:
    proxy.fault = lambda request, _count: Fault.STALL if SECOND_PART in request else None
    stop = StopSignal()

    def stop_when_stuck() -> None:
        assert proxy.stalled.wait(60)
        stop.set()

    stopper = threading.Thread(target=stop_when_stuck)
    stopper.start()
    with pytest.raises(Interrupted), stage(open_store(proxy, stop=stop)) as staging:
        upload(staging, DATA)
    stopper.join()
    assert leftovers(server, bucket) == []


def test_giving_up_one_file_breaks_off_its_send_and_not_the_run(
    server: S3Server, bucket: str, open_store: Opener, proxy: Proxy
) -> None:
    proxy.fault = lambda request, _count: Fault.STALL if SECOND_PART in request else None
    with stage(open_store(proxy)) as staging:
        sink = staging.create("disk")
        sink.write(memoryview(DATA[: 32 * MIB]))
        assert proxy.stalled.wait(60)
        sink.abort()
        proxy.fault = lambda _request, _count: None
        upload(staging, b"another")
        assert stored(server, bucket) == b"another"


class CountingThrottle:
    """What a throttle sees: how much is asked for at once, and of which run."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.troubles = 0

    def take(self, count: int, stop: StopSignal) -> None:
        assert isinstance(stop, StopSignal)
        self.taken.append(count)

    def observe(self, way: str, count: int, seconds: float) -> None:
        assert (way, count > 0, seconds >= 0) == ("write", True, True)

    def answered(self, way: str, seconds: float) -> None:
        assert (way, seconds >= 0) == ("write", True)

    def trouble(self) -> None:
        self.troubles += 1


def test_every_byte_is_charged_in_small_pieces(open_store: Opener) -> None:
    throttle = CountingThrottle()
    with stage(open_store(throttle=throttle)) as staging:
        upload(staging, DATA)
        staging.put("db01.ovf", b"0123456789")
    assert sum(throttle.taken) == len(DATA) + 10
    assert max(throttle.taken) == PIECE


def test_each_failed_attempt_is_told_to_the_throttle(open_store: Opener, proxy: Proxy) -> None:
    throttle = CountingThrottle()
    proxy.fault = lambda request, count: Fault.SLOW_DOWN if SECOND_PART in request and count < 2 else None
    with stage(open_store(proxy, throttle=throttle)) as staging:
        upload(staging, DATA)
    assert throttle.troubles == 2


def test_no_credential_is_logged_even_at_debug(
    server: S3Server, bucket: str, open_store: Opener, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    proxy.fault = lambda request, count: Fault.SLOW_DOWN if SECOND_PART in request and count < 1 else None
    with stage(open_store(proxy)) as staging:
        upload(staging, DATA)
    assert "SlowDown" in caplog.text
    for secret in (server.secret_key, "X-Amz-Signature", "Signature="):
        assert secret not in caplog.text
    assert any("X-Amz-Signature" in request for request in proxy.requests), "there was something to hide"


def test_no_signed_url_is_in_the_traceback_of_a_failure(open_store: Opener, proxy: Proxy) -> None:
    proxy.fault = lambda request, _count: Fault.HANG_UP if "/disk" in request else None
    with pytest.raises(StoreUnreachable) as caught, stage(open_store(proxy)) as staging:
        staging.put("disk", b"small")
    assert "X-Amz-" not in "".join(traceback.format_exception(caught.value))


def test_credentials_that_expire_are_renewed_while_parts_are_sent(
    server: S3Server, bucket: str, open_store: Opener
) -> None:
    renewals: list[datetime] = []

    def renew() -> dict[str, str]:
        renewals.append(datetime.now(UTC))
        # Within botocore's margin, so that each signature asks for new ones.
        expiry = (datetime.now(UTC) + timedelta(minutes=2)).isoformat()
        return {"access_key": server.access_key, "secret_key": server.secret_key, "token": "", "expiry_time": expiry}

    session: Any = get_session()
    session._credentials = RefreshableCredentials.create_from_metadata(renew(), renew, "test")
    store = open_store(session_factory=lambda: boto3.Session(botocore_session=session))
    with stage(store) as staging:
        before = len(renewals)
        upload(staging, DATA)
        assert stored(server, bucket) == DATA
    assert len(renewals) - before >= 4, "once for each part at least"
