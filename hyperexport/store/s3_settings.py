"""Where an object store is and how to log in to it.

Values, and the boto3 client that they lead to. Credentials come from boto3's own chain unless the caller brings some;
they are never read out of boto3 and kept, so that expiring ones are renewed by it during a long upload. This module
must never let a credential reach a message or a log.
"""

import logging
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self, cast

from pydantic import Field, SecretStr, field_validator, model_validator

from hyperexport.base.secrets import LOGIN_IN_ADDRESS, refuse_login
from hyperexport.errors import UsageError
from hyperexport.model.vm import Value

if TYPE_CHECKING:
    import boto3
    from mypy_boto3_s3 import S3Client

CONTROL_ATTEMPTS: int = 4
"""How often boto3 tries a request that carries no part's bytes, with a pause of a few seconds at most between."""

USER_AGENT: Final = "hyperexport"
"""Names the client in the server's log. boto3 assembles its own for each request, a quarter of its processor time."""

_LOG_IN: Final = "Give the keys with --s3-credentials, or as boto3 reads them"
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
_UNSAFE: Final = re.compile(r"[\x00-\x1f\x7f\\]")


class S3Location(Value):
    """A bucket, and the place in it under which everything of ours lies."""

    bucket: str
    prefix: str = Field(default="", description="Without a slash at either end; empty for the bucket's root.")

    @classmethod
    def parse(cls, url: str) -> "S3Location":
        """Read ``s3://bucket/prefix``.

        Raises:
            UsageError: The text is no such address.
        """
        scheme, _, rest = url.partition("://")
        bucket, _, prefix = rest.partition("/")
        prefix = prefix.strip("/")
        fix = "Write it as s3://bucket or s3://bucket/prefix"
        if scheme != "s3" or not _BUCKET.fullmatch(bucket):
            if "@" in url:  # what stands before it may be a key and its secret
                raise UsageError("the address of an S3 bucket must hold no user name or password", fix=fix)
            raise UsageError(f"{url!r} is not the address of an S3 bucket", fix=fix)
        if _UNSAFE.search(prefix) or (prefix and any(part in {"", ".", ".."} for part in prefix.split("/"))):
            raise UsageError(f"the prefix in {url!r} has an empty, relative or unprintable part", fix=fix)
        return cls(bucket=bucket, prefix=prefix)

    def key(self, *parts: str) -> str:
        """The object key of something under the prefix."""
        return "/".join([self.prefix, *parts] if self.prefix else parts)

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}" if self.prefix else f"s3://{self.bucket}"


class S3Settings(Value):
    """How to reach an S3 service; with nothing given, AWS by boto3's own configuration."""

    endpoint_url: str | None = Field(default=None, pattern=r"^https?://", description="For anything S3-compatible.")
    region: str | None = None
    verify: bool = Field(default=True, description="Whether to verify the server's certificate.")
    ca_bundle: Path | None = Field(default=None, description="PEM file of the trusted CAs.")
    addressing: Literal["auto", "path", "virtual"] = Field(
        default="auto",
        description="Where the bucket's name goes; auto: the path for an endpoint_url, else boto3's default.",
    )
    profile: str | None = Field(default=None, description="A profile of the AWS configuration files.")
    access_key: SecretStr | None = None
    secret_key: SecretStr | None = None
    session_token: SecretStr | None = None
    session_factory: Callable[[], Any] | None = Field(
        default=None,
        exclude=True,
        repr=False,
        description="Makes the boto3.Session to use, such as a prefect-aws credentials block's get_boto3_session.",
    )

    @field_validator("endpoint_url")
    @classmethod
    def _no_login(cls, value: str | None) -> str | None:
        return refuse_login(value)

    @model_validator(mode="after")
    def _one_way_to_log_in(self) -> Self:
        if (self.access_key is None) != (self.secret_key is None):
            raise ValueError("access_key and secret_key belong together")
        if sum((self.access_key is not None, self.profile is not None, self.session_factory is not None)) > 1:
            raise ValueError("give one of access_key, profile and session_factory")
        return self

    def session(self) -> "boto3.Session":
        """The boto3 session that these settings lead to.

        Raises:
            StoreUnusable: There is no such profile, or the configuration cannot be read.
        """
        import boto3  # noqa: PLC0415 - half a second, and only S3 needs it

        from hyperexport.store.s3_errors import translated  # noqa: PLC0415

        with translated("reading the AWS configuration"):
            if self.session_factory is not None:
                return cast("boto3.Session", self.session_factory())
            session = boto3.Session(
                aws_access_key_id=_reveal(self.access_key),
                aws_secret_access_key=_reveal(self.secret_key),
                aws_session_token=_reveal(self.session_token),
                profile_name=self.profile,
            )
            _share_descriptions(session)
            return session


