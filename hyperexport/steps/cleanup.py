"""Old exports: planned by ``policy/retention.py``, deleted as planned."""

import logging
import secrets
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Final

from pydantic import Field

from hyperexport.errors import ExportNotFound, HyperExportError, StoreUnusable
from hyperexport.model.content import Place, kept_by_each, place_of
from hyperexport.model.identity import VmIdentity
from hyperexport.model.manifest import FileEntry, new_export_id
from hyperexport.model.marks import PreservedMark, VerifiedMark
from hyperexport.model.ownership import Owner
from hyperexport.model.vm import Value
from hyperexport.options.groups import Cleanup
from hyperexport.policy.cleanup_candidates import Incoming
from hyperexport.policy.cleanup_guards import may_use
from hyperexport.policy.clock import ClockVerdict
from hyperexport.policy.export_plan import ExportPlan
from hyperexport.policy.retention import CleanupItem, CleanupLimits, CleanupPlan, plan_cleanup
from hyperexport.results import CleanupResult
from hyperexport.steps.folders import exports_of, holding
from hyperexport.steps.liveness import IsOver
from hyperexport.steps.locks import describe_staging_owner, other_stagings, removal_hint
from hyperexport.steps.orphans import abandoned_stagings, remove_abandoned_stagings
from hyperexport.steps.shared_damage import record_listed
from hyperexport.steps.step import step
from hyperexport.steps.wall_clock import ServerTime, assess_clock, remember
from hyperexport.store.base import Store, StoredExport
from hyperexport.store.shared_damage import StoredFiles

logger = logging.getLogger(__name__)


class CleanupContext(Value):
    """What a cleanup has to know of the run that it is a part of; nothing of one by itself."""

    incoming: tuple[Incoming, ...] = Field(default=(), description="The exports that a dry run takes as done.")
    own: frozenset[str] = Field(default=frozenset(), description="The ids of the exports that the run made.")
    server: ServerTime | None = Field(default=None, description="What the vSphere server's clock said.")


STANDALONE: Final = CleanupContext()


@step("clean-up", run_name="clean up {store.url}")
def clean_up_store(
    store: Store, options: Cleanup, dry_run: bool, cleanup_context: CleanupContext, is_over: IsOver, *, run: str = ""
) -> CleanupResult:
    """Delete the exports that the policy gives up, or only say which they are."""
    clock = assess_clock(store, cleanup_context.server, trusted=options.trust_clock)
    plan = plan_store_cleanup(store, options, cleanup_context, clock)
    for warning in plan.warnings:
        logger.warning("%s: %s", store.url, warning)
    if dry_run or options.dry_run:
        abandoned = abandoned_stagings(store, None, is_over)
        return CleanupResult(store=store.url, dry_run=True, plan=plan, abandoned=tuple(map(str, abandoned)))
    remember(store, clock)
    return delete_planned(store, plan, is_over, run=run)


def plan_store_cleanup(
    store: Store, options: Cleanup, cleanup_context: CleanupContext = STANDALONE, clock: ClockVerdict | None = None
) -> CleanupPlan:
    """Decide what goes, and why.

    Args:
        store: Where the exports are.
        options: The limits.
        cleanup_context: The run that it is a part of.
        clock: What this machine's clock may decide; found out if None.

    Raises:
        StoreUnusable, StoreUnreachable: The listing failed; nothing is deleted on the strength of a failed listing.
        UsageError: A pattern with commas preserves nothing as one pattern, but would as several.
    """
    listing = store.listing()
    unproved_marks = {str(export): export.unproved_marks for export in listing.exports if export.unproved_marks}
    for name, marks in unproved_marks.items():
        logger.warning("%s/%s: %s", store.url, name, _damaged_marks(marks))
    return plan_cleanup(
        [(export.folder, export.manifest) for export in listing.exports],
        CleanupLimits.from_options(options),
        now=datetime.now(UTC),
        free_bytes=store.free_bytes(),
        incoming=cleanup_context.incoming,
        damaged=listing.damaged,
        refers=store.refers,
        own=cleanup_context.own,
        clock=clock or assess_clock(store, cleanup_context.server, trusted=options.trust_clock),
        unproved_marks=unproved_marks,
        contents=_contents(store, listing.exports) if options.max_size or options.min_free else {},
    )


