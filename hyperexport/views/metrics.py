"""The manifests of the stores as Prometheus metrics.

Flow processes live for minutes, so that what they count is gone with them. What has to outlive them is in the
manifests, the only truth there is, and is read from there at each scrape.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest, write_to_textfile
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from hyperexport.model.history import made_at_the_earliest
from hyperexport.model.manifest import ExportManifest
from hyperexport.store.base import Store
from hyperexport.store.cached_store import CachedStore
from hyperexport.views.survey import StoreSurvey, VmSurvey, is_full, rate_of, survey

_VM: Final = ("store", "vm", "folder")


_OF_VM: Final[Sequence[tuple[str, str, Callable[[VmSurvey], float | None]]]] = (
    ("exports", "Complete and proved exports of the VM.", lambda vm: len(vm.exports)),
    ("damaged_exports", "Exports that a verification found damaged, or whose manifest is.", lambda vm: len(vm.damaged)),
    ("stored_bytes", "Bytes that the VM's exports take in the store.", lambda vm: vm.stored_bytes),
    (
        "last_verified_timestamp_seconds",
        "When an export of the VM was last proved good; absent if never.",
        lambda vm: vm.last_verified.timestamp() if vm.last_verified else None,
    ),
    (
        "last_drill_timestamp_seconds",
        "When an export of the VM last passed a restore drill; absent if never.",
        lambda vm: vm.last_drill.started.timestamp() if vm.last_drill else None,
    ),
)
"""Name, meaning and value of the metrics that every VM has, also one without a good export."""

_OF_GOOD: Final[Sequence[tuple[str, str, Callable[[ExportManifest], float | None]]]] = (
    (
        "last_success_timestamp_seconds",
        "When the newest good export began; where two clocks differ, the earlier.",
        lambda one: made_at_the_earliest(one).timestamp(),
    ),
    (
        "last_success_verified",
        "Whether the newest good export was read back and proved.",
        lambda one: one.verified is not None,
    ),
)
"""The same of the VM's newest good export; absent where it has none."""

_OF_NEWEST: Final[Sequence[tuple[str, str, Callable[[ExportManifest], float | None]]]] = (
    ("last_export_full", "1 for a full export, 0 for an incremental one.", is_full),
    ("last_export_duration_seconds", "From its start to its manifest.", lambda one: one.transfer.seconds),
    ("last_export_transferred_bytes", "Bytes read from vSphere.", lambda one: one.transfer.bytes_transferred),
    ("last_export_reused_bytes", "Bytes that a full export would add.", lambda one: one.transfer.bytes_reused),
    ("last_export_stored_bytes", "Bytes that it added to the store.", lambda one: one.stored_bytes),
    ("last_export_bytes_per_second", "How fast bytes moved; absent where none had to.", rate_of),
    (
        "last_export_throttle_wait_seconds",
        "Seconds that its streams waited for the bandwidth limit, summed.",
        lambda one: one.transfer.throttle_wait,
    ),
    ("last_export_retries", "Transfers that were retried.", lambda one: one.transfer.retries),
    ("last_export_skipped_disks", "Disks that are not in it.", lambda one: len(one.skipped_disks)),
    ("last_export_warnings", "What there was to warn of.", lambda one: len(one.warnings)),
    (
        "last_export_snapshot_seconds",
        "How long its snapshot was on the VM; absent without one, or where it stayed.",
        lambda one: one.snapshot.held if one.snapshot else None,
    ),
    (
        "last_export_snapshot_leaked",
        "1 where its snapshot could not be removed.",
        lambda one: bool(one.snapshot and one.snapshot.leaked),
    ),
)
"""The same of the VM's newest export."""


class StoreCollector(Collector):
    """Reads the stores at each scrape, through :class:`hyperexport.store.cached_store.CachedStore`, which reads little.

    Args:
        stores: The stores.
        version: Which version of this tool tells.
    """

    def __init__(self, stores: Sequence[Store], *, version: str) -> None:
        self._version: Final = version
        self._lock: Final = threading.Lock()  # two scrapes at a time read once after the other
        self.surveys: tuple[StoreSurvey, ...] = ()
        """What the last scrape found."""
        self._stores: Final = [CachedStore(store) for store in stores]

    def describe(self) -> Iterable[Metric]:
        """Nothing beforehand: registering must not read a store."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Every metric as it is now."""
        build = GaugeMetricFamily("hyperexport_build_info", "The version that tells this.", labels=["version"])
        build.add_metric([self._version], 1)
        yield build
        surveys: list[tuple[StoreSurvey, float]] = []
        with self._lock:
            for store in self._stores:
                began = time.monotonic()
                surveys.append((survey(store), time.monotonic() - began))
            self.surveys = tuple(found for found, _ in surveys)
        yield from _of_stores(surveys)
        yield from _of_vms([found for found, _ in surveys])


def registry_of(collector: StoreCollector) -> CollectorRegistry:
    """A registry with the stores' metrics and nothing else."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return registry


def as_text(collector: StoreCollector) -> str:
    """The metrics in Prometheus's text format."""
    return generate_latest(registry_of(collector)).decode()


def write_textfile(collector: StoreCollector, path: Path) -> None:
    """Write the metrics for node_exporter's textfile collector; a reader sees the whole old file or the whole new one.

    Raises:
        OSError: It cannot be written.
    """
    write_to_textfile(str(path), registry_of(collector))


def _of_stores(surveys: Sequence[tuple[StoreSurvey, float]]) -> Iterable[Metric]:
    def family(name: str, words: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"hyperexport_store_{name}", words, labels=["store"])

    up = family("up", "Whether the store could be read; while it is 0, there are no metrics of its VMs.")
    took = family("read_seconds", "How long this look at the store took.")
    unreadable = family("unreadable_exports", "Exports whose manifest is damaged, missing or unreadable.")
    free = family("free_bytes", "Bytes that are free; absent for a bucket.")
    for found, seconds in surveys:
        up.add_metric([found.store], 0 if found.problem else 1)
        took.add_metric([found.store], seconds)
        if found.problem is None:
            unreadable.add_metric([found.store], len(found.unproved))
        if found.free_bytes is not None:
            free.add_metric([found.store], found.free_bytes)
    return up, took, unreadable, free


def _of_vms(surveys: Sequence[StoreSurvey]) -> Iterable[Metric]:
    vms = [((found.store, vm.name, vm.label or vm.folder), vm) for found in surveys for vm in found.vms]

    def family(name: str, words: str, values: Iterable[tuple[Sequence[str], float | None]]) -> Metric:
        metric = GaugeMetricFamily(f"hyperexport_vm_{name}", words, labels=_VM)
        for labels, value in values:
            if value is not None:
                metric.add_metric(labels, float(value))
        return metric

    for name, words, value in _OF_VM:
        yield family(name, words, ((labels, value(vm)) for labels, vm in vms))
    for name, words, value in _OF_GOOD:
        yield family(name, words, ((labels, value(vm.last_good) if vm.last_good else None) for labels, vm in vms))
    for name, words, value in _OF_NEWEST:
        yield family(name, words, ((labels, value(vm.exports[0])) for labels, vm in vms if vm.exports))
    stages = GaugeMetricFamily(
        "hyperexport_vm_last_export_stage_seconds", "Seconds of each of its stages.", labels=(*_VM, "stage")
    )
    for labels, vm in vms:
        for stage, seconds in vm.exports[0].stages.items() if vm.exports else ():
            stages.add_metric((*labels, str(stage)), seconds)
    yield stages
