"""What is said of a verified export: page, row and key=value lines."""

from hyperexport.base.display import Page, Pairs, lines, numbered, pages_of, pairs_of, row_of
from hyperexport.results import VerifiedExport

_UNRECORDED = "Not recorded in its manifest"


@pages_of.register
def _(export: VerifiedExport) -> tuple[Page, ...]:
    found = export.verification
    tables = (*lines("Finding", found.findings), *lines(_UNRECORDED, filter(None, [found.unrecorded])))
    return (Page(f"{export.location}: {export.words}", tables),)


@row_of.register
def _(export: VerifiedExport) -> dict[str, object]:
    found = export.verification
    findings = "; ".join(map(str, found.findings))
    return {
        "Export": export.location,
        "Result": f"{export.words}: {findings}" if findings else export.words,
        _UNRECORDED: found.unrecorded or "",
    }


@pairs_of.register
def _(export: VerifiedExport) -> Pairs:
    found = export.verification
    return (
        ("location", export.location),
        ("verified", "" if export.deleted else found.ok),
        *numbered("finding", found.findings),
        *numbered("deleted", [True] if export.deleted else []),
        *numbered("unrecorded", filter(None, [found.unrecorded])),
    )
