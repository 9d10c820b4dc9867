"""pyVmomi's way to a server, with bounds on what a server may answer.

A server that is broken or hostile may answer without end, or with little that unfolds to
much. pyVmomi reads on in both cases. This module knows nothing of what is asked.
"""

from http.client import HTTPException, HTTPResponse
from typing import Any, Final

from pyVmomi.SoapAdapter import SoapStubAdapter

LARGEST_ANSWER: Final = 512 * 1024 * 1024
"""Bytes. A page of a thousand VMs with all their devices has some ten million."""


class BoundedStub(SoapStubAdapter):  # pyright: ignore[reportUntypedBaseClass]
    """A stub whose answers end, and are as long as they are: nothing is unpacked."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(acceptCompressedResponses=False, **kwargs)

    def GetConnection(self) -> Any:
        """A connection, kept or new, that reads its answers with a bound."""
        connection = super().GetConnection()
        connection.response_class = _BoundedResponse
        return connection


class _BoundedResponse(HTTPResponse):
    """An answer of which no more is read than any answer to us has."""

    _left = LARGEST_ANSWER

    def begin(self) -> None:
        super().begin()
        encoding = self.headers.get("Content-Encoding", "identity").lower()
        if encoding != "identity":
            raise HTTPException(f"the answer is compressed ({encoding}), though that was not asked for")

    def read(self, amt: int | None = None) -> bytes:
        data = super().read(self._left + 1 if amt is None else min(amt, self._left + 1))
        self._left -= len(data)
        if self._left < 0:
            raise HTTPException(f"the answer has more than {LARGEST_ANSWER} bytes")
        return data
