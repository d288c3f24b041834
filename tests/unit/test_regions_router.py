# SPDX-License-Identifier: Apache-2.0
"""The router between regions, with packets that nobody sent."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Iterator

import pytest
from lab.regions.router import Router, address, destination, serve


def packet(target: int, text: bytes = b'') -> bytes:
    """Return an IPv4 packet to the first host of a region."""
    return b'\x45' + bytes(15) + socket.inet_aton(address(target, 1)) + text


def arrived(router: Router, now: float) -> list[tuple[int, bytes]]:
    return [(to, sent[20:]) for to, sent in router.arrived(now)]


def way(router: Router, source: int, target: int) -> dict[str, int]:
    (found,) = (
        each
        for each in router.state()['ways']
        if (each['from'], each['to']) == (source, target)
    )
    return dict(found)


def test_a_packet_takes_half_a_round_trip() -> None:
    router = Router(2, rtt_ms=100)
    assert router.next_at is None
    router.take(1, packet(2, b'a'), now=10)
    assert router.next_at == pytest.approx(10.05)
    assert arrived(router, 10.049) == []
    assert arrived(router, 10.051) == [(2, b'a')]
    assert router.next_at is None


def test_the_order_of_a_way_stays_also_when_it_gets_faster() -> None:
    router = Router(3, rtt_ms=100)
    router.take(1, packet(2, b'first'), now=0)
    router.slow(0)
    router.take(1, packet(2, b'second'), now=0.01)
    router.take(1, packet(3, b'another way'), now=0.01)
    assert arrived(router, 0.02) == [(3, b'another way')]
    assert arrived(router, 1) == [(2, b'first'), (2, b'second')]


def test_packets_of_one_moment_keep_their_order() -> None:
    router = Router(2, rtt_ms=10)
    sent = [bytes([number]) for number in range(255, 0, -1)]
    for each in sent:
        router.take(1, packet(2, each), now=0)
    assert arrived(router, 1) == [(2, each) for each in sent]


def test_one_region_is_slow_to_all_others() -> None:
    router = Router(3, rtt_ms=100)
    router.slow(300, region=2)
    assert [
        (each['from'], each['to'], each['rtt_ms'])
        for each in router.state()['ways']
    ] == [
        *((1, 2, 300), (1, 3, 100)),
        *((2, 1, 300), (2, 3, 300)),
        *((3, 1, 100), (3, 2, 300)),
    ]


@pytest.mark.parametrize('cut', [1, 2])
def test_nothing_leaves_or_reaches_a_region_that_is_cut_off(cut: int) -> None:
    router = Router(3, rtt_ms=100)
    router.take(1, packet(2, b'under way'), now=0)
    router.obey({'cut': cut})
    router.take(1, packet(2, b'lost'), now=0.01)
    router.take(2, packet(1, b'lost'), now=0.01)
    router.take(3, packet(3 - cut, b'passes'), now=0.01)
    assert arrived(router, 1) == [(3 - cut, b'passes')]
    assert way(router, 1, 2)['lost'] == 2
    assert router.state()['cut'] == [cut]
    router.obey({'heal': cut})
    router.take(1, packet(2, b'again'), now=2)
    assert arrived(router, 3) == [(2, b'again')]


def test_all_cuts_are_healed_at_once() -> None:
    router = Router(3)
    router.obey({'cut': 1})
    router.obey({'cut': 3})
    assert router.state()['cut'] == [1, 3]
    router.obey({'heal': None})
    assert router.state()['cut'] == []


def lost(seed: int, share: float) -> list[int]:
    """Return which of a thousand packets are lost."""
    router = Router(2, loss=share, seed=seed)
    names = [str(number).encode() for number in range(1000)]
    for name in names:
        router.take(1, packet(2, name), now=0)
    came = {name for _, name in arrived(router, 1)}
    assert way(router, 1, 2)['lost'] == 1000 - len(came)
    return [number for number, name in enumerate(names) if name not in came]


def test_loss_is_by_chance_and_the_same_with_the_same_seed() -> None:
    assert lost(1, 0) == []
    assert len(lost(1, 1)) == 1000
    some = lost(1, 0.2)
    assert 100 < len(some) < 300
    assert some == lost(1, 0.2)
    assert some != lost(2, 0.2)


@pytest.mark.parametrize(
    'text',
    [
        b'',
        b'\x45' * 19,
        b'\x60' + packet(2)[1:],  # IPv6
        packet(2)[:16] + socket.inet_aton('224.0.0.1'),
    ],
)
def test_what_goes_to_no_region_is_dropped(text: bytes) -> None:
    router = Router(2)
    assert destination(text) is None
    router.take(1, text, now=0)
    assert router.next_at is None


@pytest.mark.parametrize('target', [0, 1, 3])
def test_a_region_that_is_not_there_gets_nothing(target: int) -> None:
    """Nor does a region its own back."""
    router = Router(2)
    router.take(1, packet(target), now=0)
    assert router.next_at is None


class Served:
    """A router that is served, with sockets instead of devices."""

    def __init__(self) -> None:
        # Of packets, as devices are.
        pairs = [
            socket.socketpair(type=socket.SOCK_SEQPACKET) for _ in range(2)
        ]
        self.ends = [end for end, _ in pairs]
        self.theirs = [their for _, their in pairs]
        for end in self.ends:
            end.settimeout(60)
        self._control, control = socket.socketpair()
        self._answers = self._control.makefile('rb')
        devices = [each.fileno() for each in self.theirs]
        self.thread = threading.Thread(
            target=serve, args=(Router(2), devices, control), daemon=True
        )
        self.thread.start()

    def order(self, **order: object) -> dict[str, object]:
        self._control.sendall(json.dumps(order).encode() + b'\n')
        return dict(json.loads(self._answers.readline()))

    def end(self) -> None:
        self._answers.close()
        self._control.close()
        self.thread.join(60)


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.end()
    for each in *served.ends, *served.theirs:
        each.close()


def test_packets_pass_and_orders_are_obeyed(served: Served) -> None:
    here, there = served.ends
    for text in b'one', b'two':
        here.send(packet(2, text))
        assert there.recv(99) == packet(2, text)
    assert served.order(cut=1)['cut'] == [1]
    here.send(packet(2, b'lost'))
    lost = {'packets': 2, 'bytes': 46, 'lost': 1}
    while served.order()['ways'][0] != {  # type: ignore[index]
        **{'from': 1, 'to': 2, 'rtt_ms': 0},
        **lost,
    }:
        pass
    served.order(heal=None)
    there.send(packet(1, b'back'))
    assert here.recv(99) == packet(1, b'back')


def test_a_full_queue_drops(served: Served) -> None:
    here, there = served.ends
    here.settimeout(0)
    sent = 0
    # Nobody reads there; the router goes on all the same.
    while served.order()['ways'][0]['packets'] < 2000:  # type: ignore[index]
        with contextlib.suppress(BlockingIOError):
            here.send(packet(2, bytes(1000)))
            sent += 1
    there.settimeout(0)
    came = 0
    with contextlib.suppress(BlockingIOError):
        while there.recv(2000):
            came += 1
    assert 0 < came < sent


def test_it_ends_with_who_gives_orders(served: Served) -> None:
    served.end()
    assert not served.thread.is_alive()
    assert os.fstat(served.ends[0].fileno())
