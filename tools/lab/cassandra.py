# SPDX-License-Identifier: Apache-2.0
"""Real Cassandra clusters on loopback addresses.

    with Cluster.start() as cluster:
        ... cluster.contact_points, cluster.port ...

A cluster dies with the process that started it, whatever ends that one,
unless ``detach`` was called.  Where KEYSTONE_CASSANDRA_CONTACT_POINTS is
set, ``start`` returns that cluster, which is never stopped.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Self

from lab import LabError, ports
from lab.cassandra_install import find_jars, find_java
from lab.cassandra_node import (
    CQL_PORT,
    HEAP_MB,
    JMX_PORT,
    STORAGE_PORT,
    Node,
    Place,
    Shape,
)
from lab.links import Links
from lab.processes import Group, kill_marked

CONTACT_POINTS = 'KEYSTONE_CASSANDRA_CONTACT_POINTS'
STATE = 'cluster.json'
#: Megabytes of a heap at first that is not wanted at once: all of it is
#: filled and locked in memory where that is allowed.
FIRST_HEAP_MB = 200
#: Between the address of a node and that of the forwarder before it.
LINKED = 100
#: What halves the CPU time of a start.
QUICK = (
    '-XX:TieredStopAtLevel=1',
    # A node fills a memtable to find this out, which takes a second.
    '-Dcassandra.memtable.row_overhead_size=180',
)


class Cluster:
    """One or more nodes; made by ``start``, ``reopen`` or ``external``.

    :ivar links: between the nodes, if it was started with some.
    """

    links: Links | None = None

    def __init__(self, directory: str, shape: Shape) -> None:
        self.directory = directory
        self.shape = shape
        self.nodes: list[Node] = []
        self._places: Sequence[Place] = ()
        self._owner = os.getpid()
        self._group: Group | None = None
        self._temporary = False

    @classmethod
    def start(
        cls,
        nodes: int | Sequence[int] = 1,
        datacenters: int = 1,
        directory: str | None = None,
        *,
        quick: bool | None = None,
        port: int | None = None,
        name: str | None = None,
        own: bool = False,
        links: bool = False,
        places: Sequence[Place] = (),
        progress: Callable[[str], None] = lambda line: None,
        **settings: Any,
    ) -> 'Cluster':
        """Start a cluster and wait until it answers.

        :param nodes: of the whole cluster; the first datacenters get one
            more where it does not come out even.  Or those of each.
        :param directory: where to keep the data; it must not exist or be
            empty, and stays after ``stop``.  Default: a temporary folder,
            which goes with the cluster.
        :param quick: use Java's first compiler only, and begin with a
            small heap.  It halves the CPU time of the start and of some
            ten thousand requests, and the node never gets as fast as it
            could: right for tests, wrong for measurements.  Default: if the
            heap has its default size.
        :param port: for CQL; default 9042, or another one if that is taken
            on every address.
        :param name: clusters with the same name tend to the same addresses.
        :param own: start one even if the environment names an existing
            cluster: for what stops nodes or needs special settings.
        :param links: hold back what the nodes send each other when told so.
        :param places: where each node is, instead of on loopback; not with
            ``links``.
        :param progress: called with a line of text as nodes come up.
        :param settings: ``commitlog_sync``, ``heap_mb``, ``yaml``,
            ``java_options``, ``agent`` and ``log_level`` of :class:`Shape`.
        :raises LabError: something is missing, or a node did not start.
        """
        if (given := os.environ.get(CONTACT_POINTS)) and not own:
            return cls.external(given)
        shape = Shape(spread(nodes, datacenters), **settings)
        if quick or (quick is None and shape.heap_mb == HEAP_MB):
            first_heap_mb = min(FIRST_HEAP_MB, shape.heap_mb)
            first = (*QUICK, f'-Xms{first_heap_mb}M')
            shape.java_options = (*first, *shape.java_options)
        find_java()
        find_jars()
        temporary = directory is None
        if directory is None:
            root = os.path.join(ports.state_directory(), 'temporary')
            os.makedirs(root, exist_ok=True)
            directory = tempfile.mkdtemp(prefix='cluster-', dir=root)
        directory = os.path.realpath(directory)
        os.makedirs(directory, mode=0o700, exist_ok=True)
        if os.listdir(directory):
            raise LabError(f'{directory} is not empty')
        cluster = cls(directory, shape)
        cluster._temporary = temporary
        cluster._places = places
        try:
            cluster._group = Group(directory, remove=temporary)
            cluster._choose_addresses(name, port)
            shape.linked = LINKED if links else 0
            cluster._make_nodes()
            if links:
                cluster.links = Links(
                    {node.known_as: node.address for node in cluster.nodes},
                    STORAGE_PORT + shape.shift,
                )
            cluster._start_nodes(progress)
            # Not before all are up: half a cluster cannot be reopened.
            cluster._save()
        except BaseException:
            # Also Ctrl-C: half a cluster is of no use to anybody.
            cluster.destroy()
            raise
        return cluster

    @classmethod
    def reopen(cls, directory: str) -> 'Cluster':
        """The cluster whose data is in this folder, running or not.

        It stays as it is when this process ends.

        :raises FileNotFoundError: there is none.
        """
        directory = os.path.realpath(directory)
        with open(os.path.join(directory, STATE)) as file:
            cluster = cls(directory, Shape(**json.load(file)))
        cluster._make_nodes()
        return cluster

    @staticmethod
    def external(contact_points: str) -> 'Cluster':
        """The cluster with these nodes (``host[:port],...``), not ours.

        :raises LabError: the text names no host, or several ports.
        """
        return External(*parse_contact_points(contact_points))

    @property
    def port(self) -> int:
        """Of CQL, on all nodes."""
        return self.shape.port

    @property
    def contact_points(self) -> list[str]:
        """The addresses of all nodes, the first datacenter's first."""
        return [node.address for node in self.nodes]

    @property
    def contact_points_text(self) -> str:
        """As KEYSTONE_CASSANDRA_CONTACT_POINTS takes it."""
        port = '' if self.port == CQL_PORT else f':{self.port}'
        return ','.join(f'{host}{port}' for host in self.contact_points)

    @contextmanager
    def connect(self, **options: Any) -> Iterator[Any]:
        """A session of the Python driver; options are its Cluster's."""
        # Not at the top: tools/cassandra starts nodes without the driver.
        from cassandra.cluster import Cluster as Driver

        options.setdefault('connect_timeout', 20)
        driver = Driver(self.contact_points, port=self.port, **options)
        try:
            yield driver.connect()
        finally:
            driver.shutdown()

    def start_stopped(self) -> list[Node]:
        """Start the nodes of a reopened cluster that do not run."""
        stopped = [node for node in self.nodes if not node.running]
        if not stopped:
            return []
        # Only until all are up: this cluster outlives its starter.
        group = Group(self.directory, remove=False)
        try:
            for node in stopped:
                node.group = group
                node.start()
        except BaseException:
            for node in stopped:
                node.kill()
            raise
        finally:
            group.release()
        return stopped

    def move(self, node: Node, number: int) -> None:
        """Give a node that does not run another address.

        :param number: its last part: one that no other node has.
        """
        node.address = node.known_as = f'{self.shape.prefix}.{number}'
        node.configure()

    def detach(self) -> None:
        """Let the cluster stay when this process ends."""
        self._temporary = False
        self._release()

    def _release(self) -> None:
        if self._group:
            self._group.release()
            self._group = None
        if self.links:
            self.links.close()

    def stop(self) -> None:
        """Stop all nodes; temporary data goes, other data stays.

        In a forked copy of the owner this does nothing.
        """
        if os.getpid() != self._owner:
            return
        if self._temporary:
            self.destroy()
            return
        for node in self.nodes:
            node.stop()
        self._release()

    def destroy(self) -> None:
        """Kill all nodes and remove their data, temporary or not."""
        kill_marked(self.directory)
        for node in self.nodes:
            node.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
        if self.shape.prefix:
            ports.release(self.shape.prefix, self.directory)
        # Last: killed before this, we leave the rest to the watcher.
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _choose_addresses(self, name: str | None, port: int | None) -> None:
        shape = self.shape
        if self._places:
            # Nobody else is there.
            shape.port = port or CQL_PORT
            return
        used = (STORAGE_PORT, STORAGE_PORT + 1, JMX_PORT)
        shape.prefix, shape.shift = ports.take(
            self.directory,
            name,
            len(shape.datacenters),
            used if port else (CQL_PORT, *used),
            fixed=(port,) if port else (),
        )
        shape.port = port or CQL_PORT + shape.shift

    def _make_nodes(self) -> None:
        for number in range(1, len(self.shape.datacenters) + 1):
            folder = os.path.join(self.directory, f'node{number}')
            place = self._places[number - 1] if self._places else None
            node = Node(number, self.shape, folder, place)
            node.group = self._group
            node.peers = self.nodes
            self.nodes.append(node)

    def _start_nodes(self, progress: Callable[[str], None]) -> None:
        # One after the other: two that join at once refuse each other.
        for node in self.nodes:
            node.configure()
            begin = time.monotonic()
            node.start()
            progress(
                f'Node {node.number} of {len(self.nodes)} is up:'
                f' {node.address}, {node.datacenter},'
                f' after {time.monotonic() - begin:.0f} s.'
            )

    def _save(self) -> None:
        path = os.path.join(self.directory, STATE)
        with open(path, 'w') as file:
            # The settings may hold passwords of key stores.
            os.chmod(path, 0o600)
            json.dump(asdict(self.shape), file, indent=1)


