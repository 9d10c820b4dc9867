"""How much a host has at once, and the most it ever had: what limits on exports are proved by."""

from collections.abc import Generator
from contextlib import contextmanager
from threading import Lock


class Gauge:
    """How many there are at the moment, and the most there ever were. Safe to share between threads."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0
        self._lock = Lock()

    def rise(self) -> None:
        """Count one more at work."""
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def fall(self) -> None:
        """Count one less at work."""
        with self._lock:
            self.now -= 1

    @contextmanager
    def one_more(self) -> Generator[None]:
        """There is one more while the block runs."""
        self.rise()
        try:
            yield
        finally:
            self.fall()


class HostLoad:
    """What exports ask of one host."""

    def __init__(self) -> None:
        self.leases = Gauge()
        """Export leases on VMs of the host, from their beginning to their end."""
        self.downloads = Gauge()
        """Streams of its NFC service."""
