"""The key with which a run signs its owner tags, so that Prefect's record of the run proves them.

The record holds the public half as a label, written before the run makes anything that has a tag, and whether the run
has said itself that it ended. A tag that was not signed with a key of the run that it names is another owner's word:
what Prefect says of that run then proves nothing about the object.
"""

import base64
import logging
import os
from typing import Final
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from prefect.client.schemas.objects import FlowRun
from prefect.runtime import flow_run

from hyperexport.model.ownership import Owner, run_keys
from hyperexport.workarounds.server_outage import request_once

logger = logging.getLogger(__name__)

_LABEL: Final = "hyperexport.run-key."
_AT_WORK: Final = "at work"
_ENDED: Final = "ended"


class RunKey:
    """One attempt's key. Its private half never leaves the process."""

    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()
        self.public: Final = _encode(self._key.public_key().public_bytes_raw())
        self.process: Final = os.getpid()

    def sign(self, text: bytes) -> str:
        """Sign a text."""
        return _encode(self._key.sign(text))


def sign_tags_of(run: str) -> None:
    """Have the run's tags signed with a key that Prefect's record of the run holds from now on.

    Where Prefect does not take it, the tags are unproved: other machines keep what a killed run leaves, and report it.
    """
    there = run_keys.get(run)
    if isinstance(there, RunKey) and there.process == os.getpid():
        return
    run_keys[run] = key = RunKey()
    _tell(run, key, _AT_WORK)


def announce_run_end(run: str | None = None) -> None:
    """Tell Prefect that the code of a run has ended; of the flow run that calls if None. Never raises."""
    run = run or str(flow_run.id)
    key = run_keys.pop(run, None)
    if isinstance(key, RunKey) and key.process == os.getpid():
        _tell(run, key, _ENDED)


def has_keys(record: FlowRun) -> bool:
    """Tell whether the run of this record signs its tags."""
    return any(label.startswith(_LABEL) for label in record.labels)


def is_signature_valid(owner: Owner, record: FlowRun) -> bool:
    """Whether the run of this record made the tag, and it is unchanged since."""
    if owner.key is None or owner.voucher is None or f"{_LABEL}{owner.key}" not in record.labels:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(_decode(owner.key)).verify(_decode(owner.voucher), owner.said_by_run())
    except (ValueError, InvalidSignature):
        return False
    return True


def has_announced_end(owner: Owner, record: FlowRun) -> bool:
    """Tell whether the attempt that made the tag has said itself that it ended."""
    return is_signature_valid(owner, record) and record.labels[f"{_LABEL}{owner.key}"] == _ENDED


def _tell(run: str, key: RunKey, state: str) -> None:
    try:
        run_id = UUID(run)
        request_once(lambda client: client.update_flow_run_labels(run_id, {f"{_LABEL}{key.public}": state}))
    except Exception as error:  # noqa: BLE001 - a backup outlives its orchestrator
        logger.info("run %s: its state %s could not be reported to Prefect: %s", run, state, type(error).__name__)


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
