"""How a file that a restore uploads is proved: by the server's SHA-256 of what arrived, else by our own.

vSphere 6.7 and later make a SHA-256 of each disk that arrives. It is compared with the manifest's after each file and
before the VM becomes whole: one comparison proves the stored bytes, the reading and the transfer, so we do not hash the
same bytes. A server that does not take the request, or does not keep its promise, is not relied on: then we hash the
file while it is sent, or read it again.
"""

import logging
from typing import Final

from hyperexport.convert.whole import WholeFile
from hyperexport.errors import ChecksumMismatch
from hyperexport.model.restore import Proof
from hyperexport.steps.restore_job import RestoreJob
from hyperexport.transfer.pipeline import Received
from hyperexport.vsphere.import_lease import ImportLease
from hyperexport.vsphere.lease import ServerChecksum

logger = logging.getLogger(__name__)

SECONDS_FOR_PROMISED: Final = 10.0
"""How long a checksum is waited for that the server promised: to read the file again may take hours."""

_KNOWN: Final = frozenset({"sha1", "sha256", "sha384", "sha512"})
"""The algorithms that vSphere has."""


def is_left_to_server(job: RestoreJob, *, disk: bool) -> bool:
    """Tell whether a file is not hashed while it is sent, because the server has promised its SHA-256."""
    return job.request.verify and disk and job.server_hashes


def prove_arrived(job: RestoreJob, lease: ImportLease, key: str, whole: WholeFile, sent: Received) -> None:
    """Prove a file that was sent, and compare the server's checksum of what arrived; notes how.

    Args:
        job: The restore.
        lease: The lease that it was sent to.
        key: The server's key of the file.
        whole: What should have arrived.
        sent: What was sent. Its SHA-256 was proved where it has one.

    Raises:
        VerificationFailed: The stored file is damaged.
        ChecksumMismatch: The stored file is sound, and another arrived.
    """
    name, promised = whole.name, "sha256" not in sent.digests
    job.proofs[name] = Proof.SERVER if promised else Proof.SENT
    if not job.request.verify:
        return
    arrived = lease.wait_for_checksum(key, seconds=SECONDS_FOR_PROMISED if promised else 0, stop=job.stop)
    digests = {**sent.digests, "sha256": whole.sha256}
    if promised and (arrived is None or arrived.algorithm != "sha256"):
        digests = _read_again(job, whole, arrived)
        job.proofs[name] = Proof.READ_AGAIN
    expected = digests.get(arrived.algorithm) if arrived else None
    if arrived and (arrived.size != sent.size or expected not in {None, arrived.digest}):
        if promised:
            job.server_hashes = False  # the next attempt proves the file before its last byte
            prove_stored(job, whole)
        raise ChecksumMismatch(
            f"{name}: {sent.size} bytes with {arrived.algorithm} {expected} were sent, and the server has "
            f"{arrived.size} bytes with {arrived.digest}"
        )
    if expected is None:
        gives = f"a checksum of the kind {arrived.algorithm}" if arrived else "no checksum"
        job.unverified.append(name)
        job.warn(f"{name}: the server gives {gives} of what arrived, so it could not be compared")


def prove_stored(job: RestoreJob, whole: WholeFile) -> None:
    """Read the stored file again after a failure, to find out whether its damage is the reason; once a restore.

    Raises:
        VerificationFailed: It is damaged.
    """
    if whole.name in job.sound:
        return
    logger.warning("%s: reading the stored file again to see whether it is damaged", whole.name)
    whole.read_again(stop=job.stop)
    job.sound.add(whole.name)


def _read_again(job: RestoreJob, whole: WholeFile, arrived: ServerChecksum | None) -> dict[str, str]:
    """Prove a file that the server did not prove, though it promised to; all others are hashed while they are sent."""
    job.server_hashes = False
    gives = arrived.algorithm if arrived else "no checksum"
    logger.warning("%s: the server promised SHA-256 and gives %s; reading the stored file again", whole.name, gives)
    return whole.read_again(*({arrived.algorithm} & _KNOWN if arrived else ()), stop=job.stop)
