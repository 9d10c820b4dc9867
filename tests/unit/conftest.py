"""Unit tests are about decisions and bytes in memory: a test that opens a connection is in the wrong folder."""

import socket
from typing import NoReturn

import pytest


@pytest.fixture(autouse=True)
def no_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test that connects, past any ``except Exception`` on the way."""

    def connect(_socket: socket.socket, address: object) -> NoReturn:
        pytest.fail(f"a unit test tried to connect to {address}; such a test belongs in tests/engine")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket.socket, "connect_ex", connect)
