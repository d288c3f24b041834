# SPDX-License-Identifier: Apache-2.0
"""The wide area network: passes IP packets between regions, late or never.

It runs as a process of its own, so that nothing else that a test does delays
a packet.  :class:`Router` decides; :func:`serve` reads and writes the TUN
devices of the regions, of which the process inherits the file descriptors.
With Python's own library alone.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import os
import random
import select
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

MOST_REGIONS, MOST_NODES = 9, 9
#: The first two numbers of all addresses; the third is the region.
NETWORK = (10, 77)
#: Bytes of a packet, at most: that of the devices.
MTU = 1500
#: Packets that are read from one device before the others' turn.
_TURN = 64
#: Bytes of the header of an IPv4 packet without options.
_HEADER = 20
_DESTINATION = 16


def address(region: int, host: int) -> str:
    """Return the address of a host of a region; both from 1."""
    return f'{NETWORK[0]}.{NETWORK[1]}.{region}.{host}'


def destination(packet: bytes) -> int | None:
    """Return the region that a packet goes to; None if it goes to none."""
    if len(packet) < _HEADER or packet[0] >> 4 != 4:  # no IPv4
        return None
    if tuple(packet[_DESTINATION : _DESTINATION + 2]) != NETWORK:
        return None
    return packet[_DESTINATION + 2]


class Router:
    """Decides which packet arrives, and when.

    The network is as a real one: packets from one region to another keep
    their order, and what is under way when a region is cut off is lost.

    :param regions: how many; they are numbered from 1.
    :param seed: of the packets that are lost by chance.

    :ivar loss: the share of packets that is lost, 0 to 1.
    :ivar cut: the regions that nothing leaves or reaches.
    """

    def __init__(
        self,
        regions: int,
        rtt_ms: float = 0,
        loss: float = 0,
        seed: int | None = None,
    ) -> None:
        self.regions = range(1, regions + 1)
        self.loss = loss
        self.cut: set[int] = set()
        self._rtt_ms: dict[tuple[int, int], float] = {}
        self._chance = random.Random(seed)
        self._numbers = itertools.count()
        # When each arrives, a number that tells those of one moment apart,
        # from where, where to, the packet.
        self._under_way: list[tuple[float, int, int, int, bytes]] = []
        self._last: dict[tuple[int, int], float] = {}
        self._counts: dict[tuple[int, int], dict[str, int]] = {
            way: {'packets': 0, 'bytes': 0, 'lost': 0}
            for way in itertools.permutations(self.regions, 2)
        }
        self.slow(rtt_ms)

    def slow(self, rtt_ms: float, region: int | None = None) -> None:
        """Set the round trip between two regions, half of it each way.

        :param rtt_ms: milliseconds.
        :param region: only between this one and each other; default: all.
        """
        for way in itertools.permutations(self.regions, 2):
            if region is None or region in way:
                self._rtt_ms[way] = rtt_ms

    def take(self, source: int, packet: bytes, now: float) -> None:
        """Take a packet that a region sends.

        :param now: seconds of a clock that never goes back.
        """
        target = destination(packet)
        way = (source, target or 0)
        if target is None or way not in self._counts:
            # No IPv4, or to an address that nobody has.
            return
        if self._is_cut(way) or self._chance.random() < self.loss:
            self._counts[way]['lost'] += 1
            return
        due = now + self._rtt_ms[way] / 2000
        # What left before arrives before, also if the way was slower then.
        due = self._last[way] = max(due, self._last.get(way, 0))
        heapq.heappush(
            self._under_way, (due, next(self._numbers), *way, packet)
        )

    def arrived(self, now: float) -> Iterator[tuple[int, bytes]]:
        """Yield what has arrived by now: the region and the packet."""
        while self._under_way and self._under_way[0][0] <= now:
            _, _, source, target, packet = heapq.heappop(self._under_way)
            count = self._counts[source, target]
            if self._is_cut((source, target)):
                count['lost'] += 1
                continue
            count['packets'] += 1
            count['bytes'] += len(packet)
            yield target, packet

    @property
    def next_at(self) -> float | None:
        """When the next packet arrives, None if none is under way."""
        return self._under_way[0][0] if self._under_way else None

    def _is_cut(self, way: tuple[int, int]) -> bool:
        return not self.cut.isdisjoint(way)

    def state(self) -> dict[str, Any]:
        """Return what is set, and what was passed on so far.

        ``ways`` has an entry for each direction: ``from``, ``to``,
        ``rtt_ms``, ``packets`` and ``bytes`` that arrived, and packets
        ``lost``.
        """
        return {
            'loss': self.loss,
            'cut': sorted(self.cut),
            'ways': [
                {'from': way[0], 'to': way[1], 'rtt_ms': rtt_ms}
                | self._counts[way]
                for way, rtt_ms in self._rtt_ms.items()
            ],
        }

    def obey(self, order: dict[str, Any]) -> None:
        """Do what an order of :class:`lab.regions.wan.Wan` says."""
        if 'cut' in order:
            self.cut.add(order['cut'])
        if 'heal' in order:
            region = order['heal']
            self.cut -= {region} if region else set(self.regions)
        if 'rtt_ms' in order:
            self.slow(order['rtt_ms'], order['region'])
        if 'loss' in order:
            self.loss = order['loss']


def serve(
    router: Router, devices: Sequence[int], control: socket.socket
) -> None:
    """Pass packets on until the other end of ``control`` is closed.

    :param devices: descriptors of the TUN devices, the first region's first.
    :param control: brings orders, a line of JSON each; each is answered with
        a line that has the state.
    """
    regions = dict(zip(devices, router.regions, strict=True))
    targets = dict(zip(router.regions, devices, strict=True))
    for device in devices:
        os.set_blocking(device, False)
    orders = control.makefile('rb')
    watched = [control.fileno(), *devices]
    while True:
        next_at = router.next_at
        wait = None if next_at is None else next_at - time.monotonic()
        # Not epoll or poll, which wait for whole milliseconds.
        ready, _, _ = select.select(
            watched, (), (), None if wait is None else max(0, wait)
        )
        for descriptor in ready:
            if descriptor in regions:
                for packet in _read(descriptor):
                    router.take(regions[descriptor], packet, time.monotonic())
            elif line := orders.readline():
                router.obey(json.loads(line))
                control.sendall(json.dumps(router.state()).encode() + b'\n')
            else:
                return
        for target, packet in router.arrived(time.monotonic()):
            # Its queue is full: what a router does then is to drop.
            with contextlib.suppress(BlockingIOError):
                os.write(targets[target], packet)


def _read(device: int) -> Iterator[bytes]:
    for _ in range(_TURN):
        try:
            yield os.read(device, MTU)
        except BlockingIOError:
            return


def main() -> None:
    """Run the router.

    The first argument has the parameters of :class:`Router` as JSON, the
    second the descriptor of the control socket, the others are devices.
    """
    parameters, control, *devices = sys.argv[1:]
    with contextlib.suppress(KeyboardInterrupt):
        serve(
            Router(len(devices), **json.loads(parameters)),
            list(map(int, devices)),
            socket.socket(fileno=int(control)),
        )


if __name__ == '__main__':
    main()