class External(Cluster):
    """A cluster that somebody else runs."""

    def __init__(self, hosts: Sequence[str], port: int) -> None:
        shape = Shape([''] * len(hosts), port=port)
        super().__init__('', shape)
        for number, host in enumerate(hosts, 1):
            node = ExternalNode(number, shape, '')
            node.address = host
            self.nodes.append(node)

    def stop(self) -> None:
        """Leave the cluster alone."""

    detach = destroy = stop


class ExternalNode(Node):
    """A node of such a cluster: it can be talked to, no more."""

    def _refuse(self, *_: object) -> Any:
        raise LabError(
            f'{self.address} belongs to the cluster named in'
            f' {CONTACT_POINTS}, which is not started, stopped or managed'
            f' from here. Unset the variable to use a cluster of the lab.'
        )

    process = property(_refuse)
    start = stop = kill = pause = resume = nodetool = _refuse


def spread(nodes: int | Sequence[int], datacenters: int) -> list[str]:
    """The datacenter of each node: dc1, ..., dc2, ...

    :param nodes: of all, or of each.
    :raises LabError: there are fewer nodes than datacenters.
    """
    if not isinstance(nodes, int):
        return [
            f'dc{number}'
            for number, here in enumerate(nodes, 1)
            for _ in range(here)
        ]
    if not 1 <= datacenters <= nodes <= 50:
        raise LabError(
            f'{nodes} nodes in {datacenters} datacenters cannot be: each'
            ' datacenter needs a node, and there can be 1 to 50 nodes'
        )
    numbers = sorted(node % datacenters + 1 for node in range(nodes))
    return [f'dc{number}' for number in numbers]


def parse_contact_points(text: str) -> tuple[list[str], int]:
    """``host[:port],...`` as hosts and the one port (default 9042)."""
    hosts = []
    found = set()
    for part in filter(None, map(str.strip, text.split(','))):
        host, colon, number = part.rpartition(':')
        if not colon or (':' in host and not host.startswith('[')):
            host, number = part, ''  # a name, or a bare IPv6 address
        if number and not number.isdigit():
            raise LabError(f'{CONTACT_POINTS}: {number!r} is not a port')
        hosts.append(host.strip('[]'))
        if number:
            found.add(int(number))
    if not hosts or len(found) > 1:
        raise LabError(
            f'{CONTACT_POINTS} must be host[,host...] with at most one port'
            f' number (host:port), not {text!r}'
        )
    return hosts, found.pop() if found else CQL_PORT
