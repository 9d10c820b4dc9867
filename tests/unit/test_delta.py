"""Deltas: what differs between a disk's stream and its base, and nothing else; chains that are none are refused."""

import itertools
import random
import zlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperexport.base.stop import StopSignal
from hyperexport.errors import StreamCorrupt, VerificationFailed
from hyperexport.formats.grain_tags import ChainTags, GrainTagger, GrainTags
from hyperexport.formats.vmdk import (
    GRAIN,
    GRAIN_SECTORS,
    NO_PARENT,
    Identity,
    Parent,
    descriptor,
    parse_identity,
)
from hyperexport.formats.vmdk_image import open_image
from hyperexport.formats.vmdk_writer import StreamWriter
from hyperexport.images.base_grains import BaseUnusable, ReadGrains, TaggedGrains, TrackedAreas
from hyperexport.images.delta import ChangedGrain, DeltaWriter, TrackingWrong, delta_stream, whole_stream
from hyperexport.images.disk import Disk
from hyperexport.images.layer import Layer
from hyperexport.images.opening import check_chain
from hyperexport.images.stream import StreamedDisk, StreamedPart
from tests.images import StoredFile, disk_of, entry_of, vmdk_of

CAPACITY = 600 * GRAIN + 512 * 5
"""Two grain tables; the last grain has five sectors."""
GRAINS = CAPACITY // GRAIN + 1
EVERY = (0, 1, 2, 5, 510, 511, 512, 513, GRAINS - 2, GRAINS - 1)
contents = st.dictionaries(
    st.sampled_from(EVERY),
    st.sampled_from((b"", b"a", b"bc" * 9000, b"\0" * 600 + b"x", random.Random(1).randbytes(GRAIN))),
    max_size=10,
)


def guest(grains: dict[int, bytes]) -> dict[int, bytes]:
    """What the guest has in each grain that is ever written."""
    whole = {number: grains.get(number, b"").ljust(GRAIN, b"\0") for number in EVERY}
    return {number: content[: CAPACITY - number * GRAIN] for number, content in whole.items()}


def stream_of(grains: dict[int, bytes], level: int = 1, *, zeros: bool = False) -> bytes:
    """A whole disk as a server streams it; ``zeros`` keeps grains of zeros as some writers do."""
    writer = StreamWriter(CAPACITY)
    pieces = [writer.header()]
    for number, content in sorted(grains.items()):
        whole = content.ljust(GRAIN, b"\0")
        if number == GRAINS - 1:
            whole = whole[: CAPACITY - number * GRAIN].ljust(GRAIN, b"\0")
        if zeros or any(whole):
            pieces.append(writer.precompressed(number * GRAIN_SECTORS, zlib.compress(whole, level)))
    return b"".join((*pieces, writer.finish()))


def tags_of(data: bytes) -> GrainTags:
    tagger = GrainTagger()
    tagger.write(data)
    tags = tagger.finish()
    assert tags is not None
    return tags


def tagged_delta_of(
    chain: list[bytes], stream: bytes, *, areas: Sequence[tuple[int, int]] | None = None, piece: int = 100_000
) -> tuple[bytes, int]:
    """The same, by nothing but the tags of the chain's grains, while change tracking names areas."""
    written = bytearray()
    with disk_of(*chain) as disk:
        delta = DeltaWriter(
            TaggedGrains(ChainTags([tags_of(each) for each in chain]), lambda: disk),
            capacity=CAPACITY,
            out=written.extend,
            name="db01-disk-0.vmdk",
            content_id=7,
            parent=Parent(6, "base.vmdk"),
            tracked=None if areas is None else TrackedAreas(areas),
        )
        for at in range(0, len(stream), piece):
            delta.write(memoryview(stream)[at : at + piece])
        delta.finish()
    return bytes(written), delta.changed


def delta_of(
    chain: list[bytes], stream: bytes, *, stored: list[bytes] | None = None, piece: int = 100_000
) -> tuple[bytes, int]:
    """The delta of a stream on a chain of files whose bytes are read, and how many grains it holds."""
    parts = [
        StreamedPart(Layer(StoredFile(now), f"file {number}"), StoredFile(now), entry_of(data))
        for number, (data, now) in enumerate(zip(chain, stored or chain, strict=True))
    ]
    written = bytearray()
    with Disk([part.layer for part in parts]) as disk:
        delta = DeltaWriter(
            ReadGrains(StreamedDisk(disk, parts, StopSignal()).ascending(), CAPACITY),
            capacity=CAPACITY,
            out=written.extend,
            name="db01-disk-0.vmdk",
            content_id=7,
            parent=Parent(6, "base.vmdk"),
        )
        for at in range(0, len(stream), piece):
            delta.write(memoryview(stream)[at : at + piece])
        delta.finish()
    return bytes(written), delta.changed


