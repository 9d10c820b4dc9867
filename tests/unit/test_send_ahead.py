"""A socket that sends in a thread of its own: nothing lost, nothing out of order, no failure kept to itself."""

import socket
import threading
from collections.abc import Generator

import pytest

from hyperexport.transfer.send_ahead import AHEAD, SendAhead

PIECES = [bytes([number]) * 300_000 for number in range(12)]


@pytest.fixture
def pair() -> Generator[tuple[SendAhead, socket.socket]]:
    """Our end of a connection, and the peer's."""
    ours, theirs = socket.socketpair()
    ours.settimeout(20)
    theirs.settimeout(20)
    with SendAhead(ours) as ahead, theirs:
        yield ahead, theirs
        ahead.end()


def received(peer: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size and (piece := peer.recv(1 << 20)):
        data += piece
    return bytes(data)


def fill(ahead: SendAhead) -> None:
    """Hand over as much as is taken without waiting, to a peer that reads nothing: the sender waits, then the queue."""
    for _ in range(AHEAD):
        ahead.sendall(bytes(4 << 20))


def send_more_than_may_wait(ahead: SendAhead, piece: bytes) -> None:
    for _ in range(2 * AHEAD + 2):
        ahead.sendall(piece)


def test_everything_arrives_in_order(pair: tuple[SendAhead, socket.socket]) -> None:
    ahead, peer = pair
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(received(peer, sum(map(len, PIECES)))))
    reader.start()
    for piece in PIECES:
        ahead.sendall(piece)
    reader.join()
    assert found == [b"".join(PIECES)]


def test_what_was_handed_over_is_sent_before_an_answer_is_read(pair: tuple[SendAhead, socket.socket]) -> None:
    """The timeout of the answer does not run while a slow peer still takes the question."""
    ahead, peer = pair
    ahead.settimeout(0.3)
    fill(ahead)

    def take_and_answer() -> None:
        left = AHEAD * (4 << 20)
        while left:
            threading.Event().wait(0.01)
            left -= len(peer.recv(1 << 18))
        peer.sendall(b"thanks")

    taker = threading.Thread(target=take_and_answer)
    taker.start()
    assert ahead.recv(10) == b"thanks"
    taker.join()


def test_a_failure_is_raised_by_a_later_call_and_no_call_waits_for_ever(
    pair: tuple[SendAhead, socket.socket],
) -> None:
    ahead, peer = pair
    fill(ahead)
    peer.close()
    with pytest.raises(ConnectionError):
        send_more_than_may_wait(ahead, b"more")


def test_a_peer_that_takes_nothing_is_a_timeout(pair: tuple[SendAhead, socket.socket]) -> None:
    ahead, _peer = pair
    ahead.settimeout(0.1)
    with pytest.raises(TimeoutError):
        send_more_than_may_wait(ahead, bytes(4 << 20))


def test_closing_ends_a_sender_that_waits_and_its_thread(pair: tuple[SendAhead, socket.socket]) -> None:
    ahead, _peer = pair
    before = threading.active_count()
    fill(ahead)
    ahead.end()
    assert threading.active_count() == before - 1
    ahead.end()
