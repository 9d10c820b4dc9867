"""One HTML page about stores: who is protected, who is not and why, and how sizes and rates went.

Self-contained: no script, nothing from a network, so that it can be mailed, archived and opened anywhere. Every word
from outside is escaped by the template, and pictures hold nothing but shapes and text.
"""

from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from typing import Final, NamedTuple

from markupsafe import Markup

from hyperexport.base.units import format_age, format_bytes, format_elapsed, format_rate
from hyperexport.model.content import added_bytes
from hyperexport.model.manifest import ExportManifest
from hyperexport.views.coverage import Coverage
from hyperexport.views.plots import bar_plot, line_plot
from hyperexport.views.rendering import templates
from hyperexport.views.survey import StoreSurvey, VmSurvey, is_good, rate_of

MOST_PICTURED: Final = 200
"""VMs with pictures of their own; those that lack something come first. A page must stay one that a browser opens."""

_POINTS: Final = 60
_DAYS: Final = 30


class Fact(NamedTuple):
    """A number that is shown large, what it counts, and whether it is good news."""

    number: str
    words: str
    tone: str = ""


class Plot(NamedTuple):
    """A picture and what it shows."""

    title: str
    svg: Markup


class VmEntry(NamedTuple):
    """One VM, in words."""

    vm: VmSurvey
    state: str
    tone: str
    missing: tuple[str, ...]
    last: str
    age: str
    size: str
    stored: str
    rate: str
    verified: str
    drilled: str
    history: tuple[tuple[str, ...], ...]
    plots: tuple[Plot, ...]


class StoreEntry(NamedTuple):
    """One store, in words."""

    survey: StoreSurvey
    facts: tuple[Fact, ...]
    plots: tuple[Plot, ...]
    vms: tuple[VmEntry, ...]


def store_page(surveys: Sequence[StoreSurvey], rpo: timedelta, *, version: str, covered: Coverage | None = None) -> str:
    """Write the page.

    Args:
        surveys: What each store holds.
        rpo: How old the last good export of a VM may be.
        version: Which version of this tool writes it.
        covered: The VMs of vCenter, where it was asked.
    """
    values = {
        "stores": [_store(found, rpo) for found in surveys],
        "rpo": format_age(rpo),
        "taken": f"{max(found.taken for found in surveys):%Y-%m-%d %H:%M} UTC",
        "version": version,
        "most": MOST_PICTURED,
        "covered": covered,
        "covered_title": covered.title(rpo) if covered else "",
        "covered_rows": covered.rows(rpo) if covered else [],
    }
    return templates().get_template("report.html.j2").render(values)


def _store(found: StoreSurvey, rpo: timedelta) -> StoreEntry:
    ordered = sorted(found.vms, key=lambda vm: (not vm.is_late(found.taken, rpo), not vm.missing(found.taken, rpo)))
    vms = tuple(_vm(vm, found, rpo, pictured=place < MOST_PICTURED) for place, vm in enumerate(ordered))
    return StoreEntry(found, _facts(found, rpo), _store_plots(found), vms)


def _facts(found: StoreSurvey, rpo: timedelta) -> tuple[Fact, ...]:
    late, damaged = len(found.late(rpo)), sum(bool(vm.damaged) for vm in found.vms)
    proved = sum(bool(vm.last_good and vm.last_good.verified) for vm in found.vms)
    facts = [
        Fact(str(len(found.vms) - late), f"of {len(found.vms)} VMs within {format_age(rpo)}", "good"),
        Fact(str(late), "late or without a good export", "bad" if late else "good"),
        Fact(str(damaged), "with a damaged export", "bad" if damaged else "good"),
        Fact(f"{proved} of {len(found.vms)}", "last exports verified", "good" if proved == len(found.vms) else "doubt"),
        Fact(format_bytes(found.stored_bytes), "stored"),
    ]
    if found.free_bytes is not None:
        facts.append(Fact(format_bytes(found.free_bytes), "free"))
    if found.unproved:
        facts.append(Fact(str(len(found.unproved)), "exports cannot be relied on", "bad"))
    return tuple(facts)


