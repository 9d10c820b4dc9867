"""Every parser of foreign bytes, fed with good bytes, damaged ones and any: only our own errors ever come out."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import parsers

FINDINGS = Path(__file__).parent / "findings"
"""What the fuzzer once found, each in a file named ``<parser>-<what>``; none of it comes back."""


@pytest.mark.parametrize("name", parsers())
def test_what_is_well_formed_is_read(name: str) -> None:
    for seed in parsers()[name].seeds:
        parsers()[name].check(seed)


@pytest.mark.parametrize("name", parsers())
def test_damaged_bytes_give_only_errors_of_our_own(name: str) -> None:
    parser = parsers()[name]

    @settings(max_examples=20, deadline=None, database=None)
    @given(st.data())
    def damage(data: st.DataObject) -> None:
        content = bytearray(data.draw(st.sampled_from(parser.seeds)))
        for _ in range(data.draw(st.integers(0, 4))):
            place = data.draw(st.integers(0, len(content)))
            length = data.draw(st.sampled_from([0, 1, 4, 8, 512]))
            content[place : place + length] = data.draw(st.binary(max_size=12) | st.just(b"\xff" * length))
        parser.check(bytes(content))

    damage()


@pytest.mark.parametrize("name", parsers())
def test_any_bytes_give_only_errors_of_our_own(name: str) -> None:
    parser = parsers()[name]

    @settings(max_examples=20, deadline=None, database=None)
    @given(st.binary(max_size=2000) | st.text().map(str.encode))
    def anything(data: bytes) -> None:
        parser.check(data)

    anything()


@pytest.mark.parametrize("finding", sorted(FINDINGS.glob("*")), ids=lambda finding: finding.name)
def test_what_was_found_once_is_mended(finding: Path) -> None:
    parsers()[finding.name.partition("-")[0]].check(finding.read_bytes())
