"""One bucket, spoken to: each request that the store makes of it, with its errors in this product's words.

Everything but the bytes of parts passes here, through boto3. It knows keys and objects, not exports.
"""

import base64
import hashlib
import logging
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, cast

from botocore.exceptions import ClientError

from hyperexport.base.stop import StopSignal
from hyperexport.errors import HyperExportError, StoreUnreachable, StoreUnusable
from hyperexport.store.s3_errors import FAILURES, code_of, date_in, retrying, status_of, translate, translated
from hyperexport.store.s3_settings import S3Location, S3Settings, connect

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

logger = logging.getLogger(__name__)

URL_LIFETIME: Final = 3600
"""Seconds for which a pre-signed URL may be used; a new one is made for each attempt at each part."""

_ALGORITHMS: Final = ("CRC64NVME", "SHA256", "CRC32C", "CRC32", "SHA1")
_MISSING: Final = {"NoSuchKey", "404", "NotFound"}
_DAMAGED: Final = {"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch"}
_ABORTS: Final = 3
"""How often an upload is aborted that is still there: parts on their way may arrive after the first time (AWS)."""


def _md5(data: bytes) -> dict[str, str]:
    return {"ContentMD5": base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()}


def _crc32(data: bytes) -> dict[str, str]:
    return {"ChecksumCRC32": base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()}


def _nothing(_: bytes) -> dict[str, str]:
    return {}


_GUARDS: Final[tuple[Callable[[bytes], dict[str, str]], ...]] = (_md5, _crc32, _nothing)
"""What a small object is sent with. A bucket with Object Lock and a default retention refuses a PUT without a checksum;
S3 Express knows no Content-MD5, and other servers no x-amz-checksum."""


@dataclass(frozen=True, slots=True)
class ObjectFacts:
    """What the server says of an object without sending it."""

    size: int
    etag: str
    checksum: str
    """``algorithm:value``: the checksum that the server keeps, or else ``ETag:value``."""


@dataclass(frozen=True, slots=True)
class UnfinishedUpload:
    """A multipart upload that was neither completed nor aborted."""

    key: str
    upload_id: str


