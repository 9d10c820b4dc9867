"""A key and its secret in an address of S3 or of a webhook are refused, and shown nowhere."""

import traceback
import warnings

import pytest

from hyperexport.errors import UsageError
from hyperexport.options.precedence import ExportOptions, resolve
from hyperexport.store.s3_settings import S3Location, S3Settings, connect

SECRET = "SeCrEt"


def refusal(call, kind: type[Exception]) -> str:
    with warnings.catch_warnings(), pytest.raises(kind) as refused:
        call()
    return "".join(traceback.format_exception(refused.value)[-1:]) + repr(refused.value) + repr(refused.value.__cause__)


@pytest.mark.parametrize(
    "given",
    [
        {"s3_endpoint": f"https://key:{SECRET}@minio.example.com"},
        {"s3_endpoint": f"https://key:{SECRET}/more@minio.example.com:9000"},
        {"s3_endpoint": f"https://key:{SECRET}#@minio.example.com"},
        {"upload": f"s3://key:{SECRET}@bucket/prefix"},
        {"upload": f"s3://key:{SECRET}/more@bucket/prefix"},
        {"upload": f"https://key:{SECRET}@bucket"},
        {"notify_webhook": [f"https://hooks.example.com/{SECRET}"]},
    ],
)
def test_an_option_with_a_login_is_refused_without_it(monkeypatch, given):
    assert SECRET not in refusal(lambda: ExportOptions.from_keys(given), Exception)
    ((key, value),) = given.items()
    monkeypatch.setenv(f"HYPEREXPORT_{key.upper()}", value if isinstance(value, str) else value[0])
    assert SECRET not in refusal(resolve, UsageError)


@pytest.mark.parametrize(
    "url", [f"s3://key:{SECRET}@bucket", f"s3://key:{SECRET}/x@bucket/p", f"https://{SECRET}@bucket", f"{SECRET}@b"]
)
def test_a_bucket_with_a_login_is_refused_without_it(url):
    assert SECRET not in refusal(lambda: S3Location.parse(url), UsageError)


def test_an_endpoint_with_a_login_is_refused_without_it(monkeypatch):
    url = f"https://key:{SECRET}@minio.example.com"
    assert SECRET not in refusal(lambda: S3Settings(endpoint_url=url), ValueError)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
    assert SECRET not in refusal(lambda: connect(S3Settings(region="us-east-1")), UsageError)


def test_an_at_sign_in_a_prefix_is_no_login():
    assert S3Location.parse("s3://bucket/a@b:c").prefix == "a@b:c"
    assert ExportOptions.from_keys({"upload": "s3://bucket/a@b:c"}).destination.upload == "s3://bucket/a@b:c"
