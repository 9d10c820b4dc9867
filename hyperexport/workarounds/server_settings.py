"""Settings of a Prefect server that this package starts."""

from typing import Any

from prefect.settings import (
    PREFECT_SERVER_CORS_ALLOWED_ORIGINS,
    PREFECT_SERVER_DATABASE_CONNECTION_URL,
    get_current_settings,
)

from hyperexport.workarounds.sqlite_connection import with_single_connection


def server_settings(port: int) -> dict[Any, str]:
    """What a server on this port of this machine is started with.

    Prefect 3.8 allows every origin, and its answers contain the secrets of blocks. It opens several connections to a
    SQLite database (:mod:`hyperexport.workarounds.sqlite_connection`).
    """
    database = get_current_settings().server.database.connection_url
    assert database  # where none is set, Prefect's settings give its file
    return {
        PREFECT_SERVER_DATABASE_CONNECTION_URL: with_single_connection(database.get_secret_value()),
        PREFECT_SERVER_CORS_ALLOWED_ORIGINS: f"http://127.0.0.1:{port},http://localhost:{port}",
    }