def _vm(vm: VmSurvey, found: StoreSurvey, rpo: timedelta, *, pictured: bool) -> VmEntry:
    missing, age, last = vm.missing(found.taken, rpo), vm.age(found.taken), vm.last_good
    late = vm.is_late(found.taken, rpo)
    state, tone = ("late", "bad") if late else ("look", "doubt") if missing else ("protected", "good")
    rate = rate_of(last) if last else None
    return VmEntry(
        vm=vm,
        state="no good export" if last is None else state,
        tone=tone,
        missing=missing,
        last=f"{last.started:%Y-%m-%d %H:%M}" if last else "-",
        age=format_age(age) if age is not None else "-",
        size=format_bytes(_size(last)) if last else "-",
        stored=format_bytes(vm.stored_bytes),
        rate=format_rate(rate) if rate else "-",
        verified=f"{last.verified:%Y-%m-%d}" if last and last.verified else "never",
        drilled=f"{vm.last_drill.started:%Y-%m-%d}" if vm.last_drill else "never",
        history=tuple(_history_row(vm, export) for export in vm.exports[:_POINTS]),
        plots=_vm_plots(vm) if pictured else (),
    )


def _size(export: ExportManifest) -> int:
    """Bytes of the export's files, wherever they are kept; what lies inside an OVA is counted in the OVA."""
    return sum(entry.size for entry in export.files if entry.member_of is None)


def _history_row(vm: VmSurvey, export: ExportManifest) -> tuple[str, ...]:
    rate = rate_of(export)
    proof = f"{export.verified:%Y-%m-%d}" if export.verified else "never"
    return (
        export.export_id,
        export.kind_in_words,
        format_bytes(_size(export)),
        format_bytes(export.transfer.bytes_transferred),
        format_elapsed(export.transfer.seconds),
        format_rate(rate) if rate else "-",
        proof if is_good(export) else "DAMAGED",
        ", ".join(name.rpartition("/")[2] for name in vm.shared[f"{vm.folder}/{export.export_id}"]),
    )


def _vm_plots(vm: VmSurvey) -> tuple[Plot, ...]:
    """Size and rate over the exports; a single export makes no line."""
    exports = [export for export in reversed(vm.exports[:_POINTS]) if is_good(export)]
    sizes = [(f"{export.started:%m-%d}", float(_size(export))) for export in exports]
    moved = [(f"{export.started:%m-%d}", float(export.transfer.bytes_transferred)) for export in exports]
    rates = [(f"{export.started:%m-%d}", rate) for export in exports if (rate := rate_of(export))]
    plots: list[Plot] = []
    if len(exports) > 1:
        plots.append(Plot("Size of each export", Markup(line_plot(sizes, shown=format_bytes))))  # noqa: S704
        plots.append(Plot("Transferred", Markup(bar_plot(moved, shown=format_bytes))))  # noqa: S704
    if len(rates) > 1:
        plots.append(Plot("Transfer rate", Markup(line_plot(rates, shown=format_rate))))  # noqa: S704
    return tuple(plots)


def _store_plots(found: StoreSurvey) -> tuple[Plot, ...]:
    """The last days of the whole store: what came in, and what its exports took."""
    moved: defaultdict[str, float] = defaultdict(float)
    added: defaultdict[str, float] = defaultdict(float)
    days = [found.taken.date() - timedelta(days=back) for back in reversed(range(_DAYS))]
    before = 0.0
    everything = [(vm, export) for vm in found.vms for export in vm.exports]
    adds = added_bytes((vm.folder, export) for vm, export in everything)
    for vm, export in everything:
        day = export.started.date()
        stored = adds[f"{vm.folder}/{export.export_id}"]
        if day < days[0]:
            before += stored
        moved[day.isoformat()] += export.transfer.bytes_transferred
        added[day.isoformat()] += stored
    if not found.vms:
        return ()
    totals: list[tuple[str, float]] = []
    for day in days:
        before += added[day.isoformat()]
        totals.append((f"{day:%m-%d}", before))
    came = [(f"{day:%m-%d}", moved[day.isoformat()]) for day in days]
    return (
        Plot("Transferred each day", Markup(bar_plot(came, shown=format_bytes))),  # noqa: S704
        Plot("Stored, by what is kept today", Markup(line_plot(totals, shown=format_bytes))),  # noqa: S704
    )
