"""What Prefect has saved, read without Prefect. Nothing here imports it."""

import sqlite3
from contextlib import closing
from pathlib import Path


def database_has_block(database: Path, *, block_type: str, name: str) -> bool:
    """Whether Prefect's SQLite database holds a block of this type and name; False if it cannot be read.

    Prefect 3.8 reads blocks only through a server, and starts one where none is configured: seconds, for a command
    that then runs without Prefect.

    Args:
        database: The file, ``prefect.db`` in Prefect's home.
        block_type: The slug of the block's type, such as ``export-profile``.
        name: The block's name.
    """
    if not database.is_file():
        return False
    query = (
        "SELECT 1 FROM block_document JOIN block_type ON block_type.id = block_document.block_type_id "
        "WHERE block_type.slug = ? AND block_document.name = ?"
    )
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=1)) as connection:
            return connection.execute(query, (block_type, name)).fetchone() is not None
    except (sqlite3.Error, ValueError):
        return False
