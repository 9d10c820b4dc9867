"""How S3 is reached, from the blocks that prefect-aws already has.

A module of its own, imported only where such a block is named: prefect-aws takes a second to import.
"""

from pathlib import Path

from prefect_aws import AwsCredentials, MinIOCredentials

from hyperexport.blocks.loading import load_block
from hyperexport.errors import UsageError
from hyperexport.store.s3_settings import S3Settings


def load_s3_settings(name: str, *, endpoint: str | None) -> S3Settings:
    """Load a saved credentials block.

    Args:
        name: ``aws-credentials/NAME`` or ``minio-credentials/NAME``.
        endpoint: The server's address; the block's own if None.

    Raises:
        UsageError: There is no such block, or a field of it is missing or of a wrong value.
    """
    kind, _, block_name = name.partition("/")
    block_class = MinIOCredentials if kind == "minio-credentials" else AwsCredentials
    what = f"credentials block {name}"
    missing = UsageError(f"there is no {what} in Prefect", fix="Save one in the Prefect UI under Blocks")
    block = load_block(block_class, block_name, what=what, missing=missing)
    client = block.aws_client_parameters
    bundle = client.verify_cert_path or (client.verify if isinstance(client.verify, Path) else None)
    return S3Settings(
        endpoint_url=endpoint or client.endpoint_url,
        region=block.region_name,
        verify=client.verify is not False,
        ca_bundle=bundle,
        session_factory=block.get_boto3_session,
    )
