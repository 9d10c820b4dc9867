"""What a store's refusal means where this machine's clock is wrong; the codes are those of real services."""

import ssl
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from botocore.exceptions import ClientError, SSLError

from hyperexport.errors import StoreUnusable
from hyperexport.store.s3_errors import date_in, translate


def refusal(code: str, status: int, date: datetime | None) -> ClientError:
    headers = {"date": format_datetime(date, usegmt=True)} if date else {}
    answer = {
        "Error": {"Code": code, "Message": ""},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers},
    }
    return ClientError(answer, "ListObjectsV2")  # pyright: ignore[reportArgumentType] - as botocore makes it


@pytest.mark.parametrize(
    ("code", "status"),
    [("RequestTimeTooSkewed", 403), ("AccessDenied", 403), ("403", 403), ("SignatureDoesNotMatch", 403), ("", 401)],
)
@pytest.mark.parametrize(
    ("apart", "words"), [(timedelta(days=2, hours=1), "2d behind"), (-timedelta(days=730), "730d ahead of")]
)
def test_a_refusal_by_a_server_of_another_time_names_the_clock(
    code: str, status: int, apart: timedelta, words: str
) -> None:
    error = translate(refusal(code, status, datetime.now(UTC) + apart), "listing s3://b")
    assert isinstance(error, StoreUnusable)
    assert f"this machine's clock is {words}" in str(error)
    assert "Set this machine's clock" in str(error.fix)


@pytest.mark.parametrize("ahead", [None, timedelta(minutes=2)])
def test_a_refusal_by_a_server_of_the_same_time_does_not(ahead: timedelta | None) -> None:
    date = None if ahead is None else datetime.now(UTC) + ahead
    error = translate(refusal("AccessDenied", 403, date), "listing s3://b")
    assert "clock" not in str(error)
    assert "s3:ListBucket" in str(error.fix)


@pytest.mark.parametrize("text", ["", "yesterday", "Mon, 99 Foo 2026 00:00:00 GMT"])
def test_a_date_that_is_none_is_not_known(text: str) -> None:
    assert date_in({"date": text}) is None
    assert date_in({}) is None


@pytest.mark.parametrize(("code", "words"), [(10, "certificate has expired"), (9, "certificate is not yet valid")])
def test_a_certificate_that_is_not_of_this_time_names_the_clock(code: int, words: str) -> None:
    cause = ssl.SSLCertVerificationError(1, f"[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: {words}")
    cause.verify_code, cause.verify_message = code, words
    error = translate(SSLError(endpoint_url="https://s3.example.com", error=cause), "listing s3://b")
    assert isinstance(error, StoreUnusable)
    assert f"{words}, according to this machine's clock, which says {datetime.now(UTC):%Y-%m-%d}" in str(error)
    assert "Set this machine's clock" in str(error.fix)
