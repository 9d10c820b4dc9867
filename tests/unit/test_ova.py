"""OVAs: written as tar knows them, and read without trusting them."""

import contextlib
import io
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperexport.base.units import GIB, MIB
from hyperexport.errors import StreamCorrupt
from hyperexport.formats import ova
from tests.memory import Memory

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
FILES = {"db01.ovf": b"<Envelope/>", "db01.mf": b"", "db01-disk-0.vmdk": b"disk" * 1000, "db01.nvram": b"n" * 512}


class Chunks:
    def __init__(self, data: bytes, times: int = 1) -> None:
        self._data, self._times = data, times

    def chunks(self) -> Iterator[bytes]:
        return iter([self._data] * self._times)


def part(name: str, data: bytes) -> ova.Part:
    return ova.Part(name, len(data), lambda: nullcontext(Chunks(data)))


def pack(files: dict[str, bytes]) -> bytes:
    written = bytearray()
    ova.write([part(name, data) for name, data in files.items()], written.extend, modified=NOW)
    return bytes(written)


OVA = pack(FILES)


def test_tar_reads_what_was_written_in_the_order_given() -> None:
    with tarfile.open(fileobj=io.BytesIO(OVA)) as archive:
        assert archive.getnames() == list(FILES)
        for info in archive:
            content = archive.extractfile(info)
            assert content
            assert content.read() == FILES[info.name]
            assert (info.mtime, info.mode, info.type) == (NOW.timestamp(), 0o644, tarfile.REGTYPE)
    assert OVA[257:265] == b"ustar\x0000"


@given(st.dictionaries(st.text("abcXYZ01-.", min_size=1, max_size=90), st.binary(max_size=1500), max_size=6))
@settings(deadline=None)
def test_the_index_and_the_size_are_known_beforehand_and_are_what_is_read(more: dict[str, bytes]) -> None:
    files = {"vm.ovf": b"<x/>", **{name: data for name, data in more.items() if name not in {".", ".."}}}
    data = pack(files)
    sizes = [(name, len(content)) for name, content in files.items()]
    assert len(data) == ova.ova_size(sizes)
    assert ova.read_index(Memory(data)) == ova.layout(sizes)
    for member in ova.layout(sizes):
        assert data[member.offset : member.offset + member.size] == files[member.name]


def test_a_member_of_nine_gibibytes_is_right(tmp_path: Path) -> None:
    """Written sparse: what is zero is not written, only made room for."""
    path = tmp_path / "large.ova"
    zeros, size = bytes(16 * MIB), 9 * GIB
    with path.open("wb") as file:

        def sink(view: memoryview) -> None:
            file.seek(len(view), io.SEEK_CUR) if len(view) == len(zeros) else file.write(view)

        large = ova.Part("large.vmdk", size, lambda: nullcontext(Chunks(zeros, size // len(zeros))))
        ova.write([part("vm.ovf", b"<x/>"), large, part("vm.nvram", b"nvram")], sink, modified=NOW)
    with path.open("rb") as file:

        class Reader:
            size = path.stat().st_size

            def read_at(self, offset: int, length: int) -> bytes:
                file.seek(offset)
                return file.read(length)

        index = ova.read_index(Reader())
        assert [(member.name, member.size) for member in index] == [
            ("vm.ovf", 4),
            ("large.vmdk", size),
            ("vm.nvram", 5),
        ]
        assert Reader().read_at(index[2].offset, 5) == b"nvram"
    with tarfile.open(path) as archive:
        assert [(info.name, info.size) for info in archive] == [(member.name, member.size) for member in index]
    listing = shutil.which("tar")
    if listing:
        shown = subprocess.run([listing, "tvf", path], capture_output=True, text=True, check=True).stdout
        assert f" {size} " in shown
        assert "vm.nvram" in shown


def test_a_descriptor_must_be_first_and_names_must_fit() -> None:
    with pytest.raises(ValueError, match="begins with its descriptor"):
        pack({"a.mf": b"", "a.ovf": b""})
    with pytest.raises(ValueError, match="begins with its descriptor"):
        pack({})
    with pytest.raises(ValueError, match="name"):
        pack({"a.ovf": b"", "x" * 200: b""})


@pytest.mark.parametrize("length", [3, 5])
def test_a_part_that_changed_its_size_is_not_packed_as_if_nothing_was(length: int) -> None:
    liar = ova.Part("a.ovf", 4, lambda: nullcontext(Chunks(b"x" * length)))
    with pytest.raises(StreamCorrupt, match=r"a\.ovf no longer has the 4 bytes"):
        ova.write([liar], lambda _: None, modified=NOW)


def hostile(**changes: object) -> bytes:
    info = tarfile.TarInfo("vm.ovf")
    for name, value in changes.items():
        setattr(info, name, value)
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(20 * 512)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (hostile(name="../vm.ovf"), "not a plain file name"),
        (hostile(name="/etc/passwd"), "not a plain file name"),
        (hostile(name="a\\b"), "not a plain file name"),
        (hostile(name=".."), "not a plain file name"),
        (hostile(name="a\nb"), "not a plain file name"),
        (hostile(name="C:x"), "not a plain file name"),
        (hostile(type=tarfile.SYMTYPE, linkname="/etc/passwd"), "not a plain file"),
        (hostile(type=tarfile.LNKTYPE, linkname="vm.ovf"), "not a plain file"),
        (hostile(type=tarfile.CHRTYPE), "not a plain file"),
        (hostile(type=tarfile.DIRTYPE), "not a plain file"),
        (hostile(type=tarfile.GNUTYPE_SPARSE), "not a plain file"),
        (hostile(size=1 << 62), "would have 4611686018427387904 bytes"),
        (hostile(size=-1), "would have -1 bytes"),
        (hostile(size=20 * 512 + 1), "would have"),
        (hostile()[:512] + hostile(), "there twice"),
        (b"".join(hostile(name=f"f{number}")[:512] for number in range(1001)) + bytes(1024), "more than 1000 members"),
        (b"not a tar".ljust(512) + bytes(1024), "no tar header"),
        (b"", "ends before its end marker"),
        (bytes(512), "ends before its end marker"),
        (hostile() + bytes(512 * 20) + b"x" * 512, "continues after"),
        (hostile()[:-512] + b"x" * 512, "something follows its end marker"),
    ],
)
def test_a_hostile_tar_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(StreamCorrupt, match=reason):
        ova.read_index(Memory(data))


def test_a_name_with_a_nul_in_it_is_refused() -> None:
    block = bytearray(hostile()[:512])
    block[:10] = b"vm.ovf\0xyz"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    with pytest.raises(StreamCorrupt, match="more than a name"):
        ova.read_index(Memory(bytes(block) + bytes(1024)))


def test_every_truncation_is_found() -> None:
    whole = len(OVA) - 9 * 512  # what is missing of the last zeros is no loss
    for end in range(0, whole, 37):
        with pytest.raises(StreamCorrupt):
            ova.read_index(Memory(OVA[:end]))


@given(st.lists(st.tuples(st.integers(0, len(OVA) - 1), st.integers(0, 255)), min_size=1, max_size=20))
@settings(deadline=None)
def test_nothing_but_a_corrupt_stream_comes_out_of_hostile_bytes(changes: list[tuple[int, int]]) -> None:
    data = bytearray(OVA)
    for place, value in changes:
        data[place] = value
    with contextlib.suppress(StreamCorrupt):
        ova.read_index(Memory(data))
