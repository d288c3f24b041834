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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from lab import LabError, cassandra_config, ports
from lab.cassandra_config import CQL_PORT, JMX_PORT, STORAGE_PORT
from lab.cassandra_install import find_jars, find_java
from lab.cassandra_node import Node
from lab.links import Links
from lab.processes import Group, kill_marked

CONTACT_POINTS = 'KEYSTONE_CASSANDRA_CONTACT_POINTS'
STATE = 'cluster.json'
#: Each table takes its share: the tests have some hundred at once.
HEAP_MB = 900
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


@dataclass
class Shape:
    """What a cluster is like; kept in its folder."""

    datacenters: list[str]  # of each node
    prefix: str = ''  # of the addresses
    shift: int = 0  # added to the ports but the CQL port
    port: int = CQL_PORT
    commitlog_sync: str = 'periodic'
    heap_mb: int = HEAP_MB
    yaml: dict[str, Any] = field(default_factory=dict)
    java_options: list[str] = field(default_factory=list)
    log_level: str = 'INFO'


class Cluster:
    """One or more nodes; made by ``start``, ``reopen`` or ``external``.

    :ivar links: between the nodes, if it was started with some.
    """

    links: Links | None = None

    def __init__(self, directory: str, shape: Shape) -> None:
        self.directory = directory
        self.shape = shape
        self.port = shape.port
        self.nodes: list[Node] = []
        self._owner = os.getpid()
        self._group: Group | None = None
        self._temporary = False

    @classmethod
    def start(
        cls,
        nodes: int = 1,
        datacenters: int = 1,
        directory: str | None = None,
        *,
        commitlog_sync: str = 'periodic',
        heap_mb: int = HEAP_MB,
        quick: bool | None = None,
        yaml: Mapping[str, Any] | None = None,
        java_options: Sequence[str] = (),
        log_level: str = 'INFO',
        port: int | None = None,
        name: str | None = None,
        own: bool = False,
        links: bool = False,
        timeout: float = 300,
        progress: Callable[[str], None] | None = None,
    ) -> 'Cluster':
        """Start a cluster and wait until it answers.

        :param nodes: of the whole cluster; the first datacenters get one
            more where it does not come out even.
        :param directory: where to keep the data; it must not exist or be
            empty, and stays after ``stop``.  Default: a temporary folder,
            which goes with the cluster.
        :param quick: use Java's first compiler only, and begin with a
            small heap.  It halves the CPU time of the start and of some
            ten thousand requests, and the node never gets as fast as it
            could: right for tests, wrong for measurements.  Default: if the
            heap has its default size.
        :param yaml: further settings of cassandra.yaml, by name.
        :param java_options: further options of the Java machine, such as
            system properties of Cassandra.
        :param port: for CQL; default 9042, or another one if that is taken
            on every address.
        :param name: clusters with the same name tend to the same addresses.
        :param own: start one even if the environment names an existing
            cluster: for what stops nodes or needs special settings.
        :param timeout: seconds for the start of each node.
        :param progress: called with a line of text as nodes come up.
        :raises LabError: something is missing, or a node did not start.
        """
        if (given := os.environ.get(CONTACT_POINTS)) and not own:
            return cls.external(given)
        if quick is None:
            quick = heap_mb == HEAP_MB
        first_heap = f'-Xms{min(FIRST_HEAP_MB, heap_mb)}M'
        shape = Shape(
            spread(nodes, datacenters),
            commitlog_sync=commitlog_sync,
            heap_mb=heap_mb,
            yaml=dict(yaml or {}),
            java_options=[
                *((*QUICK, first_heap) if quick else ()),
                *java_options,
            ],
            log_level=log_level,
        )
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
        try:
            cluster._group = Group(directory, remove=temporary)
            cluster._choose_addresses(name, port)
            cluster._make_nodes(LINKED if links else 0)
            if links:
                cluster.links = Links(
                    {node.known_as: node.address for node in cluster.nodes},
                    STORAGE_PORT + cluster.shape.shift,
                )
            cluster._start_all(timeout, progress)
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
        hosts, port = parse_contact_points(contact_points)
        return External(hosts, port)

    @property
    def contact_points(self) -> list[str]:
        """The addresses of all nodes, the first datacenter's first."""
        return [node.address for node in self.nodes]

    @property
    def datacenters(self) -> dict[str, list[str]]:
        """The addresses of the nodes by datacenter."""
        found: dict[str, list[str]] = {}
        for node in self.nodes:
            found.setdefault(node.datacenter, []).append(node.address)
        return found

    @property
    def contact_points_text(self) -> str:
        """As KEYSTONE_CASSANDRA_CONTACT_POINTS takes it."""
        if self.port == CQL_PORT:
            return ','.join(self.contact_points)
        return ','.join(f'{host}:{self.port}' for host in self.contact_points)

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

    def start_stopped(self, timeout: float = 300) -> list[Node]:
        """Start the nodes that do not run; returns them."""
        stopped = [node for node in self.nodes if not node.running]
        if not stopped:
            return []
        group = None
        if self._group is None:
            # Only until all are up: this cluster outlives its starter.
            group = Group(self.directory, remove=False)
            for node in stopped:
                node.group = group
        try:
            for node in stopped:
                node.start(timeout)
        except BaseException:
            for node in stopped:
                node.kill()
            raise
        finally:
            if group:
                group.release()
        return stopped

    def detach(self) -> None:
        """Let the cluster stay when this process ends."""
        self._temporary = False
        if self._group:
            self._group.release()
        self._group = None

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
        if self._group:
            self._group.kill()
            self._group = None
        if self.links:
            self.links.close()

    def destroy(self) -> None:
        """Kill all nodes and remove their data, temporary or not."""
        if self._group:
            self._group.kill_members()
        else:
            kill_marked(self.directory)
        for node in self.nodes:
            node.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
        if self.shape.prefix:
            ports.release(self.shape.prefix, self.directory)
        if self._group:
            # Last: killed before this, we leave the rest to the watcher.
            self._group.release()
            self._group = None
        if self.links:
            self.links.close()

    def __enter__(self) -> 'Cluster':
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _choose_addresses(self, name: str | None, port: int | None) -> None:
        used = (STORAGE_PORT, STORAGE_PORT + 1, JMX_PORT)
        self.shape.prefix, self.shape.shift = ports.take(
            self.directory,
            name,
            len(self.shape.datacenters),
            used if port else (CQL_PORT, *used),
            fixed=(port,) if port else (),
        )
        shift = self.shape.shift
        self.port = self.shape.port = port or CQL_PORT + shift

    def _save(self) -> None:
        with open(os.path.join(self.directory, STATE), 'w') as file:
            json.dump(asdict(self.shape), file, indent=1)
        # The settings may hold passwords of key stores.
        os.chmod(file.name, 0o600)

    def _make_nodes(self, linked: int = 0) -> None:
        """Make the nodes.

        :param linked: added to the last part of an address, it is the one by
            which the others know the node.
        """
        shape = self.shape
        for number, datacenter in enumerate(shape.datacenters, 1):
            node = Node(
                number,
                address=f'{shape.prefix}.{number}',
                known_as=f'{shape.prefix}.{number + linked}',
                port=shape.port,
                shift=shape.shift,
                datacenter=datacenter,
                directory=os.path.join(self.directory, f'node{number}'),
                heap_mb=shape.heap_mb,
                java_options=shape.java_options,
                encrypted=_encrypted(shape.yaml),
                passwords='Password' in str(shape.yaml.get('authenticator')),
            )
            node.group = self._group
            node.peers = self.nodes
            self.nodes.append(node)

    def _start_all(
        self, timeout: float, progress: Callable[[str], None] | None
    ) -> None:
        for node in self.nodes:
            self._configure(node)
            # One after the other: two that join at once refuse each other.
            begin = time.monotonic()
            node.start(timeout)
            if progress:
                progress(
                    f'Node {node.number} of {len(self.nodes)} is up:'
                    f' {node.address}, {node.datacenter},'
                    f' after {time.monotonic() - begin:.0f} s.'
                )

    def _configure(self, node: Node) -> None:
        cassandra_config.write_conf(
            os.path.join(node.directory, 'conf'),
            yaml=cassandra_config.cassandra_yaml(
                cluster_name='lab',
                address=node.address,
                known_as=node.known_as,
                seed=self.nodes[0].known_as,
                shift=self.shape.shift,
                cql_port=self.port,
                commitlog_sync=self.shape.commitlog_sync,
                overrides=self.shape.yaml,
            ),
            datacenter=node.datacenter,
            log_level=self.shape.log_level,
        )

    def move(self, node: Node, number: int) -> None:
        """Give a node that does not run another address.

        :param number: its last part: one that no other node has.
        """
        node.address = node.known_as = f'{self.shape.prefix}.{number}'
        self._configure(node)


