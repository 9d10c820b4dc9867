"""What guards a part's bytes on their way into an object store: found out by asking, said in plain words.

Servers differ, and some take a checksum and never look at it. So the server is asked once with a right checksum and
once with a wrong one: only one that refuses the wrong one protects. CRC32 comes first: it costs a sixth of MD5.
"""

import base64
import hashlib
import logging
import zlib
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import partial
from typing import Any, Final, cast

from botocore.exceptions import ClientError

from hyperexport.errors import HyperExportError, StoreUnreachable, StoreUnusable
from hyperexport.store.s3_bucket import S3Bucket, UnfinishedUpload
from hyperexport.store.s3_errors import code_of, status_of, translated

logger = logging.getLogger(__name__)

PROBE_NAME: Final = ".hyperexport-probe"
PROBES: Final = 5
"""How often a run asks again whose probe another has removed."""

_PROBE: Final = b"hyperexport asks whether a wrong checksum is refused"


class Protection(StrEnum):
    """A way to guard a part, best first."""

    CRC32 = "CRC32 of each part, checked by the server"
    MD5 = "MD5 of each part, checked by the server"
    TLS = "TLS only: the server checks no checksums"
    TLS_WITH_CRC32 = "TLS only: the server demands CRC32s and does not check them"
    TLS_WITH_MD5 = "TLS only: the server demands MD5s and does not check them"

    @property
    def algorithm(self) -> str | None:
        """The algorithm that a multipart upload has to announce when it begins."""
        return "CRC32" if self is Protection.CRC32 else None

    def parameters(self, data: memoryview) -> dict[str, str]:
        """boto3's parameters that carry the checksum of a part."""
        match self:
            case Protection.CRC32 | Protection.TLS_WITH_CRC32:
                return {"ChecksumCRC32": base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()}
            case Protection.MD5 | Protection.TLS_WITH_MD5:
                return {"ContentMD5": base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()}
            case Protection.TLS:
                return {}


HEADERS: Final = {"ChecksumCRC32": "x-amz-checksum-crc32", "ContentMD5": "Content-MD5"}
"""The headers that a request pre-signed with those parameters must have."""


def headers(parameters: Mapping[str, str]) -> dict[str, str]:
    """The headers for :meth:`Protection.parameters`."""
    return {HEADERS[name]: value for name, value in parameters.items()}


def find_protection(bucket: S3Bucket, *, drop: bool = True) -> Protection:
    """Ask a server which checksums it looks at, with an upload that is never completed.

    Args:
        bucket: Where.
        drop: Whether the probes of dead runs are removed first.

    Raises:
        StoreUnusable: Uploads are refused altogether, or nothing would guard the bytes on a connection without TLS.
        StoreUnreachable: No answer.
    """
    if drop:
        drop_probes(bucket)
    for protection in (Protection.CRC32, Protection.MD5):
        if _is_checked(bucket, protection):
            logger.info("%s: %s", bucket.location, protection)
            return protection
    if not bucket.secure:
        raise StoreUnusable(
            f"{bucket.location} is reached without TLS and its server checks no checksums: nothing protects the bytes",
            fix="Use an https:// endpoint",
        )
    unchecked = _demanded(bucket)
    logger.warning("%s: %s", bucket.location, unchecked)
    return unchecked


def _demanded(bucket: S3Bucket) -> Protection:
    """Find what parts have to have though nobody checks it, as with Object Lock and a default retention."""
    key = bucket.location.key(PROBE_NAME)
    upload = UnfinishedUpload(key, bucket.begin_upload(key, {}))
    probe = memoryview(_PROBE)
    try:
        ways = (Protection.TLS, Protection.TLS_WITH_CRC32, Protection.TLS_WITH_MD5)
        return next((way for way in ways if _takes(bucket, upload, way.parameters(probe))), Protection.TLS)
    finally:
        bucket.abort_upload(upload)


def drop_probes(bucket: S3Bucket) -> None:
    """Remove the probes of runs that died; one that is alive makes another."""
    drops: list[Callable[[], object]]
    drops = [partial(bucket.abort_upload, left) for left in bucket.unfinished_uploads(bucket.location.key(PROBE_NAME))]
    drops += [partial(bucket.delete, key) for key, _ in bucket.objects(bucket.location.key(PROBE_NAME))]
    for drop in drops:
        try:
            drop()
        except StoreUnusable as error:
            bucket.note_warning(f"a test object of a dead run could not be removed: {error}")


def _is_checked(bucket: S3Bucket, protection: Protection) -> bool:
    for left in range(PROBES - 1, -1, -1):
        try:
            return _ask(bucket, protection)
        except StoreUnreachable as error:
            # Another run that begins right now takes our probe for a dead one's.
            if not left or not isinstance(error.__cause__, ClientError) or code_of(error.__cause__) != "NoSuchUpload":
                raise
    raise AssertionError("the last attempt returns or raises")


def _ask(bucket: S3Bucket, protection: Protection) -> bool:
    key = bucket.location.key(PROBE_NAME)
    try:
        upload = UnfinishedUpload(key, bucket.begin_upload(key, {}, protection.algorithm))
    except HyperExportError as error:
        if protection.algorithm and isinstance(error, StoreUnusable) and _is_unknown_request(error):
            return False
        raise
    try:
        right = _takes(bucket, upload, protection.parameters(memoryview(_PROBE)))
        return right and not _takes(bucket, upload, protection.parameters(memoryview(_PROBE[1:])))
    finally:
        bucket.abort_upload(upload)


def _is_unknown_request(error: HyperExportError) -> bool:
    return isinstance(error.__cause__, ClientError) and status_of(error.__cause__) in {400, 501}


def _takes(bucket: S3Bucket, upload: UnfinishedUpload, checksum: dict[str, str]) -> bool:
    with translated(f"trying an upload to {bucket.location}"):
        try:
            bucket.client.upload_part(
                Bucket=bucket.location.bucket,
                Key=upload.key,
                UploadId=upload.upload_id,
                PartNumber=1,
                Body=_PROBE,
                **cast("Any", checksum),
            )
        except ClientError as error:
            if status_of(error) in {400, 411, 501}:
                return False
            raise
    return True
