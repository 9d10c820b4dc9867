"""Manifests that somebody made up: refused in words, or read without harm; one of them never hides the others."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperexport.base.stop import StopSignal
from hyperexport.cli.output import pair_lines
from hyperexport.errors import ManifestInvalid
from hyperexport.model.damaged import Problem
from hyperexport.model.manifest import FILE_NAME, ExportManifest, sealed, vm_folder
from hyperexport.model.marks import VerifiedMark
from hyperexport.policy.retention import CleanupLimits, plan_cleanup
from hyperexport.results import CleanupResult
from hyperexport.store.base import StoredExport
from hyperexport.store.contents import StoreContents
from hyperexport.store.local import LocalStore
from hyperexport.verify.export import verify_export
from hyperexport.views.pages import markdown_of
from tests.examples import NOW, VM, an_export

FOLDER = vm_folder(VM)


def document(**changes: Any) -> dict[str, Any]:
    return {**json.loads(an_export().to_json()), **changes}


def with_file(**changes: Any) -> dict[str, Any]:
    whole = document()
    whole["files"][0] |= changes
    return whole


def with_transfer(**changes: Any) -> dict[str, Any]:
    whole = document()
    whole["transfer"] |= changes
    return whole


def sealed_json(value: dict[str, Any]) -> bytes:
    """The manifest as somebody writes it who knows how the seal is made."""
    unsealed = {key: one for key, one in value.items() if key != "seal"}
    return sealed(json.dumps(unsealed).encode().removesuffix(b"}") + b", ")


def read(value: dict[str, Any]) -> ExportManifest:
    return ExportManifest.from_json(sealed_json(value), source="export.json")


def nested(depth: int) -> bytes:
    return b'{"options": ' + b'{"a":' * depth + b"1" + b"}" * depth + b"}"


REFUSED = {
    "a file above": with_file(name="../../../etc/passwd"),
    "a file at the root": with_file(name="/etc/passwd"),
    "a file on a drive": with_file(name="..\\..\\x"),
    "a hidden file": with_file(name=".owner.json"),
    "a file without a name": with_file(name=""),
    "a file with a NUL": with_file(name="a\x00b"),
    "a file of 4,000 characters": with_file(name="x" * 4000),
    "bytes elsewhere": with_file(stored_in="../20261123T065304Z-00ff"),
    "bytes in another VM's folder": with_file(stored_in="other.12345678/20261123T065304Z-00ff"),
    "an OVA elsewhere": with_file(member_of="../../x.ova"),
    "a size below nothing": with_file(size=-1),
    "a size beyond all": with_file(size=2**63),
    "a capacity below nothing": with_file(capacity=-(2**60)),
    "a place beyond all": with_file(member_of="a.ova", offset=2**64),
    "an id above": document(export_id="../x"),
    "a base above": document(base="../x"),
    "no time zone": document(started="2026-11-23T06:00:00"),
    "a time before all": document(started="0001-01-01T00:00:00+14:00"),
    "a time after all": document(finished="9999-12-31T23:59:59-14:00"),
    "infinite seconds": with_transfer(seconds=float("inf")),
    "seconds that are none": with_transfer(seconds=float("nan")),
    "a rate beyond all": with_transfer(achieved=float("inf")),
    "more files than any VM has": document(files=document()["files"] * 4001),
    "a key of a megabyte": document(**{"x" * 1_000_000: 1}),
    "another tool's": document(tool="other"),
}


@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED)
def test_what_no_manifest_says_is_refused_in_few_words(value: dict[str, Any]) -> None:
    with pytest.raises(ManifestInvalid) as caught:
        read(value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00", b"\xff\xfe{", b"[]", b"null", b'"x"', b"[" * 1_000_000, nested(100_000), b"1" * 1_000_000,
     b'{"files": [' + b"{}," * 300_000 + b"{}]}", b" " * (17 << 20)],
    ids=["empty", "NUL", "no UTF-8", "a list", "null", "a text", "deep lists", "deep", "a long number", "a long list",
         "huge"],
)  # fmt: skip
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(ManifestInvalid):
        ExportManifest.from_json(data, source="export.json")


def test_a_manifest_of_another_export_or_a_damaged_one_hides_no_other(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    good = an_export()
    names = ["20260101T000000Z-0001", "20260101T000000Z-0002", "20260101T000000Z-0003", good.export_id]
    contents = [
        sealed_json(document(started="2026-11-23T06:00:00")),
        good.to_json(),  # the id is not the folder's
        nested(1000),
        good.to_json(),
    ]
    for name, content in zip(names, contents, strict=True):
        (tmp_path / FOLDER / name).mkdir(parents=True)
        (tmp_path / FOLDER / name / FILE_NAME).write_bytes(content)
    assert [export.export_id for export in store.exports()] == [good.export_id]
    assert [str(one) for one in store.listing().damaged] == [f"{FOLDER}/{name}" for name in names[:3]]
    assert [one.problem for one in store.listing().damaged] == [Problem.NEWER, Problem.FOREIGN, Problem.INVALID]


def test_a_file_whose_name_is_in_no_encoding_is_named_and_ends_nothing(tmp_path: Path) -> None:
    good = an_export(files=())
    place = tmp_path / FOLDER / good.export_id
    place.mkdir(parents=True)
    (place / FILE_NAME).write_bytes(good.to_json())
    (tmp_path / FOLDER / good.export_id / b"caf\xe9\x1b[2J".decode("utf-8", "surrogateescape")).touch()
    store = LocalStore(tmp_path)
    (export,) = store.exports()
    found = verify_export(store, export, deep=False, stop=StopSignal())
    (extra,) = [one for one in found.findings if "caf" in one.file]
    assert extra.file == "caf\\xe9\x1b[2J"
    extra.model_dump_json()
    store.write_mark(export, VerifiedMark(export_id=good.export_id, damage=(str(extra),), seconds=1))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("../../etc/passwd"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None, database=None)
@given(path=st.lists(st.integers(0, 40), min_size=1, max_size=4), value=JSON)
def test_whatever_is_put_into_a_manifest_is_refused_or_does_no_harm(path: list[int], value: Any) -> None:
    whole: Any = document()
    at = whole
    for step in path[:-1]:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        inner = at[keys[step % len(keys)]] if keys else None
        if not isinstance(inner, dict | list) or not inner:
            break
        at = inner
    keys = list(at) if isinstance(at, dict) else list(range(len(at)))
    at[keys[path[-1] % len(keys)]] = value
    try:
        found = read(whole)
    except ManifestInvalid:
        return
    others = [(FOLDER, found), (FOLDER, an_export(age=timedelta(days=9)))]
    plan = plan_cleanup(others, CleanupLimits(max_count=1), now=NOW, free_bytes=None)
    markdown_of(CleanupResult(store="/exports", dry_run=True, plan=plan))
    lines = pair_lines(StoreContents(store="/exports", exports=(StoredExport(folder=FOLDER, manifest=found),)))
    assert all(len(line.splitlines()) <= 1 for line in lines)
    assert ExportManifest.from_json(found.to_json(), source="again").vm == found.vm


def test_a_manifest_with_as_many_files_as_one_may_have_is_read() -> None:
    files = [{**document()["files"][0], "name": f"db01-disk-{number}.vmdk"} for number in range(1000)]
    found = read(document(files=files, warnings=["x" * 1000] * 10_000))
    assert found.file("db01-disk-999.vmdk") == found.files[-1]