class TlsTrust(Value):
    """Which certificates are believed, for connections that boto3 does not make itself."""

    ca_file: str | None = Field(description="PEM file of the CAs; None where no certificate is verified.")


def connect(settings: S3Settings) -> "tuple[S3Client, TlsTrust]":
    """Make the client for all requests but the parts' bytes, and tell what those need to trust the same server.

    Raises:
        StoreUnusable: The configuration is incomplete or contradicts itself.
    """
    from botocore.config import Config  # noqa: PLC0415
    from botocore.httpsession import get_cert_path  # noqa: PLC0415

    from hyperexport.store.s3_errors import translated  # noqa: PLC0415

    _keep_credentials_out_of_logs()
    session = settings.session()
    configured = session._session.get_config_variable("ca_bundle")  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType, reportUnknownVariableType]
    trust = str(settings.ca_bundle or configured or "") or True
    secure = not (settings.endpoint_url or "https:").startswith("http:")
    addressing = "path" if settings.addressing == "auto" and settings.endpoint_url else settings.addressing
    with translated("setting up the S3 client"):
        client = session.client(  # pyright: ignore[reportUnknownMemberType] - one overload for each AWS service
            "s3",
            endpoint_url=settings.endpoint_url,
            region_name=settings.region or session.region_name or ("us-east-1" if settings.endpoint_url else None),
            verify=trust if settings.verify else False,
            config=Config(
                signature_version="s3v4",
                # Over TLS, as AWS's own tools do: signing the payload would cost a SHA-256 of every byte.
                s3={"addressing_style": addressing, "payload_signing_enabled": not secure},
                # Ceph's radosgw answers MissingContentLength to boto3's default trailing checksums over TLS.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                retries={"mode": "standard", "total_max_attempts": CONTROL_ATTEMPTS},
                connect_timeout=10,
                read_timeout=60,
                max_pool_connections=16,
                tcp_keepalive=True,
                user_agent=USER_AGENT,
            ),
        )
    if "@" in client.meta.endpoint_url:  # from AWS_ENDPOINT_URL, or a profile
        raise UsageError(f"the S3 endpoint of boto3's configuration: {LOGIN_IN_ADDRESS}", fix=_LOG_IN)
    return client, TlsTrust(ca_file=str(get_cert_path(cast("Any", trust))) if settings.verify else None)


@cache
def _descriptions(data_path: str | None) -> Any:
    """boto3's descriptions of AWS's services in these folders, which it reads anew for each session: 0.15 s."""
    from botocore.loaders import create_loader  # noqa: PLC0415

    return create_loader(data_path)


def _share_descriptions(session: "boto3.Session") -> None:
    inner: Any = session._session  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType]
    inner.register_component("data_loader", _descriptions(inner.get_config_variable("data_path")))


def _reveal(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None


class _NoSignedUrls(logging.Filter):
    """Drops lines that show a pre-signed URL: it is a credential for as long as it is valid."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "X-Amz-Signature" not in record.getMessage()


_NO_SIGNED_URLS: Final = _NoSignedUrls()


def _keep_credentials_out_of_logs() -> None:
    # At DEBUG botocore writes whole requests (session tokens, signatures), and urllib3 the URLs that it asks for.
    logging.getLogger("botocore").setLevel(logging.INFO)
    logging.getLogger("urllib3.connectionpool").addFilter(_NO_SIGNED_URLS)