@settings(deadline=None, max_examples=40)
@given(
    days=st.lists(contents, min_size=2, max_size=5),
    piece=st.integers(1000, 400_000),
    zeros=st.booleans(),
    tagged=st.booleans(),
)
def test_a_chain_of_deltas_reads_as_the_guest_was_on_each_day(
    days: list[dict[int, bytes]], piece: int, zeros: bool, tagged: bool
) -> None:
    make = tagged_delta_of if tagged else delta_of
    chain = [stream_of(days[0])]
    for before, today in itertools.pairwise(days):
        delta, changed = make(chain, stream_of(today, zeros=zeros), piece=piece)
        chain.append(delta)
        with disk_of(*chain) as disk:
            assert {number: disk.read(number * GRAIN, GRAIN) for number in EVERY} == guest(today)
            assert {number for number, _ in disk.places()} <= set(EVERY)
        one, other = guest(before), guest(today)
        assert changed == sum(one[number] != other[number] for number in EVERY)
        open_image(StoredFile(delta)).walk()


@contextmanager
def streamed(chain: list[bytes]) -> Generator[StreamedDisk]:
    """A chain of files that is read from beginning to end."""
    parts = [
        StreamedPart(Layer(StoredFile(data), f"file {number}"), StoredFile(data), entry_of(data))
        for number, data in enumerate(chain)
    ]
    with Disk([part.layer for part in parts]) as disk:
        yield StreamedDisk(disk, parts, StopSignal())


@settings(deadline=None, max_examples=60)
@given(
    days=st.lists(contents, min_size=2, max_size=5),
    unchanged=st.sets(st.sampled_from(EVERY)),
    whole=st.lists(st.booleans(), min_size=4, max_size=4),
)
def test_deltas_and_synthetic_fulls_of_what_changed_alone_read_as_the_guest_was_on_each_day(
    days: list[dict[int, bytes]], unchanged: set[int], whole: list[bool]
) -> None:
    """Some grains are named as changed that did not change."""
    chain = [stream_of(days[0], zeros=True)]
    for (before, today), is_end in zip(itertools.pairwise(map(guest, days)), whole, strict=False):
        named = sorted({number for number in EVERY if before[number] != today[number]} | unchanged)
        changed = [ChangedGrain(number, today[number]) for number in named]
        parent = None if is_end else Parent(6, "base.vmdk")
        writer = StreamWriter(CAPACITY, content_id=7, parent=parent)
        with streamed(chain) as base:
            pieces = (
                whole_stream(base.ascending(), writer, changed) if is_end else delta_stream(base.disk, writer, changed)
            )
            data = b"".join(pieces)
        open_image(StoredFile(data)).walk()
        chain = [data] if is_end else [*chain, data]
        with disk_of(*chain) as disk:
            assert {number: disk.read(number * GRAIN, GRAIN) for number in EVERY} == today
            if is_end:
                assert {number for number, _ in disk.places()} == {number for number in EVERY if any(today[number])}


def test_a_grain_that_was_only_compressed_anew_is_not_kept() -> None:
    day = {0: b"abc" * 20_000, 3: b"x"}
    _, changed = delta_of([stream_of(day, 1)], stream_of(day, 9))
    assert changed == 0


def test_by_tags_a_grain_that_was_compressed_anew_is_kept_unless_change_tracking_calls_it_unchanged() -> None:
    day = {0: b"abc" * 20_000, 3: b"x"}
    delta, changed = tagged_delta_of([stream_of(day, 1)], stream_of(day, 9))
    assert changed == 2
    with disk_of(stream_of(day, 1), delta) as disk:
        assert disk.read(0, GRAIN) == (b"abc" * 20_000).ljust(GRAIN, b"\0")
    assert tagged_delta_of([stream_of(day, 1)], stream_of(day, 9), areas=[])[1] == 0


@pytest.mark.parametrize(
    "today",
    [{0: b"y", 2: b"b" * 500}, {0: b"x", 2: b"B" + b"b" * 499}, {0: b"x"}, {0: b"x", 2: b"b" * 500, 3: b"new"}],
    ids=["a grain before", "within", "a grain that is zero now", "a grain that was zero"],
)
def test_a_change_outside_the_areas_of_change_tracking_proves_it_wrong(today: dict[int, bytes]) -> None:
    chain = [stream_of({0: b"x", 2: b"b" * 500})]
    with pytest.raises(TrackingWrong, match="changed outside"):
        tagged_delta_of(chain, stream_of(today), areas=[(GRAIN, 512), (9 * GRAIN, 512)])
    exact = next(number for number in range(4) if guest_at(today, number) != guest_at({0: b"x", 2: b"b" * 500}, number))
    assert tagged_delta_of(chain, stream_of(today), areas=[((exact + 1) * GRAIN - 512, 512)])[1] == 1


def guest_at(grains: dict[int, bytes], number: int) -> bytes:
    return grains.get(number, b"").ljust(GRAIN, b"\0")


