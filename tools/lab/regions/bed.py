# SPDX-License-Identifier: Apache-2.0
"""A bed of regions for tests: Cassandra and Keystone in each, a WAN between.

    with Bed.start(regions=3, nodes=1, rtt_ms=100) as bed:
        bed.cut(3)
        with bed.regions[2].entered():
            ... requests to bed.regions[2].keystone.url ...
        bed.heal()

Each region is a network namespace: its nodes, its Keystone and its cache find
each other without the WAN, and nobody outside of the namespace finds them.
All of it ends with the process that started it, whatever ends that one.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import secrets
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from lab import CHECKOUT, TOOLS, LabError, ports, processes
from lab.cassandra import Cluster
from lab.cassandra_node import SEED_PROVIDER, STORAGE_PORT, Place
from lab.client import credentials, no_proxy
from lab.processes import Group
from lab.regions.parts import condition, find_memcached
from lab.regions.region import CACHE, Region
from lab.regions.wan import Wan
from lab.server import Keystone, Settings

#: Of the folders below the state directory.
PREFIX = 'regions-'
KEYSPACE = 'keystone'
_REPLICAS = 3

_YAML = {
    'paxos_variant': 'v2',
    # There is no data that a node which joins would have to fetch.
    'auto_bootstrap': False,
}
#: A crash of a process loses nothing by it, and that of a machine is none
#: that the bed knows.
_JAVA_OPTIONS = (
    '-Dcassandra.skip_sync=true',
    # Or each change of a schema writes a dozen files.
    '-Dcassandra.test.flush_local_schema_changes=false',
)

Progress = Callable[[str], None]


class Bed:
    """Some regions and the network between them; made by ``start``.

    :ivar directory: holds everything; it goes with the bed.
    :ivar wan: the network between the regions.
    :ivar cluster: of all nodes; None without Cassandra.
    :ivar password: of the user ``admin``, in the project ``admin``.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.regions: list[Region] = []
        self.cluster: Cluster | None = None
        self.password = secrets.token_urlsafe(16)
        self.wan: Wan
        self._stack = contextlib.ExitStack()
        self._owner = os.getpid()

    @classmethod
    def start(
        cls,
        regions: int = 3,
        nodes: int | Sequence[int] = 1,
        rtt_ms: float = 100,
        loss: float = 0,
        *,
        keystone: bool = True,
        memcached: bool = True,
        settings: Settings | None = None,
        cassandra: Mapping[str, Any] | None = None,
        seed: int | None = None,
        directory: Path | None = None,
        progress: Progress = lambda line: None,
    ) -> Bed:
        """Start a bed and wait until all of it answers.

        :param nodes: of Cassandra in each region, one number for all or one
            for each; 0 means the network alone.
        :param rtt_ms: milliseconds of a round trip between two regions.
        :param loss: share of the packets between regions that is lost.
        :param keystone: whether there is a schema, and a Keystone in each
            region.
        :param memcached: whether it is used where it is installed; without,
            each Keystone has one worker, with a cache in memory.
        :param settings: of each Keystone, over those of the bed.
        :param cassandra: further settings of ``Cluster.start``.
        :param seed: of the packets that are lost.
        :param directory: an empty folder; default: a new one.
        :param progress: called with a line of text for each step.
        :raises lab.regions.namespaces.NotAllowed: no network can be made.
        :raises LabError: something did not start.
        """
        if directory is None:
            root = ports.state_directory()
            directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
        bed = cls(directory)
        each = [nodes] * regions if isinstance(nodes, int) else [*nodes]
        try:
            bed._start_network(each, seed)
            progress(f'The network of {len(each)} regions is up.')
            if nodes:
                bed._start_cassandra(each, cassandra or {}, progress)
            if nodes and keystone:
                bed._start_keystones(settings or {}, memcached, progress)
            # Last: what is done once need not wait for far regions.
            bed.wan.slow(rtt_ms)
            bed.wan.lose(loss)
        except BaseException:
            bed.stop()
            raise
        return bed

    def _start_network(self, nodes: Sequence[int], seed: int | None) -> None:
        self._stack.callback(shutil.rmtree, self.directory, True)
        group = Group(str(self.directory), remove=True)
        self._stack.callback(group.kill)
        for number, here in enumerate(nodes, 1):
            folder = self.directory / f'region{number}'
            region = Region(number, here, folder, group)
            self._stack.callback(region.close)
            self.regions.append(region)
        self.wan = Wan(
            [region.namespace.device for region in self.regions],
            group,
            str(self.directory / 'router.log'),
            seed=seed,
        )
        self._stack.callback(self.wan.close)

    def _start_cassandra(
        self,
        nodes: Sequence[int],
        settings: Mapping[str, Any],
        progress: Progress,
    ) -> None:
        # A node finds the others of its region while this is cut off.
        first = [f'{each.address}:{STORAGE_PORT}' for each in self.regions]
        seeds = {
            'class_name': SEED_PROVIDER,
            'parameters': [{'seeds': ','.join(first)}],
        }
        yaml = {
            **_YAML,
            'seed_provider': [seeds],
            **settings.get('yaml', {}),
        }
        self.cluster = Cluster.start(
            nodes,
            len(self.regions),
            str(self.directory / 'cassandra'),
            **{'java_options': _JAVA_OPTIONS, **settings, 'yaml': yaml},
            own=True,
            places=[
                Place(address, region.entered)
                for region in self.regions
                for address in region.addresses
            ],
            progress=progress,
        )
        self._stack.callback(self.cluster.destroy)
        for region in self.regions:
            region.nodes = [
                node
                for node in self.cluster.nodes
                if node.datacenter == region.datacenter
            ]
            for number, node in enumerate(region.nodes, 1):
                region.parts[str(number)] = node

    def _start_keystones(
        self, settings: Settings, memcached: bool, progress: Progress
    ) -> None:
        assert self.cluster
        common: dict[str, dict[str, Any]] = {
            'cassandra': {'port': self.cluster.port, 'keyspace': KEYSPACE},
            # The strength of hashes is not what is tried here.
            'identity': {'password_hash_rounds': 4},
        }
        if memcached and not find_memcached():
            progress(
                'memcached or its client pymemcache is not installed: each'
                ' Keystone has one worker, with a cache in memory.'
            )
        first = self.regions[0]
        for region in self.regions:
            region.make_keystone(settings, common, memcached)
            # What one server has encrypted another one decrypts.
            for section in 'credential', 'fernet_tokens', 'fernet_receipts':
                keys = {'key_repository': first.keystone.keys}
                common[section] = keys
        self._make_schema(first.keystone)
        progress('The tables are made.')

        turn = threading.Lock()

        def start(region: Region) -> None:
            if CACHE in region.parts:
                region.start(CACHE)  # bootstrap uses it, too
            keystone = region.keystone
            with turn:  # all make the same users and roles
                keystone.bootstrap(self.password, region.datacenter)
            region.environment = {
                **credentials(keystone.url, self.password),
                **no_proxy({'no_proxy': region.address}),
                'OS_REGION_NAME': region.datacenter,
            }
            region.start()
            progress(f'Region {region.number} is up: {keystone.url}.')

        start(first)
        # The others find there what the first has made.
        threads = concurrent.futures.ThreadPoolExecutor(2)
        try:
            list(threads.map(start, self.regions[1:]))
        except BaseException:
            # Ctrl-C need not wait for what nobody wants any more.
            processes.kill_marked(str(self.directory))
            raise
        finally:
            threads.shutdown(cancel_futures=True)

    def _make_schema(self, keystone: Keystone) -> None:
        self.regions[0].run(
            *(sys.executable, '-P', '-m', 'lab.schema'),
            *('--config-file', str(keystone.configuration)),
            *(
                f'{region.datacenter}={min(_REPLICAS, len(region.nodes))}'
                for region in self.regions
            ),
            env=os.environ | {'PYTHONPATH': f'{TOOLS}:{CHECKOUT}'},
        )
        assert self.cluster
        for node in self.cluster.nodes:
            # A node that is killed has the tables when it is started again.
            node.nodetool('flush', 'system_schema')

    # -- faults

    def cut(self, region: int) -> None:
        """Cut a region off from all others, until it is healed."""
        self.wan.cut(self.region(region).number)

    def heal(self, region: int | None = None) -> None:
        """End the cut of a region, or all cuts."""
        self.wan.heal(region and self.region(region).number)

    def slow(self, rtt_ms: float, region: int | None = None) -> None:
        """Set the round trip between all regions.

        :param rtt_ms: milliseconds.
        :param region: only between this one and each other.
        """
        self.wan.slow(rtt_ms, region and self.region(region).number)

    def restart(self, region: int, part: str | None = None) -> None:
        """Start what does not run in a region.

        It answers then, and the nodes that it can reach see its nodes.

        :raises LabError: if something did not start.
        """
        here = self.region(region)
        cut = set(self.wan.state()['cut'])
        peers = [
            node
            for other in self.regions
            if other is not here and cut.isdisjoint((region, other.number))
            for node in other.nodes
            if condition(node) == 'up'
        ]
        here.start(part, peers)

    def lossy(self, percent: float) -> None:
        """Lose this share of the packets between regions."""
        self.wan.lose(percent / 100)

    def ends_with(self, stop: Callable[[], object]) -> None:
        """Let something that was started end before the bed does."""
        self._stack.callback(stop)

    def region(self, number: int) -> Region:
        """Return the region of a number from 1.

        :raises LabError: there is none.
        """
        if not 1 <= number <= len(self.regions):
            raise LabError(
                f'there is no region {number}; there are 1 to'
                f' {len(self.regions)}'
            )
        return self.regions[number - 1]

    def state(self) -> dict[str, Any]:
        """Return how all is: that of the WAN, and of each region."""
        return {
            'wan': self.wan.state(),
            'regions': [
                {
                    'number': region.number,
                    'datacenter': region.datacenter,
                    'addresses': region.addresses,
                    'keystone': region.environment.get('OS_AUTH_URL'),
                    'clock': region.clock,
                    'parts': region.state(),
                }
                for region in self.regions
            ],
        }

    def stop(self) -> None:
        """Stop and remove all; in a forked copy of the owner, nothing."""
        if os.getpid() == self._owner:
            self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
