"""The manifest survives the way to disk and back, refuses what is not one, and names things safely."""

import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperexport.errors import ManifestInvalid
from hyperexport.model import manifest
from hyperexport.model.manifest import (
    ExportManifest,
    FileRole,
    is_export_id,
    is_vm_folder,
    new_export_id,
    slug,
    vm_folder,
)
from tests.examples import VM, a_disk_file, an_export, export_id

HOSTILE = [
    "", " ", ".", "..", "...", "-", "--help", "~", "/", "../../etc/passwd", "C:\\Windows", "a/b\\c", "con", "NUL.txt",
    "Com1", "aux" + "." * 90 + "x", "con." + "x" * 200, "x" * 300, "x" * 79 + "...", "a\x00b", "a\nb", "Ünïcode",
    "データベース", "🖥️ db", "name ", "name.", ".hidden", "%2f", 'a:b*c?d"e<f>g|h', "db01.partial", "export.json",
    "\u202egnp.exe", "\ud800",
]  # fmt: skip
WINDOWS_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))}


def assert_safe(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name)
    assert len(name) <= 80
    assert not name.endswith((".", "-"))
    assert name.partition(".")[0].lower() not in WINDOWS_RESERVED


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_gives_a_slug_that_every_filesystem_takes(name: str):
    assert_safe(slug(name))


@given(st.text())
def test_any_name_gives_a_slug_that_every_filesystem_takes(name: str):
    assert_safe(slug(name))


@given(st.text())
def test_a_slug_is_its_own_slug(name: str):
    assert slug(slug(name)) == slug(name)


@given(st.from_regex(r"[a-z][a-z0-9_.-]{0,60}[a-z0-9]", fullmatch=True))
def test_an_ordinary_name_stays_as_it_is(name: str):
    assert slug(name) == name or name.partition(".")[0] in WINDOWS_RESERVED


@given(name=st.text(), uuid=st.text() | st.uuids().map(str))
def test_any_vm_has_a_folder_that_is_known_again(name: str, uuid: str):
    folder = vm_folder(VM.model_copy(update={"name": name, "instance_uuid": uuid}))
    assert is_vm_folder(folder)
    assert not is_export_id(folder)


def test_the_folder_is_the_slug_and_the_first_digits_of_the_uuid():
    assert vm_folder(VM) == "db01.4f0e7a52"


def test_two_vms_of_one_name_have_two_folders():
    other = VM.model_copy(update={"instance_uuid": "deadbeef-1111-2222-3333-444455556666"})
    assert vm_folder(VM) != vm_folder(other)


def test_an_export_id_is_the_time_in_utc_and_four_digits():
    here = datetime(2026, 11, 23, 7, 53, 4, tzinfo=timezone(timedelta(hours=1)))
    assert re.fullmatch(r"20261123T065304Z-[0-9a-f]{4}", new_export_id(here))


@given(st.datetimes(min_value=datetime(1000, 1, 2), timezones=st.just(UTC)))  # noqa: DTZ001
def test_every_export_id_is_known_again(now: datetime):
    assert is_export_id(new_export_id(now))


@given(st.datetimes(min_value=datetime(2020, 1, 1), timezones=st.timezones()), st.integers(1, 10**9))  # noqa: DTZ001
def test_export_ids_sort_by_time(now: datetime, seconds: int):
    earlier = min(now.astimezone(UTC), datetime(9000, 1, 1, tzinfo=UTC))
    assert new_export_id(earlier) < new_export_id(earlier + timedelta(seconds=seconds))


@pytest.mark.parametrize(
    "name",
    [
        "",
        "20261123T065304Z",
        "20261123T065304Z-1F3A",
        "20261123T065304Z-1f3a.partial",
        "20261123T065304Z-1f3a\n",
        "２０２６１１２３T065304Z-1f3a",
    ],
)
def test_other_names_are_no_export_ids(name: str):
    assert not is_export_id(name)


def test_a_manifest_is_the_same_after_the_way_through_json():
    export = an_export(options={"bandwidth_limit": 10}, warnings=("slow", "größer"), verified=datetime.now(UTC))
    assert ExportManifest.from_json(export.to_json(), source="export.json") == export


@given(warnings=st.lists(st.text()), reason=st.text())
def test_any_words_survive_json(warnings: list[str], reason: str):
    export = an_export(warnings=tuple(warnings), reason=reason)
    assert ExportManifest.from_json(export.to_json(), source="export.json") == export


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"{" * 100_000,
        b'{"options":' + b"[" * 100_000,
        b'{"schema_version": 4}',
    ],
)
def test_what_is_no_manifest_is_named_with_its_source(data: bytes):
    with pytest.raises(ManifestInvalid, match=r"^vm/id/export\.json is not a manifest"):
        ExportManifest.from_json(data, source="vm/id/export.json")


def test_a_manifest_too_large_to_be_one_is_not_read(monkeypatch: pytest.MonkeyPatch):
    whole = an_export().to_json()
    monkeypatch.setattr(manifest, "LARGEST", len(whole) - 1)
    with pytest.raises(ManifestInvalid, match=f"is {len(whole)} bytes long"):
        ExportManifest.from_json(whole, source="export.json")


@given(st.binary(min_size=1, max_size=8), st.data())
def test_a_damaged_manifest_is_read_or_refused_and_nothing_else(noise: bytes, data: st.DataObject):
    whole = an_export().to_json()
    at = data.draw(st.integers(0, len(whole) - 1))
    with suppress(ManifestInvalid):
        ExportManifest.from_json(whole[:at] + noise + whole[at + len(noise) :], source="export.json")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "a\\b", "/etc/passwd", "a\x00", ".owner.json", "x" * 256]
)
@pytest.mark.parametrize("field", ["name", "member_of"])
def test_a_file_name_that_leads_out_of_the_export_is_refused(field: str, name: str):
    with pytest.raises(ValueError, match=field):
        a_disk_file(**{field: name})


@pytest.mark.parametrize("field", ["base", "last_full", "export_id"])
def test_an_export_id_that_leads_out_of_the_vm_folder_is_refused(field: str):
    changes: dict[str, Any] = {field: "../20261123T065304Z-1f3a"}
    with pytest.raises(ValueError, match=field):
        an_export(**changes)


def test_a_reference_that_leads_out_of_the_vm_folder_is_refused():
    with pytest.raises(ValueError, match="stored_in"):
        a_disk_file(stored_in="../other.12345678/20261123T065304Z-1f3a")


def test_stored_bytes_are_counted_once_and_where_they_lie():
    earlier = export_id(datetime(2026, 1, 1, tzinfo=UTC))
    export = an_export(
        files=(
            a_disk_file(0, size=100),
            a_disk_file(1, size=1000, stored_in=earlier),
            a_disk_file(2, name="db01.ova", role=FileRole.OVA, size=10),
            a_disk_file(3, size=5, member_of="db01.ova", offset=512),
        )
    )
    assert export.stored_bytes == 110


def test_a_file_is_found_by_its_name():
    export = an_export()
    assert export.file("db01-disk-1.vmdk") == export.disks[1]
    assert export.file("db01-disk-9.vmdk") is None


def test_the_published_schema_is_current():
    published = Path(__file__).parents[2] / "docs" / "export.schema.json"
    assert published.read_text(encoding="utf-8") == manifest.json_schema(), "run `make schema`"


def test_a_manifest_of_the_first_version_is_read_and_stays_what_it_is():
    first = an_export(schema_version=1)
    data = first.to_json()
    assert ExportManifest.from_json(data, source="export.json") == first
    assert ExportManifest.from_json(data, source="export.json").stages == {}
