# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks stand on: nodes, keyspaces, turns, the context."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

from lab import LabError, ports
from lab.benchmark.clients import Pool, all_stopped
from lab.benchmark.measure import Measurements, Series
from lab.benchmark.systems import (
    Order,
    Place,
    cassandra_version,
    prepare,
    run,
)
from lab.cassandra import Cluster
from lab.mariadb import MariaDB

#: Systems whose server is compiled while it runs: they get this many more
#: operations ahead, which are not measured.
_COMPILED = ('cassandra', 'bare')
_WARM_COUNT = 500

#: Of a node: enough that the collector does not dominate.
HEAP_MB = 1024


@dataclasses.dataclass(frozen=True)
class Turn:
    """What a pool's clients do for a series, each time it is its turn."""

    series: Series
    pool: Pool
    order: Order


def take_turns(
    measured: Measurements, turns: Sequence[Turn], rounds: int
) -> None:
    """Measure all series, one after the other, and that several times.

    Whatever else the machine does hits all of them alike so.
    """
    for turn in turns:
        clients = turn.series.clients
        turn.pool.share(prepare, [(turn.order,)] * clients)
        if turn.series.system in _COMPILED:
            order = dataclasses.replace(turn.order, count=_WARM_COUNT)
            turn.pool.measure(run, clients, order)
    for _ in range(rounds):
        for turn in turns:
            measured.add(
                turn.series,
                turn.pool.measure(run, turn.series.clients, turn.order),
            )


@contextlib.contextmanager
def folder() -> Iterator[str]:
    """A private folder for configuration files; it goes at the end."""
    path = tempfile.mkdtemp(prefix='benchmark-', dir=ports.state_directory())
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def node(commitlog_sync: str = 'periodic') -> Iterator[Cluster]:
    """One node of our own, whatever cluster the environment names.

    Its commit log and its disk files are part of what is measured.
    """
    say(f'starting Cassandra, commit log {commitlog_sync}')
    with Cluster.start(
        commitlog_sync=commitlog_sync, heap_mb=HEAP_MB, own=True
    ) as cluster:
        yield cluster


@contextlib.contextmanager
def both(name: str) -> Iterator[tuple[MariaDB, Cluster, Place]]:
    """Start both servers, with a database and a keyspace of this name.

    What clients there are at the end are stopped before the servers.
    """
    with contextlib.ExitStack() as servers:
        directory = servers.enter_context(folder())
        say('starting MariaDB')
        server = servers.enter_context(MariaDB.start())
        cluster = servers.enter_context(node())
        servers.enter_context(all_stopped())
        place = Place(
            directory,
            name,
            tuple(cluster.contact_points),
            cluster.port,
            server.create(name),
        )
        make_keyspace(place)
        yield server, cluster, place


def make_keyspace(place: Place) -> None:
    """Write the place's configuration and make its keyspace.

    :raises LabError: if the schema tool fails.
    """
    place.write()
    for words in (
        ('keyspace', 'create', '--replication', 'dc1=1'),
        ('schema', 'apply'),
    ):
        tool = os.path.join(
            os.path.dirname(sys.executable), 'keystone-cassandra'
        )
        done = subprocess.run(
            [tool, '--config-file', place.file, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise LabError(
                f'keystone-cassandra {" ".join(words)} failed:\n{done.stdout}'
            )


def flush(cluster: Cluster) -> None:
    """Move what the node has in memory to its disk."""
    cluster.nodes[0].nodetool('flush')


def settle(cluster: Cluster, timeout: float = 120) -> None:
    """Wait until the node has no compaction left to do."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        told = cluster.nodes[0].nodetool('compactionstats')
        if re.search(r'pending tasks:?\s+0\b', told):
            return
        time.sleep(1)


def largest_partition(cluster: Cluster, table: str) -> int:
    """Return the bytes of a table's largest partition, once it is flushed.

    :param table: ``keyspace.table``.
    :raises LabError: if the node does not tell.
    """
    told = cluster.nodes[0].nodetool('tablestats', table)
    found = re.search(r'Compacted partition maximum bytes: (\d+)', told)
    if found is None:
        raise LabError(f'nodetool does not tell the size of {table}')
    return int(found[1])


def context(pool: Pool) -> dict[str, str]:
    """Return what the figures depend on, by name."""
    version = pool.call(cassandra_version)
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    return {
        'Machine': f'{_processor()}, {os.cpu_count()} CPUs,'
        f' {memory / 2**30:.0f} GiB; servers and clients share it',
        'Cassandra': f'{version}, one node, heap {HEAP_MB} MB,'
        ' LOCAL_QUORUM; commitlog_sync periodic (10 s) unless it says batch',
        'Client': f'Python {platform.python_version()}, keystone'
        f' {importlib.metadata.version("keystone")}, cassandra-driver'
        f' {importlib.metadata.version("cassandra-driver")}',
    }


def say(text: str) -> None:
    """Tell on stderr what is going on."""
    print(f'[{time.strftime("%H:%M:%S")}] {text}', file=sys.stderr, flush=True)


def _processor() -> str:
    with contextlib.suppress(OSError), open('/proc/cpuinfo') as file:
        for line in file:
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    return platform.machine()
