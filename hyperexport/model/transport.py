"""How the bytes of a disk are read out of vSphere."""

from enum import StrEnum
from typing import Final


class Transport(StrEnum):
    """A way to read a disk."""

    LEASE = "lease"
    """The whole disk as one stream, by an NFC lease: works for every disk."""
    DATASTORE = "datastore"
    """Ranges of its flat file, by HTTPS from the datastore."""
    NBDKIT = "nbdkit"
    """Ranges, by the user's nbdkit with a plugin for vSphere."""


RANGED: Final = (Transport.DATASTORE, Transport.NBDKIT)
"""The ways that read only what is asked for."""
