"""A Prefect server as one is run for many workers: its database is PostgreSQL, its messages go over Redis."""

from collections.abc import Generator
from pathlib import Path

import pytest

from tests.scale.servers import postgres, prefect_server, redis, require_postgres


@pytest.fixture
def prefect_api(tmp_path: Path) -> Generator[str]:
    """The address of such a server's API; it ends with the test."""
    require_postgres()
    with postgres() as database, redis() as messages, prefect_server(tmp_path / "prefect", database, messages) as url:
        yield url
