"""Profiles where no Prefect API is configured: private files, of the same rules as the blocks."""

import json
from pathlib import Path

import pytest

from hyperexport import profiles
from hyperexport.errors import UsageError
from hyperexport.options.precedence import ExportOptions


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path


def test_a_profile_keeps_only_what_was_set_in_a_private_file() -> None:
    profiles.save_profile("My Nightly", ExportOptions.from_keys({"bandwidth_limit": "20", "output": "/backup"}))
    (path,) = profiles.folder().iterdir()
    assert path.name == "my-nightly.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(path.read_text())["options"] == {"bandwidth_limit": 20.0, "output": "/backup"}
    assert profiles.load_profile("my_nightly").get_options() == {"bandwidth_limit": 20.0, "output": Path("/backup")}


def test_profiles_are_listed_replaced_and_deleted() -> None:
    profiles.save_profile("b", ExportOptions.from_keys({"parallel": 2}))
    profiles.save_profile("a", ExportOptions.from_keys({"parallel": 3}))
    profiles.save_profile("b", ExportOptions.from_keys({"dry_run": True}), base={"parallel": 5})
    assert profiles.saved_names() == ["a", "b"]
    assert profiles.load_profile("a").options == {"parallel": 3}
    assert profiles.load_profile("b").options == {"dry_run": True, "parallel": 5}
    profiles.delete_profile("a")
    assert profiles.saved_names() == ["b"]
    with pytest.raises(UsageError, match="there is no profile a"):
        profiles.delete_profile("a")


@pytest.mark.parametrize("name", ["", "../x", "a/b", "ä", "-"])
def test_a_name_that_is_no_safe_file_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a profile"):
        profiles.save_profile(name, ExportOptions.from_keys({"parallel": 2}))


def test_what_an_edited_file_sets_is_checked_by_the_same_model() -> None:
    profiles.save_profile("x", ExportOptions.from_keys({"parallel": 2}))
    path = profiles.folder() / "x.json"
    path.write_text(json.dumps({"name": "x", "options": {"parallel": 99, "nonsense": 1}, "saved_with": "9"}))
    with pytest.raises(UsageError, match=r"profile x, saved by HyperExport 9: .*nonsense.*--parallel"):
        profiles.load_profile("x").get_options()
    path.write_text("{")
    with pytest.raises(UsageError, match="cannot be read as a profile"):
        profiles.load_profile("x")


def test_no_flipped_bit_of_a_profile_decides_anything() -> None:
    profiles.save_profile("x", ExportOptions.from_keys({"cleanup_max_count": 30, "cleanup": True}))
    path = profiles.folder() / "x.json"
    data = path.read_bytes()
    for place in range(len(data)):
        for bit in range(8):
            path.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
            with pytest.raises(UsageError, match="profile x: "):
                profiles.load_profile("x")


def test_a_profile_that_was_edited_is_read_once_its_seal_is_deleted() -> None:
    profiles.save_profile("x", ExportOptions.from_keys({"parallel": 2}))
    path = profiles.folder() / "x.json"
    document = json.loads(path.read_text())
    document["options"]["parallel"] = 3
    path.write_text(json.dumps(document))
    with pytest.raises(UsageError, match='delete its line "seal"'):
        profiles.load_profile("x")
    del document["seal"]
    path.write_text(json.dumps(document))
    assert profiles.load_profile("x").options == {"parallel": 3}
