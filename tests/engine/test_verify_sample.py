"""``verify --sample`` from outside: repeated each night, it reads the whole store in time, and about equal parts."""

from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pytest

import hyperexport
from hyperexport.cli.main import run
from hyperexport.jobs.direct import DirectRunner
from hyperexport.jobs.verify import verify_exports
from hyperexport.options.precedence import ExportOptions
from hyperexport.steps import verification
from hyperexport.store.local import LocalStore
from tests.engine.verifiable import FOLDER, OWNER, contents, manifest, put

WITHIN = 4
EXPORTS = 8


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """Exports of equal size that share nothing, made just now."""
    found = LocalStore(tmp_path / "exports")
    now = datetime.now(UTC)
    for number in range(EXPORTS):
        export_id = f"{now:%Y%m%dT%H%M%SZ}-{number:04x}"
        with found.stage(FOLDER, export_id, OWNER) as staging:
            entries = [
                put(staging, name, *content).model_copy(update={"written_as": f"{export_id}/{name}"})
                for name, content in contents().items()
            ]
            made = {"export_id": export_id, "last_full": export_id, "started": now, "finished": now}
            staging.publish(manifest(*entries).model_copy(update=made))
    return found


class Nights:
    """Lets the verification believe that it is a later night."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.past = timedelta(0)
        nights = self

        class Later(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> Any:
                return datetime.now(tz) + nights.past

        monkeypatch.setattr(verification, "datetime", Later)


def proofs(store: LocalStore) -> dict[str, datetime | None]:
    return {export.export_id: export.manifest.verified for export in store.exports()}


def by_command(store: LocalStore) -> None:
    assert run(["verify", "--sample", f"{WITHIN}d", "--output", store.url, "--quiet", "--no-prefect"]) == 0


def by_job(store: LocalStore) -> None:
    options = ExportOptions.model_validate({"destination": {"output": store.url}})
    verify_exports(DirectRunner(), [], options, sample=timedelta(days=WITHIN))


@pytest.mark.parametrize("night_run", [by_command, by_job])
def test_all_of_a_store_is_read_within_the_days_and_each_night_about_an_equal_part(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, night_run: Any
) -> None:
    nights, read = Nights(monkeypatch), list[set[str]]()
    for night in range(2 * WITHIN):
        nights.past = timedelta(days=night)
        before = proofs(store)
        night_run(store)
        after = proofs(store)
        read.append({export_id for export_id in after if after[export_id] != before[export_id]})
    assert [len(names) for names in read] == [EXPORTS // WITHIN] * 2 * WITHIN
    assert set().union(*read[:WITHIN]) == set().union(*read[WITHIN:]) == proofs(store).keys()


def test_a_night_that_was_missed_is_made_up_for_in_the_next(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    nights = Nights(monkeypatch)
    for night in (0, 1, WITHIN + 2):
        nights.past = timedelta(days=night)
        by_job(store)
    assert None not in proofs(store).values()


def test_a_damaged_export_is_read_each_night_until_it_is_sound(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights = Nights(monkeypatch)
    damaged = store.exports()[3]
    nvram = Path(store.url) / str(damaged) / "db01.nvram"
    sound = nvram.read_bytes()
    nvram.write_bytes(sound[::-1])
    with pytest.raises(hyperexport.errors.VerificationFailed):
        verify_exports(DirectRunner(), [], ExportOptions.model_validate({"destination": {"output": store.url}}))
    nights.past = timedelta(days=1)
    with pytest.raises(hyperexport.errors.VerificationFailed, match=damaged.export_id):
        by_job(store)
    nvram.write_bytes(sound)
    by_job(store)
    assert proofs(store)[damaged.export_id]
