"""How a bucket is reached, and what is said where it is not."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from hyperexport.errors import StoreUnreachable, StoreUnusable
from hyperexport.store import s3_settings
from tests.engine.s3_exports import open_store, settings
from tests.engine.s3_servers import S3Server


def test_a_wrong_secret_key_is_said_and_not_shown(server: S3Server, bucket: str) -> None:
    secret = "wrong-key-that-must-not-appear"
    store = open_store(server, bucket, secret_key=SecretStr(secret))
    with pytest.raises(StoreUnusable) as caught:
        store.check()
    assert caught.value.fix
    assert secret not in str(caught.value)
    assert server.access_key not in str(caught.value)
    with pytest.raises(StoreUnusable):
        store.exports()


def test_a_missing_bucket_is_said(server: S3Server) -> None:
    with pytest.raises(StoreUnusable, match=r"NoSuchBucket.*Create the bucket"):
        open_store(server, "missing-bucket").check()


def test_no_credentials_at_all_is_said(
    server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StoreUnusable, match="no usable credentials"):
        open_store(server, bucket, access_key=None, secret_key=None).check()
    with pytest.raises(StoreUnusable, match="no usable credentials"):
        open_store(server, bucket, access_key=None, secret_key=None, profile="nobody")


def test_credentials_of_boto3s_own_chain_and_of_a_session_work(
    server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3

    session = boto3.Session(aws_access_key_id=server.access_key, aws_secret_access_key=server.secret_key)
    open_store(server, bucket, access_key=None, secret_key=None, session_factory=lambda: session).check()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.secret_key)
    open_store(server, bucket, access_key=None, secret_key=None).check()


def test_an_untrusted_certificate_is_said(server: S3Server, bucket: str) -> None:
    with pytest.raises(StoreUnusable, match="certificate"):
        open_store(server, bucket, ca_bundle=None).check()
    open_store(server, bucket, ca_bundle=None, verify=False).check()


def test_an_address_where_nobody_answers_is_transient(
    server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_settings, "CONTROL_ATTEMPTS", 2)
    store = open_store(server, bucket, endpoint_url="https://localhost:1")
    with pytest.raises(StoreUnreachable) as caught:
        store.exports()
    assert caught.value.transient


def test_settings_show_no_secret(server: S3Server) -> None:
    shown = repr(settings(server)) + settings(server).model_dump_json()
    assert server.secret_key not in shown
    assert server.access_key not in shown