class External(Cluster):
    """A cluster that somebody else runs."""

    def __init__(self, hosts: Sequence[str], port: int) -> None:
        super().__init__('', Shape([], port=port))
        self.nodes = [
            ExternalNode(i, host, port) for i, host in enumerate(hosts, 1)
        ]

    def start_stopped(self, timeout: float = 300) -> list[Node]:
        return []

    def detach(self) -> None:
        """Nothing to do."""

    def stop(self) -> None:
        """Leave the cluster alone."""

    def destroy(self) -> None:
        """Leave the cluster alone."""


class ExternalNode(Node):
    """A node of such a cluster: it can be talked to, no more."""

    def __init__(self, number: int, address: str, port: int) -> None:
        super().__init__(
            number, address=address, port=port, shift=0, datacenter='',
            directory='',
        )  # fmt: skip

    @property
    def running(self) -> bool:
        return self.answers()

    def _refuse(self, *_: object, **__: object) -> Any:
        raise LabError(
            f'{self.address} belongs to the cluster named in'
            f' {CONTACT_POINTS}, which is not started, stopped or managed'
            f' from here. Unset the variable to use a cluster of the lab.'
        )

    start = stop = kill = pause = resume = nodetool = _refuse


def spread(nodes: int, datacenters: int) -> list[str]:
    """The datacenter of each node: dc1, ..., dc2, ...

    :raises LabError: there are fewer nodes than datacenters.
    """
    if not 1 <= datacenters <= nodes <= 50:
        raise LabError(
            f'{nodes} nodes in {datacenters} datacenters cannot be: each'
            ' datacenter needs a node, and there can be 1 to 50 nodes'
        )
    each, more = divmod(nodes, datacenters)
    return [
        f'dc{number}'
        for number in range(1, datacenters + 1)
        for _ in range(each + (number <= more))
    ]


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


def _encrypted(yaml: Mapping[str, Any]) -> bool:
    options = yaml.get('client_encryption_options') or {}
    return bool(options.get('enabled')) and not options.get('optional')
