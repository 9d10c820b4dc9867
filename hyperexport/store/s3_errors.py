"""What an object store's refusals and silences mean, in this product's own errors, and which are worth another try.

Only codes, statuses and types decide. What a library says is repeated only where it cannot hold a credential.
"""

import logging
import re
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Final

import tenacity
from boto3.exceptions import Boto3Error
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSLError,
    SSOError,
    TokenRetrievalError,
)
from botocore.exceptions import (
    ConnectionError as BotoConnectionError,
)
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError
from urllib3.exceptions import SSLError as Urllib3SSLError

from hyperexport.base.stop import StopSignal
from hyperexport.base.units import format_age
from hyperexport.errors import (
    ChecksumMismatch,
    HyperExportError,
    StoreUnreachable,
    StoreUnusable,
    TransientError,
)
from hyperexport.model.history import TOLERANCE
from hyperexport.model.tls import certificate_error, clock_is_in_question, refusal_words

logger = logging.getLogger(__name__)

ATTEMPTS: Final = 5
FIRST_PAUSE: float = 0.5
"""Seconds that the first pause lasts at most; each further one may last twice as long, up to 20 s."""

_FIXES: Final = {
    "NoSuchBucket": "Create the bucket, or correct its name",
    "InvalidBucketName": "Correct the bucket's name",
    "AccessDenied": "Allow these credentials s3:ListBucket, s3:GetObject, s3:PutObject, s3:DeleteObject, "
    "s3:AbortMultipartUpload and s3:ListBucketMultipartUploads on the bucket",
    "AllAccessDisabled": "Ask the bucket's owner why access to it is disabled",
    "InvalidAccessKeyId": "Check the access key: the server does not know it",
    "SignatureDoesNotMatch": "Check the secret key: it does not belong to the access key",
    "InvalidToken": "Check the session token, or log in again",
    "PermanentRedirect": "Set the region or the endpoint that the bucket is in",
    "AuthorizationHeaderMalformed": "Set the region that the bucket is in",
    "IllegalLocationConstraintException": "Set the region that the bucket is in",
    "RequestTimeTooSkewed": "Set this machine's clock",
    "QuotaExceeded": "Free space in the store, or raise the quota",
    "EntityTooLarge": "Ask the server's administrator for its limits on an object's size",
}
_SIGNATURE_REFUSED: Final = frozenset({400, 401, 403})
_DAMAGED: Final = {"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"}
_PASSING: Final = {
    "SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "RequestTimeoutException", "Throttling",
    "ThrottlingException", "TooManyRequests", "OperationAborted", "ExpiredToken", "IncompleteBody",
}  # fmt: skip
_BY_STATUS: Final = {
    401: "InvalidAccessKeyId", 403: "AccessDenied", 404: "NoSuchBucket", 301: "PermanentRedirect"
}  # fmt: skip
_CREDENTIALS: Final = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    TokenRetrievalError,
    ProfileNotFound,
    SSOError,
)


_NONSENSE: Final = (ValueError, LookupError, AttributeError, TypeError, RuntimeError, EOFError)
"""What botocore's credential providers make of a program's or a file's answer that makes no sense: JSON that is none or
has other types, a date that is none, renewed credentials that have expired, an MFA code that nobody types."""

FAILURES: Final = (
    ClientError, BotoCoreError, Boto3Error, ResponseParserError, HTTPError, HTTPException, OSError, *_NONSENSE
)  # fmt: skip
"""What a call through boto3 or urllib3 can raise when the store, the way to it or its settings are at fault."""

_LOCAL: Final = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)
"""Of a file or a program that the configuration names; no answer of a network."""


def code_of(error: ClientError) -> str:
    """The S3 error code, such as ``NoSuchKey``; the status as text where an answer has no body (HEAD)."""
    return str(error.response.get("Error", {}).get("Code", ""))


def status_of(error: ClientError) -> int:
    """The HTTP status of a refusal; 0 where it is not known."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def date_in(headers: Mapping[str, str]) -> datetime | None:
    """The time at which an answer was made, by the server's clock and to the second; None where it has no date."""
    try:
        return parsedate_to_datetime(headers.get("date") or "").astimezone(UTC)
    except ValueError:
        return None


def _clock_problem(status: int, date: datetime | None) -> str | None:
    """Say how far this machine's clock is from the server's, where that is enough for a signature to be refused.

    Services differ in the code that they give for it (RequestTimeTooSkewed, AccessDenied), and HEAD gives none.
    """
    apart = datetime.now(UTC) - date if date and status in _SIGNATURE_REFUSED else timedelta(0)
    if abs(apart) <= TOLERANCE:
        return None
    direction = "ahead of" if apart > timedelta(0) else "behind"
    return f"this machine's clock is {format_age(abs(apart))} {direction} the server's"


