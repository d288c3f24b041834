# SPDX-License-Identifier: Apache-2.0
"""A run of a benchmark: servers, keyspaces, turns, what is found."""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.metadata
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil

from lab import ports
from lab.benchmark import fill, systems
from lab.benchmark.clients import Pool, stop_all
from lab.benchmark.measure import Series
from lab.benchmark.report import Found
from lab.benchmark.systems import DAY, Place, PlacePool
from lab.benchmark.table import BENCHMARKS
from lab.cassandra import Cluster
from lab.mariadb import MariaDB
from lab.server import CASSANDRA_DRIVERS, Keystone, merge, points_at
from lab.waiting import until

T = TypeVar('T')

#: Systems whose server is compiled while it runs: they get this many more
#: operations ahead, which are not measured.
_COMPILED = ('cassandra', 'bare')
_WARM_COUNT = 3000
#: Of the only series of a node, on which no other one has run before.
WARM_ALONE = 10_000

#: Of a node: enough that the collector does not dominate.
HEAP_MB = 1024
#: As the doctor advises for several regions.
PAXOS = 'v2'


#: A series, and the clients that measure it when it is its turn.
Turn = tuple[Series, Pool]


class Run:
    """One run; its servers live as long as its context.

    :ivar plan: the benchmark's name and options.
    :ivar folder: private, for configuration files.
    :ivar found: what comes out.
    """

    def __init__(self, plan: argparse.Namespace) -> None:
        self.plan = plan
        self.found = Found()
        self._servers = contextlib.ExitStack()

    def __enter__(self) -> Run:
        folder = tempfile.TemporaryDirectory(
            prefix='benchmark-', dir=ports.state_directory()
        )
        self.folder = Path(self.enter(folder))
        return self

    def __exit__(self, *_: object) -> None:
        stop_all()  # first, so that no client sees a server go
        self._servers.close()

    def enter(self, server: contextlib.AbstractContextManager[T]) -> T:
        """Start something that lives as long as the run."""
        return self._servers.enter_context(server)

    # -- servers

    @functools.cached_property
    def node(self) -> Cluster:
        """A node of our own, whatever cluster the environment names.

        Its commit log and its disk files are part of what is measured.
        """
        return self._node('periodic')

    @functools.cached_property
    def batch_node(self) -> Cluster:
        """One that syncs its commit log for each write."""
        return self._node('batch')

    def _node(self, commitlog_sync: str) -> Cluster:
        say(f'starting Cassandra, commit log {commitlog_sync}')
        cluster = Cluster.start(
            commitlog_sync=commitlog_sync,
            heap_mb=HEAP_MB,
            own=True,
            yaml={'paxos_variant': PAXOS},
        )
        return self.enter(cluster)

    @functools.cached_property
    def sql(self) -> MariaDB:
        say('starting MariaDB')
        return self.enter(MariaDB())

    def pool(
        self,
        name: str,
        node: Cluster,
        sql: bool = False,
        window: int = 2 * DAY,
        **more: Any,
    ) -> PlacePool:
        """Return clients of a new keyspace, and a database if wanted.

        :param window: ``[token] allow_expired_window``, seconds.
        :param more: of their :class:`Place`.
        """
        database = self.sql.create(name) if sql else ''
        # Of a Keystone that is never started.
        server = Keystone(
            self.folder / name,
            merge(
                CASSANDRA_DRIVERS,
                points_at(node, name),
                {'DEFAULT': {'use_stderr': False}},
                {'token': {'expiration': DAY, 'allow_expired_window': window}},
                {'database': {'connection': database}} if sql else {},
            ),
        )
        server.stop()
        for words in (
            ('keyspace', 'create', '--replication', 'dc1=1'),
            ('schema', 'apply'),
        ):
            server.run('keystone-cassandra', *words)
        return PlacePool(
            Place(
                self.plan,
                name,
                str(server.configuration),
                tuple(node.contact_points),
                node.port,
                database,
                **more,
            )
        )

    def fill_both(
        self,
        pool: PlacePool,
        what: str,
        tables: Callable[..., Iterable[fill.SqlRows]],
        cassandra: Callable[..., None],
        *sizes: int,
    ) -> None:
        """Fill both systems with what has these sizes.

        :param what: that is, in words.
        :param tables: returns the rows for SQL.
        :param cassandra: fills Cassandra; what a client does.
        """
        say(f'filling MariaDB: {what}')
        fill.load(self.sql, pool.place.name, tables(*sizes))
        say(f'filling Cassandra: {what}')
        pool.call(cassandra, *sizes)

    # -- measuring

    def turns(
        self,
        pool: Pool,
        size: int,
        names: Iterable[str] = (),
        *,
        age: int = 0,
        clients: int = 1,
        only: Sequence[str] = (),
    ) -> Iterator[Turn]:
        """Yield the turns of operations, of all by default.

        :param only: the systems, if not all that have the operation.
        """
        every = systems.calls(self.plan.benchmark)
        for name in names or every:
            for system in every[name].systems:
                if not only or system in only:
                    yield Series(system, name, size, age, clients), pool

    def measure(self, what: str, turns: Iterable[Turn]) -> None:
        """Measure all series, one after the other, and that several times.

        Whatever else the machine does hits all of them alike so.
        """
        say(f'measuring {what}')
        benchmark = BENCHMARKS[self.plan.benchmark]
        turns = list(turns)
        for series, pool in turns:  # opens them, too
            ahead = _WARM_COUNT if series.system in _COMPILED else 1
            systems.measure(pool, series, ahead, benchmark.seconds)
        rounds = self.plan.rounds
        if any(series.clients > 1 for series, _ in turns):
            rounds = min(rounds, benchmark.rounds_of_many)
        for _ in range(rounds):
            for series, pool in turns:
                samples = systems.measure(
                    pool, series, benchmark.count, benchmark.seconds
                )
                self.found.measured.add(series, samples)

    def with_each_number_of_clients(self, pool: Pool, size: int) -> None:
        """Measure all operations with one client, then with more."""
        for clients in self.plan.clients:
            turns = self.turns(pool, size, clients=clients)
            self.measure(f'with {clients} clients', turns)

    def settle(self, node: Cluster) -> None:
        """Move what a node has in memory to its disk, and let it rest."""
        nodetool = node.nodes[0].nodetool
        nodetool('flush')
        until(
            lambda: re.search(
                r'pending tasks:?\s+0\b', nodetool('compactionstats')
            ),
            'the end of compactions',
            timeout=3600,
        )

    def tell(self, **more: str) -> None:
        """Add to what the figures depend on, by name."""
        cassandra = self.node.nodes[0].nodetool('version').split()[-1]
        told = {
            'Machine': machine(),
            'Cassandra': f'{cassandra}, one node, heap'
            f' {HEAP_MB} MB, LOCAL_QUORUM; commitlog_sync periodic (10 s)'
            f' unless it says batch; paxos_variant {PAXOS}',
            'Client': f'Python {platform.python_version()}, keystone'
            f' {importlib.metadata.version("keystone")}, cassandra-driver'
            f' {importlib.metadata.version("cassandra-driver")}',
        }
        if 'sql' in self.__dict__:
            found = self.sql.settings()
            size = found.pop('innodb_buffer_pool_size') >> 20
            version = found.pop('version')
            settings = ', '.join(f'{k} {v}' for k, v in found.items())
            told['MariaDB'] = (
                f'{version}, its own settings: {settings}, buffer pool'
                f' {size} MiB'
            )
        self.found.context.update(told | more)


def say(text: str) -> None:
    """Tell on stderr what is going on."""
    print(f'[{time.strftime("%H:%M:%S")}] {text}', file=sys.stderr, flush=True)


def machine() -> str:
    """Return what all of it runs on."""
    return (
        f'{_processor()}, {psutil.cpu_count()} CPUs,'
        f' {psutil.virtual_memory().total / 2**30:.0f} GiB; servers and'
        ' clients share it'
    )


def _processor() -> str:
    with contextlib.suppress(OSError):
        told = Path('/proc/cpuinfo').read_text()
        if found := re.search(r'model name\s*: (.*)', told):
            return found[1]
    return platform.machine()
