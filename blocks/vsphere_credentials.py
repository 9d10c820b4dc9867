"""The block that holds a vCenter's address and the account that exports from it."""

from typing import ClassVar

from pydantic import Field, HttpUrl, SecretStr, ValidationError

from hyperexport.blocks.loading import load_block, refuse_unknown_fields, wrong_fields
from hyperexport.errors import UsageError
from hyperexport.vsphere.endpoint import VSphereEndpoint
from hyperexport.workarounds.block_logos import BlockWithLogo


class VSphereCredentials(BlockWithLogo):
    """A vCenter or ESXi server, the user, and what its certificate has to prove.

    Attributes:
        url: The server's address.
        username: The user to log in as.
        password: The user's password.
        ca_certificates: The CAs that may sign the server's certificate.
        thumbprint: The server's certificate's SHA-256 thumbprint.
        insecure: Whether any certificate is taken.

    Example:
        Load stored vSphere credentials:
        ```python
        from hyperexport.blocks import VSphereCredentials

        vsphere = VSphereCredentials.load("BLOCK_NAME")
        ```
    """

    _block_type_name: ClassVar[str | None] = "vSphere Credentials"
    _block_type_slug: ClassVar[str | None] = "vsphere-credentials"
    _documentation_url: ClassVar[HttpUrl | None] = HttpUrl("https://docs.prefect.io/v3/concepts/blocks")
    _description: ClassVar[str | None] = "Where a vCenter is, and the account that exports virtual machines from it."

    url: str = Field(
        title="Server",
        description="The server's address: a host, host:port or a whole URL.",
        examples=["vcenter.example.com"],
    )
    username: str = Field(description="The user to log in as.", examples=["backup@vsphere.local"])
    password: SecretStr = Field(description="The user's password.")
    ca_certificates: str | None = Field(
        default=None,
        title="CA certificates",
        description="The CAs that may sign the server's certificate, as PEM text (default: the system's).",
    )
    thumbprint: str | None = Field(
        default=None,
        title="SHA-256 thumbprint",
        description="The server's certificate, pinned by its SHA-256 thumbprint in place of a CA.",
    )
    insecure: bool = Field(
        default=False, description="Accept any certificate. Only for labs: anyone can impersonate the server."
    )

    def get_endpoint(self) -> VSphereEndpoint:
        """The same as the engine's own value.

        Raises:
            UsageError: A field is invalid; the message names it.
        """
        refuse_unknown_fields(self, "the vSphere credentials block")
        try:
            return VSphereEndpoint(
                url=self.url,
                username=self.username,
                password=self.password,
                ca_pem=self.ca_certificates,
                thumbprint=self.thumbprint,
                insecure=self.insecure,
            )
        except ValidationError as error:
            raise UsageError(f"the vSphere credentials block: {wrong_fields(error)}") from None


def load_vsphere(name: str) -> VSphereCredentials:
    """Load a saved block.

    Raises:
        UsageError: There is none of this name, or a field of it is missing, unknown or of a wrong value.
    """
    what = f"vSphere credentials block {name!r}"
    missing = UsageError(f"there is no {what} in Prefect", fix="Save one in the Prefect UI under Blocks")
    block = load_block(VSphereCredentials, name, what=what, missing=missing)
    refuse_unknown_fields(block, what)
    return block