def _contents(store: Store, exports: Sequence[StoredExport]) -> dict[str, dict[Place, int]]:
    """What each export keeps, for a limit of space. Its manifest may call one file what are several now.

    A folder that was copied without its hard links (``cp -r``, ``rsync`` without ``-H``) has a copy in each export. To
    count them once would delete more exports than the limit needs, or too few.

    Args:
        store: Where they are.
        exports: All of them, the newest first: what is coming shares its files.
    """
    contents = kept_by_each((export.folder, export.manifest) for export in exports)
    if store.refers:
        return contents
    users = Counter(place for content in contents.values() for place in content)
    files = StoredFiles(exports, store.same_file)
    first: dict[Place, str] = {}
    for export in exports:
        content = contents[str(export)]
        for entry in export.manifest.files:
            place = place_of(export.folder, export.export_id, entry)
            if place is None or place not in content or users[place] == 1:
                continue
            file = files.of(export, entry)
            if file and first.setdefault(place, file) != file:
                content[place._replace(digest=file)] = content.pop(place)
    return contents


def _damaged_marks(names: Sequence[str]) -> str:
    """Say which marks of an export are damaged, and what writes them anew."""
    anew = {VerifiedMark.file_name: "verify it again", PreservedMark.file_name: "preserve it again, or with --off"}
    return "; ".join(f"{name} is damaged, so the export is not deleted: {anew[name]}" for name in names)


def planned_export(store: Store, folder: str, vm: VmIdentity, plan: ExportPlan, *, packed: bool) -> Incoming:
    """What a planned export will add to a store, for the dry run of the cleanup after it.

    Args:
        store: Where it goes.
        folder: The folder that it goes to.
        vm: Its VM.
        plan: What it transfers and what it reuses.
        packed: Whether it becomes an OVA, which holds all its bytes itself.
    """
    used = [part for disk in plan.disks for part in disk.bases if not disk.synthetic]
    used += [disk.base_entry for disk in plan.to_reuse if disk.base_entry and not disk.synthetic]
    earlier = () if packed or not used else exports_of(store, folder, vm)
    added = plan.written_bytes
    shared, refers_to = list[FileEntry](), set[str]()
    for part in used:
        found = holding(earlier, part)
        if found is None or (found[1].member_of and not store.refers):
            added += part.size  # it is copied
            continue
        export, entry = found
        if store.refers:  # a hard link needs no other export
            refers_to.add(entry.stored_in or export.export_id)
            if entry.written_as is None and entry.stored_in is None:
                place = f"{export.export_id}/{entry.member_of or entry.name}"
                entry = entry.model_copy(update={"written_as": place})
        shared.append(entry.model_copy(update={"member_of": None}))
    return Incoming(
        folder=folder,
        identity=vm,
        names=(plan.vm.name, plan.vm.path),
        new_bytes=added,
        shares=tuple(shared),
        refers_to=tuple(sorted(refers_to)),
    )


def delete_planned(store: Store, plan: CleanupPlan, is_over: IsOver, *, run: str = "") -> CleanupResult:
    """Delete what the plan says, VM by VM, and what dead runs left half-written.

    The plan deletes an export before those whose files it uses; where that fails, they are left alone as well. What
    was preserved, or is used by another export, since the plan was made stays.

    Args:
        store: Where.
        plan: What goes.
        is_over: Proves that an owner's run is over.
        run: The id of the run that cleans, for its mark; one is made up if empty.
    """
    work = _Cleaning(store)
    abandoned: list[str] = []
    try:
        # First: no dead run's lock shall be in the way.
        abandoned, failed, kept = remove_abandoned_stagings(store, None, is_over)
        work.failed += failed
        work.deferred += kept
        work.deferred += [f"{staging}: {staging.doubt}" for staging in store.abandoned() if staging.doubt]
    except HyperExportError as error:
        work.failed.append(f"half-written exports: {error}")
    owner = Owner.of_this_process(run=run or f"cleanup-{secrets.token_hex(4)}", vcenter="", vm="")
    for folder, items in _by_folder(plan.to_delete).items():
        with _held_for_deletion(store, folder, owner) as obstacle:
            if obstacle is None:
                work.delete(folder, items)
            else:
                logger.warning("%s/%s: %d exports stay for now: %s", store.url, folder, len(items), obstacle)
                work.deferred += [f"{item}: {obstacle}" for item in items]
    return CleanupResult(
        store=store.url,
        dry_run=False,
        plan=plan,
        deleted=tuple(work.deleted),
        freed_bytes=work.freed,
        failed=tuple(work.failed),
        deferred=tuple(work.deferred),
        abandoned=tuple(abandoned),
    )


