"""How a bucket is reached, and what is said where it is not."""

from pathlib import Path

import botocore.loaders
import botocore.session
import pytest
from pydantic import SecretStr

from hyperexport.base.stop import StopSignal
from hyperexport.errors import StoreUnreachable, StoreUnusable
from hyperexport.store import s3_settings
from hyperexport.store.s3 import S3Store
from hyperexport.store.s3_settings import S3Location, S3Settings
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


def test_the_description_of_s3_is_read_once_for_all_stores(
    server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(botocore.session, "create_loader", botocore.loaders.create_loader)
    open_store(server, bucket)
    read: list[str] = []
    load = botocore.loaders.JSONFileLoader.load_file

    def noting(loader: botocore.loaders.JSONFileLoader, path: str) -> object:
        read.append(path)
        return load(loader, path)

    monkeypatch.setattr(botocore.loaders.JSONFileLoader, "load_file", noting)
    open_store(server, bucket, region="eu-central-1").check()
    assert read == []


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


ROLE = "role_arn = arn:aws:iam::1:role/x\n"
ANSWER = '{"Version":1,"AccessKeyId":"a","SecretAccessKey":"the-secret","SessionToken":"t","Expiration":"%s"}'
CONFIGURATIONS = {
    "a program that is missing": "credential_process = /nowhere/program",
    "a program that may not run": "credential_process = /etc/passwd",
    "a program that fails": "credential_process = /bin/false",
    "a program that answers no JSON": "credential_process = /bin/echo hello",
    "a program that answers a list": "credential_process = /bin/echo []",
    "a program that answers no key": "credential_process = /bin/echo '{\"Version\":1}'",
    "a program that answers no text": "credential_process = /usr/bin/printf '\\xff'",
    "a command that cannot be split": "credential_process = /bin/echo 'x",
    "credentials that expire never": f"credential_process = /bin/echo '{ANSWER % 'never'}'",
    "credentials that have expired": f"credential_process = /bin/echo '{ANSWER % '2001-01-01T00:00:00Z'}'",
    "an SSO login that is missing": "sso_start_url = https://x.example.com\nsso_region = us-east-1\n"
    "sso_account_id = 1\nsso_role_name = r",
    "an SSO session that is missing": "sso_session = nobody\nsso_account_id = 1\nsso_role_name = r",
    "a role without a source": ROLE,
    "a role of itself": f"{ROLE}source_profile = q\n[profile q]\n{ROLE}source_profile = p",
    "a token file that is missing": f"{ROLE}web_identity_token_file = /nowhere/token",
    "half a key": "aws_access_key_id = a",
    "no key": "region = us-east-1",
    "a region that is none": "region = a b/c",
    "a setting twice": "region = a\nregion = b",
    "no configuration": "\x00[[",
}


@pytest.mark.parametrize("text", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_a_configuration_of_aws_that_does_not_work_is_said_without_another_try(
    text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text(f"[profile p]\n{text}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))
    location, settings = S3Location(bucket="bucket"), S3Settings(endpoint_url="https://localhost:1", profile="p")
    with pytest.raises(StoreUnusable) as caught:
        S3Store(location, settings, stop=StopSignal()).check()
    assert caught.value.fix
    assert "the-secret" not in str(caught.value)
