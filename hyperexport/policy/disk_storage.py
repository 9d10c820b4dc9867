"""How an incremental export keeps a disk: as a delta on the base export's disk, or whole, and why."""

from typing import Final, NamedTuple

from hyperexport.model.manifest import GRAINS_SUFFIX, MOST_FILES, ExportManifest, FileEntry
from hyperexport.policy.export_plan import Decision, DiskPlan

_OTHER_FILES: Final = 100
"""Files of an export that are no disks, generously."""
_FILES_OF_A_PART: Final = 3
"""Of each file of a chain: itself, its block tags and its grain tags."""
_PACKED: Final = "an OVA holds whole disks"
_ASKED: Final = "--synthetic-full was given"


class Chains(NamedTuple):
    """What decides of every disk of an incremental export whether it is stored as a delta."""

    base: ExportManifest
    max_chain: int
    packed: bool
    synthetic_full: bool
    distant: bool
    disks: int

    @property
    def only_whole(self) -> str:
        """Why each disk is stored whole; empty where deltas are possible."""
        return _PACKED if self.packed else _ASKED if self.synthetic_full else ""

    @property
    def downloads_each_time(self) -> bool:
        """Whether writing whole disks from the store's grains downloads the base each time, without being asked to."""
        return self.distant and not self.synthetic_full


def with_storage(plan: DiskPlan, chains: Chains) -> DiskPlan:
    """Decide whether a disk of an incremental export is stored as a delta on the base export's disk, or whole."""
    entry, base = plan.base_entry, chains.base
    if plan.decision is Decision.REUSE and entry and entry.chain and chains.only_whole:
        written = f"written whole from the store's own grains, not read from vSphere: {chains.only_whole}"
        return plan.model_copy(update={"synthetic": True, "storage": written})
    if plan.decision is Decision.REUSE and entry:
        return plan.model_copy(update={"bases": base.parts(entry)[:-1]})
    if plan.decision is Decision.SKIP or (chains.downloads_each_time and not chains.max_chain):
        return plan
    transferred = _why_transferred_whole(plan, entry, chains)
    whole = transferred or (_why_no_delta(entry, chains) if entry else None)
    storage = f"stored whole: {whole}" if whole else f"stored as a delta on {base.export_id}"
    # Whether what did not change is written from the store's own grains is decided with the transport.
    synthetic = whole is not None and not transferred and plan.decision is Decision.TRANSFER
    bases = base.parts(entry) if entry and (synthetic or not whole) else ()
    return plan.model_copy(update={"storage": storage, "synthetic": synthetic, "bases": bases})


def _why_no_delta(entry: FileEntry, chains: Chains) -> str | None:
    """Why a disk is stored whole, although the base has what did not change of it."""
    if chains.only_whole:
        return chains.only_whole
    if entry.member_of is not None:
        return "the base export is an OVA"
    if not chains.max_chain:
        return "--max-chain 0 allows no deltas"
    deltas = len(entry.chain)
    room = (MOST_FILES - _OTHER_FILES) // (chains.disks * _FILES_OF_A_PART)
    if deltas < min(chains.max_chain, room):
        return None
    return f"its chain has {deltas} delta{'' if deltas == 1 else 's'}, at --max-chain {chains.max_chain}"


def _why_transferred_whole(plan: DiskPlan, entry: FileEntry | None, chains: Chains) -> str | None:
    """Why all of a disk is read from vSphere and stored whole, whatever else there is."""
    if entry is None:
        return "the base export does not have this disk"
    held = entry.populated or entry.received or entry.size
    untagged = [part.name for part in chains.base.parts(entry) if not chains.base.file(part.name + GRAINS_SUFFIX)]
    checks = (
        (chains.downloads_each_time and chains.packed, _PACKED),
        (chains.downloads_each_time and entry.member_of is not None, "the base export is an OVA"),
        (
            chains.distant and (bool(untagged) or entry.cid is None),
            f"{chains.base.export_id} was made by an earlier version, which left no tags of its grains to compare with",
        ),
        (2 * (plan.changed_bytes or 0) > held, "more than half of it changed"),
    )
    return next((words for applies, words in checks if applies), None)