def test_a_changed_grain_is_kept_as_it_came() -> None:
    stream = stream_of({0: b"new" * 20_000}, 9)
    delta, _ = delta_of([stream_of({0: b"old" * 20_000})], stream)
    assert zlib.compress((b"new" * 20_000).ljust(GRAIN, b"\0"), 9) in delta


def test_any_damage_of_the_base_is_found_before_the_delta_counts() -> None:
    chance = random.Random(4)
    chain = [stream_of({0: chance.randbytes(GRAIN), 2: b"b" * 500, 513: b"c"})]
    chain.append(delta_of(chain, stream_of({0: chance.randbytes(GRAIN), 2: b"b" * 500}))[0])
    stream = stream_of({2: b"b" * 500, 4: b"n"})
    for _ in range(60):
        which = chance.randrange(2)
        rotten = bytearray(chain[which])
        rotten[chance.randrange(len(rotten))] ^= 1 << chance.randrange(8)
        stored = [bytes(rotten) if number == which else data for number, data in enumerate(chain)]
        with pytest.raises((BaseUnusable, VerificationFailed)):  # the latter when the file is opened
            delta_of(chain, stream, stored=stored)


def test_a_stream_with_other_grains_makes_no_delta() -> None:
    other = bytearray(vmdk_of(CAPACITY, {}))
    other[20:28] = (64).to_bytes(8, "little")
    with pytest.raises(BaseUnusable, match="grains"):
        delta_of([stream_of({0: b"x"})], bytes(other))


# -- chains -----------------------------------------------------------------------------------------------------------


def a_file(content_id: int, parent: Parent | None = None, capacity: int = CAPACITY) -> Layer:
    writer = StreamWriter(capacity, content_id=content_id, parent=parent)
    return Layer(StoredFile(writer.header() + writer.finish()), f"file {content_id}")


def test_a_chain_whose_descriptors_fit_is_one() -> None:
    base, middle, top = entry_of(b"", "base.vmdk"), entry_of(b"", "middle.vmdk"), entry_of(b"", "top.vmdk")
    layers = [a_file(5), a_file(6, Parent(5, "base.vmdk")), a_file(7, Parent(6, "middle.vmdk"))]
    check_chain(layers, [base, middle, top])


def wrong_chains() -> Iterator[tuple[list[Layer], str]]:
    yield [a_file(5), a_file(7, Parent(6, "base.vmdk"))], "not on base.vmdk with 00000005"
    yield [a_file(5), a_file(7, Parent(5, "another.vmdk"))], "builds on another.vmdk"
    yield [a_file(5), a_file(7)], "builds on no file"
    yield [a_file(5, Parent(4, "x.vmdk")), a_file(7, Parent(5, "base.vmdk"))], "not on no file"


@pytest.mark.parametrize(("layers", "words"), list(wrong_chains()))
def test_a_chain_whose_descriptors_do_not_fit_is_refused(layers: list[Layer], words: str) -> None:
    with pytest.raises(VerificationFailed, match=words):
        check_chain(layers, [entry_of(b"", "base.vmdk"), entry_of(b"", "top.vmdk")])


def test_a_file_with_another_content_id_than_the_manifests_is_refused() -> None:
    entries = [entry_of(b"", "base.vmdk").model_copy(update={"cid": "00000009"}), entry_of(b"", "top.vmdk")]
    with pytest.raises(VerificationFailed, match="the manifest says 00000009"):
        check_chain([a_file(5), a_file(7, Parent(5, "base.vmdk"))], entries)


def test_disks_of_two_sizes_are_no_chain() -> None:
    with pytest.raises(VerificationFailed, match="cannot be its base"):
        Disk([a_file(5, capacity=GRAIN), a_file(7, Parent(5, "base.vmdk"))])


# -- descriptors ------------------------------------------------------------------------------------------------------


def test_a_descriptor_says_what_the_disk_is_and_what_it_builds_on() -> None:
    whole = descriptor(GRAIN, name="a.vmdk", content_id=0x12AB)
    assert parse_identity(whole + bytes(99), 512) == Identity(0x12AB, NO_PARENT, None)
    delta = descriptor(GRAIN, name="b.vmdk", content_id=0xFF, parent=Parent(0x12AB, "a.vmdk"))
    assert parse_identity(delta, 512) == Identity(0xFF, 0x12AB, "a.vmdk")


@pytest.mark.parametrize(
    "text", [b"", b"CID=xyz\n", b"CID=1\nCID=2\n", b"parentCID=1\n", b"CID=1\nparentCID=1\nparentCID=2\n"]
)
def test_a_descriptor_without_one_content_id_is_damaged(text: bytes) -> None:
    with pytest.raises(StreamCorrupt, match="descriptor"):
        parse_identity(text, 512)


@pytest.mark.parametrize("name", ['a".vmdk', "a\n.vmdk", "x" * 300])
def test_a_name_that_a_descriptor_cannot_hold_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be named as a parent"):
        StreamWriter(GRAIN, parent=Parent(1, name))
