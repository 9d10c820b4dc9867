"""What Prefect 3.8 knows and has no public name for."""

from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect.blocks.core import Block

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment


def document_id_of(block: Block) -> UUID | None:
    """The id of a saved block's document; None where it was never saved."""
    return block._block_document_id  # pyright: ignore[reportPrivateUsage]


def parameter_schema_of(deployment: "RunnerDeployment") -> dict[str, Any]:
    """The JSON schema of the flow's parameters, as Prefect sends it when it creates the deployment."""
    return deployment._parameter_openapi_schema.model_dump(exclude_unset=True)  # pyright: ignore[reportPrivateUsage]
