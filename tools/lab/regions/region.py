# SPDX-License-Identifier: Apache-2.0
"""One region of a bed: its network, and the servers in it."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lab import LabError, command, processes
from lab.cassandra_node import Node
from lab.processes import Group
from lab.regions.namespaces import Namespace
from lab.regions.parts import (
    MEMORY,
    Memcached,
    Part,
    Server,
    condition,
    find_memcached,
)
from lab.regions.router import address
from lab.server import ALL_DRIVERS, Keystone, Settings, merge
from lab.shifted_clock import VARIABLE, Shift

KEYSTONE_PORT = 5000
#: Of the part that is a Keystone, and of its cache.
KEYSTONE, CACHE = 'keystone', 'cache'
#: The host that is the device to the router.
_ROUTER = 254


class Region:
    """One region: a network, and what runs there.

    :ivar number: from 1.
    :ivar datacenter: its name in Cassandra, and of the region of Keystone's
        catalog.
    :ivar nodes: of Cassandra; empty without.
    :ivar parts: all servers by name: the nodes ``1``, ``2``, ..., then
        ``cache`` and ``keystone``, in the order in which they start.
    :ivar environment: what ``openstack`` needs to log in here as admin.
    """

    def __init__(
        self, number: int, nodes: int, folder: Path, group: Group
    ) -> None:
        self.number = number
        self.datacenter = f'dc{number}'
        self.folder = folder
        self.nodes: Sequence[Node] = ()
        self.parts: dict[str, Part] = {}
        self.environment: Mapping[str, str] = {}
        self.addresses = [address(number, n + 1) for n in range(nodes or 1)]
        self.namespace = Namespace(address(number, _ROUTER), self.addresses)
        folder.mkdir()
        self._clock = Shift(folder / 'clock')
        self._keystone: Keystone | None = None
        self._group = group
        # Of those who start and stop.
        self._turn = threading.Lock()

    def __repr__(self) -> str:
        return f'<Region {self.number} {self.address}>'

    @property
    def address(self) -> str:
        """Of the first node, the Keystone and the cache."""
        return self.addresses[0]

    @property
    def keystone(self) -> Keystone:
        """Its Keystone.

        :raises LabError: there is none.
        """
        if self._keystone is None:
            raise LabError(f'{self!r} has no Keystone')
        return self._keystone

    def entered(self) -> contextlib.AbstractContextManager[None]:
        """Put the current thread into the region until the block ends.

        What it opens or starts there stays there: sockets, threads,
        processes.
        """
        return self.namespace.entered()

    def run(self, *arguments: str, **options: Any) -> str:
        """Run a program in the region and return what it prints.

        :param options: those of ``subprocess.run``.
        :raises LabError: it failed; the text says how.
        """
        with self.entered():
            return command.output(arguments[0], arguments, **options)

    def spawn(self, *arguments: str, **options: Any) -> subprocess.Popen[Any]:
        """Start a program in the region, which ends with it.

        :param options: those of ``subprocess.Popen``, and ``environment``.
        """
        with self.entered():
            return self._group.spawn(
                arguments, mark=str(self.folder / 'spawned'), **options
            )

    def some(self, name: str | None = None) -> Iterator[tuple[str, Part]]:
        """Yield a part and its name; all parts without a name.

        :raises LabError: there is no such part.
        """
        if name and name not in self.parts:
            raise LabError(
                f'region {self.number} has no {name!r};'
                f' it has: {", ".join(self.parts) or "nothing"}'
            )
        for each, part in self.parts.items():
            if name in (None, each):
                yield each, part

    def pause(self, name: str | None = None) -> None:
        """Freeze what runs: connections stay open and nothing answers.

        :param name: of the part; default: all.
        """
        with self._turn:
            for _, part in self.some(name):
                if part.running:
                    part.pause()

    def resume(self, name: str | None = None) -> None:
        """Let go on what was paused."""
        with self._turn:
            for _, part in self.some(name):
                if part.running:
                    part.resume()

    def kill(self, name: str | None = None) -> None:
        """End what runs at once, as a crash does."""
        with self._turn:
            for _, part in self.some(name):
                part.kill()

    def start(
        self, name: str | None = None, peers: Sequence[Node] = ()
    ) -> None:
        """Start what does not run, and wait until it answers.

        :param peers: nodes of other regions that shall see the nodes then.
        :raises LabError: if something did not start.
        """
        with self._turn:
            for node in self.nodes:
                node.peers = [*self.nodes, *peers]
            for _, part in self.some(name):
                part.start()

    @property
    def clock(self) -> float:
        """Seconds by which the clock of this region's Keystone is ahead.

        Of the server alone (see :mod:`lab.shifted_clock`): Cassandra and the
        management commands have the right time.
        """
        return self._clock.seconds

    @clock.setter
    def clock(self, seconds: float) -> None:
        self._clock.seconds = seconds

    def state(self) -> dict[str, str]:
        """Return how each part is: up, stopped, or does not answer."""
        return {name: condition(part) for name, part in self.some()}

    def make_keystone(
        self, settings: Settings, clustered: Settings, memcached: bool = True
    ) -> None:
        """Make the Keystone that ``start`` then starts, and its cache.

        :param settings: win over those that are made here.
        :param clustered: what all servers have in common.
        :param memcached: whether it may be used.
        """
        cache = MEMORY
        program = find_memcached() if memcached else None
        if program:
            shared = Memcached(
                program,
                self.address,
                self.folder / CACHE,
                self.namespace,
                self._group,
            )
            cache = shared.settings
            self.parts[CACHE] = shared
        own: Settings = {
            'database': {
                'cassandra_node_ips': [node.address for node in self.nodes]
            },
            'cassandra': {'local_dc': self.datacenter},
            'cache': {'enabled': True},
        }
        self._keystone = Keystone(
            self.folder / KEYSTONE,
            merge(ALL_DRIVERS, clustered, own, cache, settings),
            # One process where each has a cache of its own: what another one
            # ends would be remembered.
            workers=2 if program else 1,
            sql=False,
            host=self.address,
            port=KEYSTONE_PORT,
            inside=self.entered,
            environment={VARIABLE: str(self.folder / 'clock')},
        )
        self.parts[KEYSTONE] = Server(self._keystone)

    def close(self) -> None:
        """End what runs and let go of the network."""
        processes.kill_marked(str(self.folder))
        # Who is starting something meanwhile learns that it has ended.
        with self._turn:
            if self._keystone:
                self._keystone.kill()
            self.namespace.close()
