"""The nightly part of a verification: all is read in time, a shared file for all its sharers, and not all at once."""

from datetime import datetime, timedelta
from random import Random

import pytest

from hyperexport.base.units import MIB
from hyperexport.model.manifest import ExportManifest
from hyperexport.policy.sampling import sample
from tests.examples import NOW, a_disk_file, a_hash, an_export

FOLDER = "db01.4f0e7a52"
DAY = timedelta(days=1)
WITHIN = 10 * DAY


def of_its_own(number: int) -> ExportManifest:
    """An export that shares nothing."""
    export = an_export(age=number * DAY)
    file = a_disk_file(sha256=a_hash(str(number)), size=MIB, written_as=f"{export.export_id}/db01-disk-0.vmdk")
    return export.model_copy(update={"files": (file,), "verified": None, "damage": ()})


def nights(exports: list[ExportManifest], count: int, *, missed: frozenset[int] = frozenset()) -> list[frozenset[str]]:
    """What each night chooses, with what it chose noted as verified."""
    chance, chosen = Random(1), list[frozenset[str]]()
    start = max(one.started for one in exports)
    for night in range(count):
        now = start + night * DAY
        names = frozenset[str]() if night in missed else pick(exports, now, chance)
        chosen.append(names)
        exports = [
            one.model_copy(update={"verified": now}) if f"{FOLDER}/{one.export_id}" in names else one for one in exports
        ]
    return chosen


def pick(exports: list[ExportManifest], now: datetime, chance: Random) -> frozenset[str]:
    return frozenset(sample([(FOLDER, one) for one in exports], within=WITHIN, now=now, chance=chance))


@pytest.mark.parametrize("missed", [frozenset[int](), frozenset({5, 6, 17})])
def test_each_export_is_read_within_the_time_but_for_nights_that_were_missed(missed: frozenset[int]) -> None:
    exports = [
        of_its_own(number % 3).model_copy(update={"export_id": f"2026112{number % 3}T000000Z-{number:04x}"})
        for number in range(40)
    ]
    exports = [
        one.model_copy(update={"files": (one.files[0].model_copy(update={"written_as": f"{one.export_id}/d.vmdk"}),)})
        for one in exports
    ]
    chosen = nights(exports, 45, missed=missed)
    for one in exports:
        read = [night for night, names in enumerate(chosen) if f"{FOLDER}/{one.export_id}" in names]
        gaps = [later - earlier for earlier, later in zip([0, *read], [*read, 45], strict=True)]
        assert max(gaps) <= 10 + len(missed)
    assert max(len(names) for names in chosen) <= 20
    assert sum(len(names) for names in chosen[:9]) <= 9 * 5


def test_exports_that_share_a_file_are_read_in_the_same_night() -> None:
    chain = [of_its_own(number) for number in range(4)]
    shared = chain[-1].files[0]
    chain = [
        one.model_copy(update={"files": (*one.files, shared.model_copy(update={"name": "base"}))}) for one in chain
    ]
    alone = of_its_own(5)
    for seed in range(8):
        names = pick([*chain, alone], max(one.started for one in chain), Random(seed))
        assert len(names & {f"{FOLDER}/{one.export_id}" for one in chain}) in {0, 4}
        assert names


def test_a_damaged_export_is_chosen_every_night() -> None:
    exports = [of_its_own(number) for number in range(1, 6)]
    now = max(one.started for one in exports)
    exports[2] = exports[2].model_copy(update={"damage": ("a file is rotten",), "verified": now})
    for seed in range(5):
        assert f"{FOLDER}/{exports[2].export_id}" in pick(exports, now, Random(seed))


def test_an_empty_store_has_no_sample() -> None:
    assert sample([], within=WITHIN, now=an_export().started, chance=Random(1)) == ()


def verified(number: int, at: datetime) -> ExportManifest:
    own = of_its_own(0)
    export_id = f"20261101T000000Z-{number:04x}"
    files = (own.files[0].model_copy(update={"written_as": f"{export_id}/d.vmdk"}),)
    return own.model_copy(update={"export_id": export_id, "files": files, "verified": at})


def test_what_is_due_is_read_although_others_of_its_day_are_not() -> None:
    """Proofs of one day are of different hours where exports are verified when they are made."""
    now = NOW.replace(hour=6)
    due = verified(0, now - WITHIN)
    others = [verified(number, now - WITHIN + timedelta(hours=14)) for number in range(1, 40)]
    for seed in range(20):
        assert f"{FOLDER}/{due.export_id}" in pick([*others, due], now, Random(seed))


def test_a_proof_dated_in_the_future_is_none() -> None:
    now = NOW
    future = verified(0, now + 900 * DAY)
    assert f"{FOLDER}/{future.export_id}" in pick(
        [future, *(verified(n, now - DAY) for n in range(1, 30))], now, Random(1)
    )


def test_the_oldest_proofs_come_first_so_that_a_run_that_is_ended_early_gets_to_all() -> None:
    exports = [verified(number, NOW - number * DAY) for number in range(30)]
    names = sample([(FOLDER, one) for one in exports], within=WITHIN, now=NOW, chance=Random(1))
    oldest_first = [f"{FOLDER}/{one.export_id}" for one in reversed(exports)]
    assert list(names) == oldest_first[: len(names)]
