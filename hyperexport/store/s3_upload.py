"""An object written straight from a stream whose length nobody knows, in bounded memory.

S3 allows 10,000 parts of at most 5 GiB, and the first part's size has to be chosen before the length is known. So
parts grow: the schedule below starts with 16 MiB, doubles every 1,250 parts, and ends beyond 5 TiB:

    parts          size      the stream so far   buffers   memory
    1-1,250        16 MiB        19.5 GiB          3        48 MiB
    1,251-2,500    32 MiB        58.6 GiB          3        96 MiB
    2,501-3,750    64 MiB         137 GiB          2       128 MiB
    3,751-5,000   128 MiB         293 GiB          2       256 MiB
    5,001-6,250   256 MiB         605 GiB          2       512 MiB
    6,251-7,500   512 MiB        1.20 TiB          2         1 GiB
    7,501-10,000 1600 MiB        5.02 TiB          2       3.1 GiB

A part is kept until the server has it, so that it can be sent again; that is what the buffers are for.
"""

import json
import logging
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from mmap import MAP_PRIVATE, mmap
from typing import Any, Final, NamedTuple, cast

from hyperexport.base.units import MIB
from hyperexport.errors import ChecksumMismatch, HyperExportError, StoreUnusable
from hyperexport.store.base import Stored
from hyperexport.store.s3_bucket import S3Bucket, UnfinishedUpload
from hyperexport.store.s3_parts import PartSender
from hyperexport.store.s3_protection import Protection

logger = logging.getLogger(__name__)

MAX_PARTS: Final = 10_000
"""S3: the most parts that a multipart upload may have."""

_STEP: Final = 1250
_SIZES: Final = tuple(size * MIB for size in (16, 32, 64, 128, 256, 512, 1600, 1600))