class S3Bucket:
    """The bucket of a location. Safe to share between threads, as boto3's clients are."""

    def __init__(self, location: S3Location, settings: S3Settings, stop: StopSignal) -> None:
        self.location = location
        self.stop = stop
        self.client, self.trust = connect(settings)
        self.secure = self.client.meta.endpoint_url.startswith("https:")
        self._name = location.bucket
        self._guard = 0
        self.warnings: dict[str, None] = {}
        """See :meth:`hyperexport.store.base.Store.warnings`; in order."""

    def note_warning(self, words: str) -> None:
        """Note what could not be looked at or removed, and is no reason to fail for."""
        if words not in self.warnings:
            logger.warning("%s", words)
        self.warnings[words] = None

    def url(self, key: str) -> str:
        """How a person names an object."""
        return f"s3://{self._name}/{key}"

    def server_time(self) -> datetime | None:
        """What time the service says it is, to the second; None where its answers have no date."""
        with translated(f"listing {self.url('')}"):
            answer = self.client.list_objects_v2(Bucket=self._name, Prefix=self.location.key(""), MaxKeys=1)
        return date_in(answer["ResponseMetadata"]["HTTPHeaders"])

    # -- listing -----------------------------------------------------------------------------------------------------

    def objects(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Every key under a prefix, with its size in bytes, in the server's order. A failure raises."""
        with translated(f"listing {self.url(prefix)}"):
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self._name, Prefix=prefix):
                for item in page.get("Contents", []):
                    yield item.get("Key", ""), item.get("Size", 0)

    def etags(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Every key under a prefix, with its ETag, in the server's order. A failure raises."""
        with translated(f"listing {self.url(prefix)}"):
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self._name, Prefix=prefix):
                for item in page.get("Contents", []):
                    yield item.get("Key", ""), item.get("ETag", "")

    def folders(self, prefix: str) -> list[str]:
        """The names one level below a prefix that have something below them."""
        pages = self.client.get_paginator("list_objects_v2")
        with translated(f"listing {self.url(prefix)}"):
            return [
                item.get("Prefix", "")[len(prefix) :].rstrip("/")
                for page in pages.paginate(Bucket=self._name, Prefix=prefix, Delimiter="/")
                for item in page.get("CommonPrefixes", [])
            ]

    def unfinished_uploads(self, prefix: str) -> list[UnfinishedUpload]:
        """The multipart uploads under a prefix that nobody has completed or aborted, as far as the server lists them.

        MinIO lists them only where the prefix is a whole key, and other servers not at all: what is to be found again
        needs a note (``s3_upload.py``). Where the server refuses to list them, that is a setback.
        """
        try:
            return self._list_uploads(prefix)
        except StoreUnusable as error:
            self.note_warning(f"unfinished uploads of dead runs may stay: {error}")
            return []

    def _list_uploads(self, prefix: str) -> list[UnfinishedUpload]:
        pages = self.client.get_paginator("list_multipart_uploads").paginate(Bucket=self._name, Prefix=prefix)
        try:
            return [
                UnfinishedUpload(item.get("Key", ""), item.get("UploadId", ""))
                for page in pages
                for item in page.get("Uploads", [])
                if item.get("Key", "").startswith(prefix)
            ]
        except FAILURES as error:
            if isinstance(error, ClientError) and code_of(error) == "NoSuchUpload":
                return []  # `rclone serve s3` says so of a bucket that has seen no upload yet.
            if isinstance(error, ClientError) and (
                status_of(error) in {405, 501} or code_of(error) == "NotImplemented"
            ):
                logger.info("%s: the server lists no unfinished uploads", self.location)
                return []
            raise translate(error, f"listing the unfinished uploads of {self.url(prefix)}") from error

    # -- single objects ----------------------------------------------------------------------------------------------

    def head(self, key: str) -> ObjectFacts | None:
        """What is stored at a key; None where nothing is."""
        try:
            answer = self.client.head_object(Bucket=self._name, Key=key, ChecksumMode="ENABLED")
        except ClientError as error:
            if code_of(error) in _MISSING:
                return None
            raise translate(error, f"looking at {self.url(key)}") from error
        except FAILURES as error:
            raise translate(error, f"looking at {self.url(key)}") from error
        fields = cast("Mapping[str, object]", answer)
        kept = next((name for name in _ALGORITHMS if fields.get(f"Checksum{name}")), None)
        checksum = f"{kept}:{fields[f'Checksum{kept}']}" if kept else f"ETag:{answer['ETag']}"
        return ObjectFacts(answer["ContentLength"], answer["ETag"], checksum)

    def read(self, key: str, *, limit: int) -> bytes | None:
        """A small object's bytes, at most ``limit`` + 1 of them; None where nothing is."""
        what = f"reading {self.url(key)}"

        def attempt() -> bytes | None:
            try:
                with self.client.get_object(Bucket=self._name, Key=key)["Body"] as body:
                    return body.read(limit + 1)
            except ClientError as error:
                if code_of(error) in _MISSING:
                    return None
                raise translate(error, what) from error
            except FAILURES as error:
                raise translate(error, what) from error

        return retrying(self.stop, what)(attempt)

    def replace(self, key: str, data: bytes) -> None:
        """Write a small object in one step, over whatever is there."""
        with translated(f"writing {self.url(key)}"):
            self._put(key, data)

    def create_if_absent(self, key: str, data: bytes) -> bool:
        """Write a small object only where nothing is; of two that try at once, at most one is told True.

        Where a server does not know conditional writes (501, or it ignores the condition, as `rclone serve s3` does),
        a look beforehand is all that stands between two writers.
        """
        if self.head(key) is not None:
            return False
        what = f"writing {self.url(key)}"
        try:
            self._put(key, data, IfNoneMatch="*")
        except ClientError as error:
            if status_of(error) == 412 or code_of(error) == "ConditionalRequestConflict":
                # Our own first try may have arrived and its answer been lost.
                return self.read(key, limit=len(data)) == data
            if status_of(error) >= 500 and self.read(key, limit=len(data)) == data:
                logger.warning("%s: the store answered %d, but wrote the object", what, status_of(error))
                return True
            if not _is_unknown(error):
                raise translate(error, what) from error
            logger.info("%s: the server has no conditional writes; checked first instead", what)
            self.replace(key, data)
        except FAILURES as error:
            raise translate(error, what) from error
        return True

    def _put(self, key: str, data: bytes, **conditions: str) -> None:
        """Write a small object with the first checksum that the server takes.

        Raises:
            ClientError: It takes it with none.
        """
        for guard in range(self._guard, len(_GUARDS)):
            try:
                more = cast("Any", {**_GUARDS[guard](data), **conditions})
                self.client.put_object(Bucket=self._name, Key=key, Body=data, **more)
            except ClientError as error:
                unknown = status_of(error) in {400, 501} and code_of(error) not in _DAMAGED
                if not unknown or guard == len(_GUARDS) - 1:
                    raise
            else:
                self._guard = guard
                return

    def delete(self, key: str) -> bool:
        """Remove an object, and look that it is gone; one that is not there is fine.

        Returns:
            Whether its bytes are free again; False where the bucket keeps them as an older version.

        Raises:
            StoreUnusable: The server said that it was removed, and it is still there.
            StoreUnusable, StoreUnreachable: The server refused, or did not answer.
        """
        versioned = False
        try:
            with translated(f"deleting {self.url(key)}"):
                answer = self.client.delete_object(Bucket=self._name, Key=key)
            versioned = bool(answer.get("DeleteMarker")) and answer.get("VersionId") != "null"
        except StoreUnreachable:
            if self.head(key) is not None:
                raise
            return True
        if self.head(key) is not None:
            raise StoreUnusable(
                f"deleting {self.url(key)}: the store reported success, but the object is still there",
                fix="Check the bucket for Object Lock, a legal hold or a retention rule",
            )
        return not versioned

    # -- multipart uploads -------------------------------------------------------------------------------------------

    def begin_upload(self, key: str, metadata: dict[str, str], algorithm: str | None = None) -> str:
        """Begin a multipart upload and return its id."""
        more = cast("Any", {"ChecksumAlgorithm": algorithm} if algorithm else {})
        with translated(f"beginning the upload of {self.url(key)}"):
            return self.client.create_multipart_upload(Bucket=self._name, Key=key, Metadata=metadata, **more)[
                "UploadId"
            ]

    def complete_upload(self, key: str, upload_id: str, parts: "list[CompletedPartTypeDef]") -> None:
        """Make one object of the parts. botocore itself repeats the rare "200" that carries an error."""
        what = f"completing the upload of {self.url(key)}"
        try:
            self.client.complete_multipart_upload(
                Bucket=self._name, Key=key, UploadId=upload_id, MultipartUpload={"Parts": parts}
            )
        except ClientError as error:
            # Gone, because a first try did its work and its answer was lost? The caller looks at the object.
            if code_of(error) != "NoSuchUpload" or self.head(key) is None:
                raise translate(error, what) from error
            logger.warning("%s: retried after a lost answer", what)
        except FAILURES as error:
            raise translate(error, what) from error

    def abort_upload(self, upload: UnfinishedUpload) -> None:
        """Drop an upload and its parts, and look that it is gone; one that is gone already is fine.

        Raises:
            StoreUnusable: It is still there.
            StoreUnusable, StoreUnreachable: The server refused, or did not answer.
        """
        for _ in range(_ABORTS):
            try:
                with translated(f"aborting the upload of {self.url(upload.key)}"):
                    self.client.abort_multipart_upload(Bucket=self._name, Key=upload.key, UploadId=upload.upload_id)
            except HyperExportError as error:
                gone = isinstance(error.__cause__, ClientError) and status_of(error.__cause__) == 404
                if not gone and self._is_unfinished(upload):
                    raise
            if not self._is_unfinished(upload):
                return
        raise StoreUnusable(
            f"the unfinished upload of {self.url(upload.key)} is still there after it was aborted",
            fix="Abort it with the store's own tools, or give the bucket a rule that does",
        )

    def _is_unfinished(self, upload: UnfinishedUpload) -> bool:
        """Whether an upload is still there, as far as the server tells: by its parts, and by the list for its key."""
        try:
            self.client.list_parts(Bucket=self._name, Key=upload.key, UploadId=upload.upload_id, MaxParts=1)
        except ClientError as error:
            if status_of(error) == 404:
                return False
        except FAILURES as error:
            raise translate(error, f"checking the upload of {self.url(upload.key)}") from error
        else:
            listed = self._listed(upload.key)
            return listed is None or upload in listed  # a server may list the parts of an upload that it dropped
        return upload in (self._listed(upload.key) or [])

    def _listed(self, prefix: str) -> list[UnfinishedUpload] | None:
        """The unfinished uploads under a prefix; None where the server cannot tell."""
        try:
            return self._list_uploads(prefix)
        except StoreUnusable as error:
            logger.info("%s", error)
            return None

    def signed_url(self, operation: str, parameters: Mapping[str, object]) -> str:
        """A URL that carries this request's signature. It is a credential: never shown, never logged."""
        with translated("signing a request"):
            return self.client.generate_presigned_url(
                operation, Params={"Bucket": self._name, **parameters}, ExpiresIn=URL_LIFETIME
            )

    # -- reading -----------------------------------------------------------------------------------------------------

    def read_range(self, key: str, first: int, last: int, etag: str) -> Any:
        """Ask for the bytes ``first`` to ``last`` (both included) of an object that has not changed since.

        Returns:
            botocore's streaming body, for the caller to close.
        """
        with translated(f"reading {self.url(key)}"):
            answer = self.client.get_object(Bucket=self._name, Key=key, Range=f"bytes={first}-{last}", IfMatch=etag)
        if answer["ContentLength"] != last - first + 1:
            answer["Body"].close()
            raise StoreUnreachable(f"reading {self.url(key)}: the server sent a different range than requested")
        return answer["Body"]


def _is_unknown(error: ClientError) -> bool:
    """Whether a server refuses a condition because it does not know it."""
    return status_of(error) in {400, 405, 501} or code_of(error) == "NotImplemented"
