"""One Prefect server for this folder; flow runs do not wait for heartbeats."""

from collections.abc import Generator

import pytest
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.testing.utilities import prefect_test_harness


@pytest.fixture(scope="session", autouse=True)
def prefect_harness() -> Generator[None]:
    """A server with an empty database, which every flow in this folder talks to."""
    # Each sync flow run would otherwise wait a second for its heartbeat thread.
    without_heartbeat = temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})
    with prefect_test_harness(server_startup_timeout=120), without_heartbeat:
        yield
