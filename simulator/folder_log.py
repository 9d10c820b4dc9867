"""What was read of the datastores by ``/folder``, for tests that count it, and what a test may allow."""

from typing import NamedTuple


class FolderRequest(NamedTuple):
    """One request for a file, as it was answered."""

    path: str
    status: int
    begin: int
    """The first byte that was asked for; 0 where it was refused."""
    sent: int
    """Bytes that the answer announced."""


class FolderLog:
    """The requests that there were; a list that threads share."""

    def __init__(self) -> None:
        self.requests: list[FolderRequest] = []
        self.serves_frozen = False
        """Whether the base that a snapshot of a running VM has frozen is served."""