def part_size(number: int) -> int:
    """The size in bytes of a part, by its number from 1 to 10,000 (see the module's table)."""
    return _SIZES[(number - 1) // _STEP]


def buffers(number: int) -> int:
    """How many parts are in memory while the part of this number is filled: itself, and those being sent."""
    return 3 if part_size(number) <= 32 * MIB else 2


def _new_buffer(size: int) -> memoryview:
    """Reserve bytes for a part. They take memory when they are filled: most objects are far smaller than a part."""
    return memoryview(mmap(-1, size, flags=MAP_PRIVATE))


NOTE: Final = ".upload-"
"""How the name of the small object begins that says which upload is unfinished. Servers differ in what they list."""

LARGEST_NOTE: Final = 16 * 1024


def note_of(upload: UnfinishedUpload) -> bytes:
    """Write down an upload, so that a later run can abort it without the server's list."""
    return json.dumps({"key": upload.key, "upload_id": upload.upload_id}).encode()


def noted(data: bytes, prefix: str) -> UnfinishedUpload | None:
    """Read what :func:`note_of` wrote; None where it is damaged, or names an upload outside of the prefix."""
    try:
        found = json.loads(data)
        key, upload_id = str(found["key"]), str(found["upload_id"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return UnfinishedUpload(key, upload_id) if key.startswith(prefix) else None


class _InFlight(NamedTuple):
    """A part on its way, and the buffer that is free again when it has arrived."""

    answer: Future[dict[str, str]]
    number: int
    buffer: memoryview


class S3Sink:
    """Takes one file's bytes and sends them as they come. Not for several threads at once.

    Args:
        bucket: Where the object goes.
        key: Its key.
        sender: Sends the parts; closed by this sink when it ends.
        protection: What guards the parts.
        metadata: The mark of ownership, kept with the upload and then with the object.
        note: The key of the small object that says which upload this is while it is unfinished.
    """

    def __init__(
        self,
        bucket: S3Bucket,
        key: str,
        *,
        sender: PartSender,
        protection: Protection,
        metadata: dict[str, str],
        note: str,
    ) -> None:
        self._bucket = bucket
        self._key = key
        self._sender = sender
        self._protection = protection
        self._metadata = metadata
        self._note = note
        self._threads = ThreadPoolExecutor(max_workers=buffers(1) - 1, thread_name_prefix="s3-part")
        self._upload: UnfinishedUpload | None = None
        self._sending: list[_InFlight] = []
        self._sent: dict[int, dict[str, str]] = {}
        self._buffer = _new_buffer(part_size(1))
        self._spare: list[memoryview] = []
        self._filled = 0
        self._number = 1
        self._size = 0
        self._visible = False
        self._finished = False

    def write(self, data: memoryview) -> None:
        """Take bytes; waits while all buffers are full.

        Raises:
            StoreUnusable, StoreUnreachable, ChecksumMismatch, Interrupted: A part could not be sent.
        """
        self._size += len(data)
        while len(data):
            count = min(len(data), len(self._buffer) - self._filled)
            self._buffer[self._filled : self._filled + count] = data[:count]
            self._filled += count
            data = data[count:]
            if self._filled == len(self._buffer):
                self._send_part()
                self._begin_part()

    def finish(self) -> Stored:
        """Send what is left, make one object of the parts, and look that the server has it whole.

        Raises:
            StoreUnusable, StoreUnreachable, ChecksumMismatch, Interrupted: It is not; abort what there is.
        """
        if self._upload is None:
            self._visible = True
            with self._buffer[: self._filled] as data:
                self._sender.send("put_object", {"Key": self._key}, data, f"uploading {self._bucket.url(self._key)}")
        else:
            if self._filled:
                self._send_part()
            while self._sending:
                self._collect()
            self._visible = True
            parts = [{"PartNumber": number, **answer} for number, answer in sorted(self._sent.items())]
            self._bucket.complete_upload(self._key, self._upload.upload_id, cast("Any", parts))
        stored = self._prove()
        if self._upload is not None:
            self._drop_note()
        self._finished = True
        self._close()
        logger.info("%s: %d bytes stored; %s", self._bucket.url(self._key), self._size, self._protection)
        return stored

    def abort(self) -> None:
        """Break off the parts that are being sent and drop those that the server has. Never raises."""
        if self._finished:
            return
        self._close()
        try:
            if self._upload is not None:
                self._bucket.abort_upload(self._upload)
                self._drop_note()
            if self._visible:
                self._bucket.delete(self._key)
        except HyperExportError as error:
            logger.warning("an unfinished upload remains until the next cleanup: %s", error)

    def _drop_note(self) -> None:
        try:
            self._bucket.delete(self._note)
        except HyperExportError as error:
            logger.warning("the record of a finished upload remains until the next cleanup: %s", error)

    def _send_part(self) -> None:
        if self._number > MAX_PARTS:
            raise StoreUnusable(f"{self._bucket.url(self._key)} is larger than S3 allows an object to be")
        if self._upload is None:
            # Before and after: whoever finds the key alone can ask for the uploads of that key.
            self._bucket.replace(self._note, note_of(UnfinishedUpload(self._key, "")))
            upload_id = self._bucket.begin_upload(self._key, self._metadata, self._protection.algorithm)
            self._upload = UnfinishedUpload(self._key, upload_id)
            self._bucket.replace(self._note, note_of(self._upload))
        parameters = {"Key": self._key, "UploadId": self._upload.upload_id, "PartNumber": self._number}
        what = f"uploading part {self._number} of {self._bucket.url(self._key)}"
        data = self._buffer[: self._filled]
        answer = self._threads.submit(self._sender.send, "upload_part", parameters, data, what)
        self._sending.append(_InFlight(answer, self._number, self._buffer))
        self._number += 1
        self._filled = 0

    def _begin_part(self) -> None:
        if self._number > MAX_PARTS:
            self._buffer = memoryview(b"")  # Full as it is: should one more byte come, _send_part refuses it.
            return
        while len(self._sending) >= buffers(self._number):
            self._collect()
        spare = self._spare.pop() if self._spare else None
        size = part_size(self._number)
        self._buffer = spare if spare is not None and len(spare) == size else _new_buffer(size)

    def _collect(self) -> None:
        """Wait until at least one part has arrived, and take its buffer back."""
        wait([part.answer for part in self._sending], return_when=FIRST_COMPLETED)
        for part in [part for part in self._sending if part.answer.done()]:
            self._sending.remove(part)
            self._sent[part.number] = part.answer.result()
            self._spare.append(part.buffer)

    def _prove(self) -> Stored:
        facts = self._bucket.head(self._key)
        if facts is None or facts.size != self._size:
            held = "nothing" if facts is None else f"{facts.size} bytes"
            raise ChecksumMismatch(f"{self._bucket.url(self._key)} holds {held} after {self._size} bytes were sent")
        return Stored(size=facts.size, protection=str(self._protection), etag=facts.etag, checksum=facts.checksum)

    def _close(self) -> None:
        self._sender.close()
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._spare.clear()
