"""Prefect's SQLite database over one connection, so that none of its transactions is in another's way.

Prefect opens up to fifteen. Then a transaction that reads before it writes is refused when another has written in
between, with 503, after which Prefect's client waits 2 to 32 s; and one that waits for another's lock can stop the
whole server for the minute that SQLite waits: Python's garbage collector, on the thread that would go on with the
other, closes a cursor of the waiting connection, and needs its mutex for that (seen with gdb; Prefect 3.8.8, CPython
3.11). Ten VMs exported by four flow runs at once took 20 to 150 s so, and take 9 s over one connection. Prefect's
own in-memory databases have one only, too.
"""

from typing import Any, Final

from sqlalchemy.dialects import plugins
from sqlalchemy.engine import URL, CreateEnginePlugin, make_url

_NAME: Final = "hyperexport.single_connection"
_SECONDS_FOR_ONES_TURN: Final = 120.0


class SingleConnectionPlugin(CreateEnginePlugin):
    """What makes an engine keep to one connection, for which everybody waits (SQLAlchemy, CreateEnginePlugin)."""

    def update_url(self, url: URL) -> URL:
        """Leave the address as it is."""
        return url

    def handle_dialect_kwargs(self, dialect_cls: type[Any], dialect_args: dict[str, Any]) -> None:
        """Leave the dialect as it is."""

    def handle_pool_kwargs(self, pool_cls: type[Any], pool_args: dict[str, Any]) -> None:  # noqa: ARG002
        """Set the pool's size."""
        pool_args.update(pool_size=1, max_overflow=0, timeout=_SECONDS_FOR_ONES_TURN)


def with_single_connection(address: str) -> str:
    """The address of the same database, by which SQLAlchemy uses one connection if it is SQLite's.

    Args:
        address: As in ``PREFECT_SERVER_DATABASE_CONNECTION_URL``.
    """
    url = make_url(address)
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        return address
    plugins.register(_NAME, __name__, SingleConnectionPlugin.__name__)
    return url.update_query_dict({"plugin": _NAME}).render_as_string(hide_password=False)
