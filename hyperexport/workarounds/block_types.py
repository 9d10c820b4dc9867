"""Registering block types from several workers at once."""

from prefect.blocks.core import Block
from prefect.exceptions import ObjectAlreadyExists
from tenacity import retry, retry_if_exception_type, stop_after_attempt


@retry(retry=retry_if_exception_type(ObjectAlreadyExists), stop=stop_after_attempt(5), reraise=True)
def register_block_type(kind: type[Block]) -> None:
    """Register a block type and its schema on the server.

    Prefect 3.8 looks for the type and then creates it: of two workers that start at once, the later one fails.
    """
    kind.register_type_and_schema()  # pyright: ignore[reportUnusedCoroutine] - not without a loop
