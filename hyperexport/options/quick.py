"""The few options of the short form, the same as those of their flags in ``groups.py``."""

from typing import Annotated

from pydantic import BeforeValidator

from hyperexport.options.declaring import Group, VerifyMode, option, read_verify
from hyperexport.options.precedence import ExportOptions


class QuickOptions(Group):
    """What most exports differ in; the profile says the rest."""

    snapshot: bool = option(
        False, "Export from a temporary snapshot; required for a running VM", flag="--snapshot", title="Take a snapshot"
    )
    incremental: bool = option(
        False,
        "Transfer and store only what changed since the last export",
        flag="--incremental",
        title="Incremental export",
    )
    verify: Annotated[VerifyMode, BeforeValidator(read_verify)] = option(
        VerifyMode.OFF,
        "Read the stored export back and verify it; 'deep' also downloads it from S3",
        flag="--verify",
    )
    dry_run: bool = option(False, "Print what would be done and change nothing", flag="--dry-run")

    def as_export_options(self) -> ExportOptions:
        """The same as options of an export; only what was given counts."""
        return ExportOptions.from_keys({name: getattr(self, name) for name in self.model_fields_set})
