"""What one writer of a manifest meant to change, so that it can be done to what another has written meanwhile."""

from hyperexport.model.manifest import ExportManifest


def rebased(read: ExportManifest, wanted: ExportManifest, there: ExportManifest) -> ExportManifest:
    """Do to the manifest that is there what was to be done to the one that was read.

    A verification takes hours, and in these a person may have marked the export as preserved: neither may undo the
    other's word.

    Args:
        read: The manifest as it was when the change was made to it.
        wanted: What was made of it.
        there: What the store holds now.
    """
    fields = type(wanted).model_fields
    changes = {name: getattr(wanted, name) for name in fields if getattr(wanted, name) != getattr(read, name)}
    return there.model_copy(update=changes)