class _Cleaning:
    """What becomes of each export that a plan gives up."""

    def __init__(self, store: Store) -> None:
        self.deleted: list[str] = []
        self.freed = 0
        self.failed: list[str] = []
        self.deferred: list[str] = []
        self._store = store

    def delete(self, folder: str, items: Sequence[CleanupItem]) -> None:
        """Delete the exports of one VM, as it is now and not as it was when the plan was made."""
        listing = self._store.listing(folder)
        if record_listed(self._store, listing.exports):  # before the marks that say it may go
            listing = self._store.listing(folder)
        there = {export.export_id: export for export in listing.exports}
        damaged = {one.export_id: one for one in listing.damaged}
        doomed = {item.export_id for item in items}
        staying = [export for export in there.values() if export.export_id not in doomed]
        used = {name: f"{export} uses its files" for export in staying for name in _uses(export)}
        used |= {name: f"{one} uses its files" for one in damaged.values() for name in one.uses or ()}
        refers = self._store.refers or any(map(_uses, there.values()))
        doubt = next(filter(None, (may_use(one, refers=refers) for one in damaged.values())), None)
        for item in items:
            export = there.get(item.export_id)
            if item.export_id in damaged:
                self.deferred.append(damaged[item.export_id].words)
            elif doubt:
                self.deferred.append(f"{item}: {doubt}")
            elif export is not None and export.manifest.preserve:
                self.deferred.append(f"{item}: it was marked as preserved in the meantime")
            elif export is not None and export.unproved_marks:
                self.deferred.append(f"{item}: {_damaged_marks(export.unproved_marks)}")
            elif item.export_id in used:
                self.deferred.append(f"{item}: {used[item.export_id]}")
            elif self._delete(item, export):
                continue
            if export is not None:
                used |= dict.fromkeys(_uses(export), f"{export} uses its files")

    def _delete(self, item: CleanupItem, export: StoredExport | None) -> bool:
        try:
            if export is not None:  # else another cleanup was quicker
                self.freed += self._store.delete(export)
        except ExportNotFound:
            pass
        except HyperExportError as error:
            logger.warning("%s: %s could not be deleted: %s", self._store.url, item, error)
            self.failed.append(f"{item}: {error}")
            return False
        logger.info("%s: deleted %s: %s", self._store.url, item, item.reason)
        self.deleted.append(str(item))
        return True


def _uses(export: StoredExport) -> set[str]:
    return {entry.stored_in for entry in export.manifest.files if entry.stored_in}


def _by_folder(items: Sequence[CleanupItem]) -> dict[str, list[CleanupItem]]:
    folders: dict[str, list[CleanupItem]] = {}
    for item in items:
        folders.setdefault(item.folder, []).append(item)
    return folders


@contextmanager
def _held_for_deletion(store: Store, folder: str, owner: Owner) -> Generator[str | None]:
    """Keep exports of a VM from beginning to refer to files that go; yields why that can't be, in words.

    Any mark of another run counts that is not provably over: what it refers to shows only when it publishes. A store
    that links needs none of this, and a mark could not be written there on a full disk.
    """
    if not store.refers:
        yield None
        return
    with ExitStack() as stack:
        try:
            stack.enter_context(store.stage(folder, new_export_id(datetime.now(UTC)), owner))
        except StoreUnusable as error:
            # Full to its quota, or write-protected: no other run can begin or end an export then, either.
            logger.warning("%s/%s is cleaned up without an owner tag: %s", store.url, folder, error)
        found = other_stagings(store, folder, owner)
        yield f"{describe_staging_owner(found[0])} may be using them. {removal_hint(found[0].owner)}" if found else None
