"""A store as it would be while a cleanup is planned."""

import heapq
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator

from hyperexport.model.content import total
from hyperexport.policy.cleanup_candidates import Candidate, age_order


class RemainingStore:
    """The store as it would be while the plan is made: exports leave it one by one, never one that is referred to."""

    def __init__(self, exports: Iterable[Candidate], free: int | None) -> None:
        self.remaining = {export.name: export for export in exports}
        self.gone: list[tuple[Candidate, str]] = []
        self.freed = 0
        self.free = free
        self._sharers = Counter(content for export in self.remaining.values() for content in export.content)
        self._referrers = Counter(name for export in self.remaining.values() for name in export.refers_to)
        self.size = total(export.content for export in self.remaining.values())

    def is_referred_to(self, export: Candidate) -> bool:
        """Whether an export that is still there uses this one's files."""
        return self._referrers[export.name] > 0

    def sweep(self, guards: Container[str], why: Callable[[Candidate], str | None]) -> None:
        """Take out, oldest first, every export that may go and for which there is a reason at its turn."""
        waiting = [
            (age_order(export), export)
            for export in self.remaining.values()
            if export.name not in guards and not self.is_referred_to(export)
        ]
        heapq.heapify(waiting)
        while waiting:
            _, export = heapq.heappop(waiting)
            reason = why(export)
            if reason is None:
                continue
            for released in self._take_out(export, reason):
                if released.name not in guards:
                    heapq.heappush(waiting, (age_order(released), released))

    def _take_out(self, export: Candidate, reason: str) -> Iterator[Candidate]:
        """Remove one export; returns those that nothing refers to any more."""
        del self.remaining[export.name]
        self.gone.append((export, reason))
        self._sharers.subtract(export.content.keys())
        freed = sum(size for key, size in export.content.items() if not self._sharers[key])
        self.freed += freed
        self.size -= freed
        self.free = None if self.free is None else self.free + freed
        self._referrers.subtract(export.refers_to)
        released = (self.remaining.get(name) for name in export.refers_to if not self._referrers[name])
        return (other for other in released if other)