def refused(code: str, status: int, message: str, what: str, *, date: datetime | None = None) -> HyperExportError:
    """The error for an answer that says no.

    Args:
        code: S3's error code; empty or the bare status where the answer had no body.
        status: The HTTP status.
        message: The server's own words.
        what: What was being done and on what, as "uploading part 3 of s3://b/k".
        date: When the server answered, by its own clock.
    """
    if not code or code.isdigit():
        code = _BY_STATUS.get(status, f"HTTP {status}")
    words = " ".join(message.split())[:300].rstrip(".")
    reason = f"{code} ({words})" if words and words != code else code
    if code in _DAMAGED:
        return ChecksumMismatch(f"{what}: the bytes arrived damaged: {reason}", fix="Check the network's hardware")
    if code == "NoSuchUpload":
        return StoreUnreachable(f"{what}: the store dropped the unfinished upload", fix="Start the file again")
    if code in _PASSING or status in {408, 429} or (status >= 500 and status != 501):
        return StoreUnreachable(f"{what}: the store is overloaded or failing: {reason}", fix="Try again later")
    if clock := _clock_problem(status, date):
        return StoreUnusable(f"{what}: the store refused: {reason}; {clock}", fix=_FIXES["RequestTimeTooSkewed"])
    return StoreUnusable(f"{what}: the store refused: {reason}", fix=_FIXES.get(code))


def translate(error: Exception, what: str) -> HyperExportError:
    """The error for an exception of boto3's or urllib3's."""
    if isinstance(error, ClientError):
        message = error.response.get("Error", {}).get("Message") or ""  # radosgw gives none.
        headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        return refused(code_of(error), status_of(error), message, what, date=date_in(headers))
    if isinstance(error, SSLError | Urllib3SSLError) and certificate_error(error) is not None:
        return _untrusted(error, what)
    if isinstance(error, ResponseParserError):
        return StoreUnreachable(
            f"{what}: the answer is not from an S3 server", fix="Check the endpoint's address and any proxy in between"
        )
    network = isinstance(error, BotoConnectionError | HTTPClientError | HTTPError | HTTPException | OSError)
    if network and not isinstance(error, _LOCAL):
        return StoreUnreachable(
            f"{what}: no answer from the store ({type(error).__name__})",
            fix="Check the endpoint's address and the network",
        )
    return _misconfigured(error, what)


def _misconfigured(error: Exception, what: str) -> StoreUnusable:
    if isinstance(error, _CREDENTIALS):
        return StoreUnusable(
            f"{what}: there are no usable credentials: {error}",
            fix="Log in again, or give an access key and a secret key, a profile, or a saved credentials block",
        )
    if isinstance(error, _LOCAL):
        return StoreUnusable(
            f"{what}: {error.filename or 'a file of the AWS configuration'}: {error.strerror or type(error).__name__}",
            fix="Correct the AWS configuration: it names this file or program",
        )
    unsent = "a name or an address has characters that cannot be sent"
    reason = unsent if isinstance(error, UnicodeError) else re.sub(r"//\S*@", "//...@", str(error))
    if not isinstance(error, BotoCoreError | Boto3Error | ValueError):
        reason = f"boto3 failed ({type(error).__name__}: {reason})"
    return StoreUnusable(f"{what}: {reason}", fix="Correct the S3 settings or the AWS configuration")


def _untrusted(error: Exception, what: str) -> StoreUnusable:
    if clock_is_in_question(error):
        return StoreUnusable(
            f"{what}: the server's certificate is not trusted: {refusal_words(error)}",
            fix="Set this machine's clock if it is wrong; otherwise renew the server's certificate",
        )
    return StoreUnusable(
        f"{what}: the server's certificate is not signed by a trusted CA",
        fix="Set the CA file, or correct the endpoint's host name",
    )


@contextmanager
def translated(what: str) -> Generator[None]:
    """Let only this product's errors out of the block.

    Raises:
        StoreUnusable: The store refused, and repeating won't help.
        StoreUnreachable: It did not answer, or is overloaded.
        ChecksumMismatch: Bytes were damaged on their way.
    """
    try:
        yield
    except FAILURES as error:
        raise translate(error, what) from error


def retrying(stop: StopSignal, what: str) -> tenacity.Retrying:
    """Repeat a call that is safe to repeat while its failure may pass; a stopped run does not wait.

    Use as ``retrying(stop, what)(function, *arguments)``.
    """

    def tell(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        logger.warning("%s: attempt %d failed, trying again: %s", what, state.attempt_number, error)

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(TransientError),
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=tenacity.wait_random_exponential(multiplier=FIRST_PAUSE, max=20),
        sleep=_interruptible(stop),
        before_sleep=tell,
        reraise=True,
    )


def _interruptible(stop: StopSignal) -> Callable[[float], None]:
    def pause(seconds: float) -> None:
        stop.wait(seconds)
        stop.check()

    return pause


def code_in(body: bytes) -> tuple[str, str]:
    """The code and message of an S3 error document; empty where there is none."""
    text = body.decode(errors="replace")
    code, message = (re.search(rf"<{tag}>([^<]*)</{tag}>", text) for tag in ("Code", "Message"))
    return code.group(1) if code else "", message.group(1) if message else ""
