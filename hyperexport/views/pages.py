"""What is said of every result, and of the small ones here: a fleet, a check, a reaping, files of a guest.

Importing this module registers all of them with ``hyperexport/base/display.py``. Terminal, notebook, Prefect UI and
mail draw a result from its page here; key=value lines come from its pairs.
"""

from collections.abc import Iterable

from hyperexport.base.display import Page, Pairs, Tone, Toned, lines, numbered, pages_of, pairs_of, row_of, table
from hyperexport.base.units import format_bytes
from hyperexport.files.extraction import Extracted
from hyperexport.files.filesystems import Kind
from hyperexport.files.guest import GuestEntry, VolumeInfo
from hyperexport.policy.snapshots import SnapshotState
from hyperexport.results import FleetMember, FleetResult, Level, ReapResult, SetupReport
from hyperexport.views import (  # noqa: F401
    cleanups,  # pyright: ignore[reportUnusedImport] - each registers its pages
    conversions,  # pyright: ignore[reportUnusedImport]
    drills,  # pyright: ignore[reportUnusedImport]
    exports,  # pyright: ignore[reportUnusedImport]
    restores,  # pyright: ignore[reportUnusedImport]
    stored,  # pyright: ignore[reportUnusedImport]
    verified,  # pyright: ignore[reportUnusedImport]
    vms,  # pyright: ignore[reportUnusedImport]
)
from hyperexport.views.markdown import pages_markdown


def markdown_of(value: object) -> str:
    """The pages of a value as Markdown, for the Prefect UI."""
    return pages_markdown(pages_of(value))


def rows_of(values: Iterable[object]) -> list[dict[str, object]]:
    """Values as the rows of one table."""
    return [row for value in values if (row := row_of(value)) is not None]


_LEVELS = {Level.OK: Tone.GOOD, Level.WARN: Tone.DOUBTFUL, Level.FAIL: Tone.BAD}


@pages_of.register
def _(result: FleetResult) -> tuple[Page, ...]:
    tables = (
        *table("", [member.row() for member in result.members]),
        *lines("Warnings", result.warnings),
        *lines("To export again only what failed", [words for words in (result.retry, result.redo) if words]),
    )
    cleaned = tuple(page for cleanup in result.cleanups for page in pages_of(cleanup))
    return (Page(result.summary, tables), *cleaned)


@pairs_of.register
def _(member: FleetMember) -> Pairs:
    return (
        ("vm", member.vm.name),
        ("path", member.vm.path),
        ("outcome", member.outcome),
        ("message", member.message),
    )


@pages_of.register
def _(result: ReapResult) -> tuple[Page, ...]:
    orphans, verb = len(result.having(SnapshotState.ABANDONED)), "would be removed" if result.dry_run else "removed"
    tables = (
        *table("Snapshots", [item.row() for item in result.snapshots]),
        *lines(f"Half-made VM {verb}", result.vms),
        *lines(f"Half-written export {verb}", result.stagings),
        *lines("Could not be removed", result.failed),
        *lines("", [f"{result.vcenter}: {orphans} snapshots and {len(result.stagings)} half-written exports {verb}"]),
    )
    return (Page(f"Left by dead runs on {result.vcenter}" + (" (dry run)" if result.dry_run else ""), tables),)


@pairs_of.register
def _(result: ReapResult) -> Pairs:
    pairs: list[tuple[str, object]] = [("vcenter", result.vcenter), ("dry_run", result.dry_run)]
    for position, item in enumerate(result.snapshots):
        found = item.found
        pairs += [
            (f"snapshot_{position}", found.snapshot.name),
            (f"snapshot_{position}_vm", found.vm.path),
            (f"snapshot_{position}_age_seconds", int(item.age.total_seconds())),
            (f"snapshot_{position}_state", found.state),
            (f"snapshot_{position}_action", item.action),
        ]
    return (
        *pairs,
        *numbered("half_made_vm", result.vms),
        *numbered("staging", result.stagings),
        ("abandoned", len(result.having(SnapshotState.ABANDONED))),
        ("in_doubt", len(result.having(SnapshotState.IN_DOUBT))),
        ("stagings", len(result.stagings)),
    )


@pages_of.register
def _(report: SetupReport) -> tuple[Page, ...]:
    rows = [{**finding.row(), "Result": Toned(finding.level, _LEVELS[finding.level])} for finding in report.findings]
    return (Page(report.summary, table("", rows)),)


@pairs_of.register
def _(report: SetupReport) -> Pairs:
    pairs = [
        pair
        for position, finding in enumerate(report.findings)
        for pair in (
            (f"check_{position}", finding.what),
            (f"check_{position}_result", finding.level),
            (f"check_{position}_finding", finding.words),
            (f"check_{position}_fix", finding.fix or ""),
        )
    ]
    return (*pairs, *((str(level), len(report.having(level))) for level in Level))


@row_of.register
def _(volume: VolumeInfo) -> dict[str, object]:
    return {"Volume": volume.name, "Filesystem": volume.filesystem or "not readable", "Size": format_bytes(volume.size)}


@row_of.register
def _(entry: GuestEntry) -> dict[str, object]:
    return {
        "Path": f"{entry.path} -> {entry.target}" if entry.target else entry.path,
        "Kind": str(entry.kind),
        "Size": format_bytes(entry.size) if entry.kind is Kind.FILE else "-",
        "Modified": f"{entry.modified:%Y-%m-%d %H:%M}" if entry.modified else "-",
    }


@row_of.register
def _(result: Extracted) -> dict[str, object]:
    return {
        "Extracted": str(result.path),
        "Files": result.files,
        "Bytes": format_bytes(result.bytes),
        "Left out": "; ".join(result.skipped) or "-",
    }


@pairs_of.register
def _(volume: VolumeInfo) -> Pairs:
    return (("volume", volume.name), ("filesystem", volume.filesystem or ""), ("size", volume.size))


@pairs_of.register
def _(entry: GuestEntry) -> Pairs:
    return (
        ("path", entry.path),
        ("kind", entry.kind),
        ("size", entry.size),
        ("modified", entry.modified.isoformat() if entry.modified else ""),
        *numbered("target", filter(None, [entry.target])),
    )


@pairs_of.register
def _(result: Extracted) -> Pairs:
    return (
        ("path", result.path),
        ("files", result.files),
        ("bytes", result.bytes),
        ("skipped", len(result.skipped)),
    )
