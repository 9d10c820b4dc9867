"""Metrics for whoever asks: served by a process of their own, from the store as it is at each question."""

import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from hyperexport.store.local import LocalStore
from tests.engine.local_exports import FIRST, SECOND, write_export


def exports_told(address: str) -> float:
    """How many exports the answer counts."""
    with urlopen(address, timeout=30) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    samples = [sample for family in families for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name == "hyperexport_vm_exports")


def test_metrics_are_served_until_the_process_is_told_to_end(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "exports")
    write_export(store, FIRST)
    words = ["metrics", "--output", store.url, "--listen", "127.0.0.1:0", "--quiet"]
    with subprocess.Popen(
        [sys.executable, "-m", "hyperexport.cli.main", *words], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout
            address = process.stdout.readline().strip().removeprefix("metrics=")
            assert exports_told(address) == 1
            write_export(store, SECOND)
            assert exports_told(address) == 2
            process.send_signal(signal.SIGTERM)
            assert process.wait(90) == 0
        finally:
            process.kill()
