"""The block that keeps options under a name, so that a complex configuration is said once.

A profile keeps only what was explicitly set, by key: what it leaves open, the environment and the defaults fill in at
each run. Which VMs are exported is no part of it, and neither is a secret: options that need one name another block.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Final

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from pydantic import BeforeValidator, Field, HttpUrl, JsonValue, PlainSerializer

import hyperexport
from hyperexport.blocks.loading import load_block, refuse_unknown_fields
from hyperexport.errors import UsageError
from hyperexport.options.form import ShownInBlock
from hyperexport.options.precedence import ExportOptions
from hyperexport.prefect_errors import translated
from hyperexport.profiles import flat, has_file, in_groups, profile_name, set_explicitly, valid_options
from hyperexport.workarounds.block_logos import BlockWithLogo

_SLUG: Final = "export-profile"


class ExportProfile(BlockWithLogo):
    """Options of an export, kept under a name.

    Attributes:
        options: What is set, by key: the name of the flag without its dashes, with underscores. Prefect keeps it in
            the groups of the form.
        saved_with: The version of HyperExport that saved it.

    Example:
        Load a stored export profile:
        ```python
        from hyperexport.blocks import ExportProfile

        profile = ExportProfile.load("BLOCK_NAME")
        ```
    """

    _block_type_name: ClassVar[str | None] = "Export Profile"
    _block_type_slug: ClassVar[str | None] = _SLUG
    _documentation_url: ClassVar[HttpUrl | None] = HttpUrl("https://docs.prefect.io/v3/concepts/blocks")
    _description: ClassVar[str | None] = "Options of an export, kept under a name. Secrets stay in blocks of their own."

    # Required: where a block needs no field, Prefect takes a reference to one for a block as well, and refuses it.
    options: Annotated[
        dict[str, JsonValue], BeforeValidator(flat), PlainSerializer(in_groups), ShownInBlock(ExportOptions)
    ] = Field(
        title="Options", description="What is set. What is left alone comes from the environment, or is the default."
    )
    saved_with: str = Field(
        default=hyperexport.__version__,
        title="Saved with version",
        description="The version of HyperExport that saved it.",
    )

    @classmethod
    def of(cls, options: ExportOptions) -> "ExportProfile":
        """Keep what was explicitly set in these options."""
        return cls(options=set_explicitly(options))

    @property
    def name(self) -> str:
        """The name under which it is saved; empty where it is not."""
        return self._block_document_name or ""

    def get_options(self) -> dict[str, object]:
        """What it sets, by key, held against the options that there are now.

        Raises:
            UsageError: A field or an option of it is not known, or a value is out of today's bounds; each is named.
        """
        refuse_unknown_fields(self, f"profile {self.name}")
        return valid_options(self.name, self.options, self.saved_with)


def load_profile(name: str) -> ExportProfile:
    """Load a saved profile. Whether its options are valid is asked by :meth:`ExportProfile.get_options`.

    Raises:
        UsageError: There is none of this name, or its document in Prefect is none of a profile.
    """
    return load_block(ExportProfile, profile_name(name), what=f"profile {name}", missing=_missing(name))


def _missing(name: str) -> UsageError:
    if has_file(name):
        return UsageError(
            f"there is no profile {name} in Prefect, but a file of this machine keeps one of this name",
            fix="Use it with --no-prefect, or save it in Prefect with --save-profile",
        )
    return UsageError(f"there is no profile {name}", fix="hyperexport --list-profiles lists them")


def save_profile(name: str, options: ExportOptions, *, base: Mapping[str, object] | None = None) -> ExportProfile:
    """Save what was explicitly set, in place of a profile of the same name.

    Args:
        name: As a person writes it.
        options: What was set.
        base: What else it sets, by key; the options win.
    """
    profile = ExportProfile.of(ExportOptions.from_keys({**(base or {}), **options.given_keys()}))
    document = profile_name(name)
    with translated(f"saving profile {name}"):
        profile.save(document, overwrite=True)  # pyright: ignore[reportUnusedCoroutine] - not without a loop
    return profile


def saved_names() -> list[str]:
    """The names of all saved profiles, in order, damaged ones too."""
    with translated("listing the profiles"), get_client(sync_client=True) as client:
        try:
            documents = client.read_block_documents_by_type(_SLUG, include_secrets=False)
        except ObjectNotFound:  # none was ever saved
            documents = []
    return sorted(document.name for document in documents if document.name)


def delete_profile(name: str) -> None:
    """Delete a saved profile, a damaged one too.

    Raises:
        UsageError: There is none of this name.
    """
    document = profile_name(name)
    with translated(f"deleting profile {name}"):
        try:
            ExportProfile.delete(document)  # pyright: ignore[reportUnusedCoroutine] - not without a loop
        except ValueError as error:
            if isinstance(error.__cause__, ObjectNotFound):
                raise _missing(name) from error
            raise
