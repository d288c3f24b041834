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
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from lab import ports
from lab.benchmark import verdict
from lab.benchmark.clients import Pool, preload, stop_all
from lab.benchmark.measure import Measurements, Series
from lab.benchmark.report import Found, rows
from lab.benchmark.systems import (
    DAY,
    Place,
    Systems,
    calls,
    prepare,
    run,
)
from lab.benchmark.table import BENCHMARKS
from lab.cassandra import Cluster
from lab.mariadb import MariaDB
from lab.server import CASSANDRA_DRIVERS, Keystone, merge, points_at
from lab.waiting import until

#: Systems whose server is compiled while it runs: they get this many more
#: operations ahead, which are not measured.
_COMPILED = ('cassandra', 'bare')
_WARM_COUNT = 500

#: Of a node: enough that the collector does not dominate.
HEAP_MB = 1024


class Turn(NamedTuple):
    """A series, and the clients that measure it when it is its turn."""

    series: Series
    pool: Pool


class Run:
    """One run; its servers live as long as its context.

    :ivar plan: the benchmark's name and options.
    :ivar folder: private, for configuration files.
    :ivar found: what comes out.
    """

    def __init__(self, plan: argparse.Namespace) -> None:
        self.plan = plan
        self.found = Found(Measurements(), {}, [], [])
        self._servers = contextlib.ExitStack()

    def __enter__(self) -> Run:
        self.folder = self.enter(
            tempfile.TemporaryDirectory(
                prefix='benchmark-', dir=ports.state_directory()
            )
        )
        return self

    def __exit__(self, *_: object) -> None:
        stop_all()  # first, so that no client sees a server go
        self._servers.close()

    def enter(self, server: contextlib.AbstractContextManager[Any]) -> Any:
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
        started: Cluster = self.enter(
            Cluster.start(
                commitlog_sync=commitlog_sync, heap_mb=HEAP_MB, own=True
            )
        )
        return started

    @functools.cached_property
    def sql(self) -> MariaDB:
        say('starting MariaDB')
        server: MariaDB = self.enter(MariaDB())
        return server

    def place(
        self,
        name: str,
        node: Cluster,
        sql: bool = False,
        window: int = 2 * DAY,
        **more: Any,
    ) -> Place:
        """Make a keyspace, and a database if wanted, of this name.

        :param window: ``[token] allow_expired_window``, seconds.
        """
        database = self.sql.create(name) if sql else ''
        # Of a Keystone that is never started.
        server = Keystone(
            Path(self.folder, name),
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
        return Place(
            self.plan,
            name,
            str(server.configuration),
            tuple(node.contact_points),
            node.port,
            database,
            **more,
        )

    def pool(self, place: Place) -> Pool:
        """Return clients of a place."""
        return Pool(functools.partial(Systems, place))

    # -- measuring

    def turns(
        self,
        pool: Pool,
        size: int,
        names: Iterable[str] = (),
        *,
        age: int = 0,
        clients: int = 1,
        systems: Sequence[str] = (),
    ) -> Iterator[Turn]:
        """Yield the turns of operations, of all by default.

        :param systems: only those of these.
        """
        every = calls(self.plan.benchmark)
        for name in names or every:
            for system in every[name].systems:
                if system in (systems or (system,)):
                    yield Turn(Series(system, name, size, age, clients), pool)

    def measure(self, what: str, turns: Iterable[Turn]) -> None:
        """Measure all series, one after the other, and that several times.

        Whatever else the machine does hits all of them alike so.
        """
        say(f'measuring {what}')
        benchmark = BENCHMARKS[self.plan.benchmark]
        bounds = (benchmark.count, benchmark.seconds)
        turns = list(turns)
        rounds = 0
        for series, pool in turns:
            pool.share(prepare, [(series,)] * series.clients)
            if series.system in _COMPILED:
                warm = (_WARM_COUNT, benchmark.seconds)
                pool.measure(run, series.clients, series, *warm)
            rounds = self.plan.rounds
            if series.clients > 1:
                rounds = min(rounds, benchmark.rounds_of_many)
        for _ in range(rounds):
            for series, pool in turns:
                samples = pool.measure(run, series.clients, series, *bounds)
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

    def tell(self, pool: Pool, **more: str) -> None:
        """Add to what the figures depend on, by name."""
        told = {
            'Machine': f'{_processor()}, {psutil.cpu_count()} CPUs,'
            f' {psutil.virtual_memory().total / 2**30:.0f} GiB; servers and'
            ' clients share it',
            'Cassandra': f'{pool.call(_cassandra_version)}, one node, heap'
            f' {HEAP_MB} MB, LOCAL_QUORUM; commitlog_sync periodic (10 s)'
            ' unless it says batch',
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


def measure(plan: argparse.Namespace) -> Found:
    """Run a benchmark and judge what it found."""
    began = time.monotonic()
    name = f'lab.benchmark.{plan.benchmark}'
    module = importlib.import_module(name)
    preload([name])
    with Run(plan) as under_way:
        module.run(under_way)
    found = under_way.found
    took = f'{(time.monotonic() - began) / 60:.1f} min'
    found.context['Run'] = f'{time.strftime("%Y-%m-%d")}, {took}'
    figures = rows(plan.benchmark, found.measured)
    found.verdicts[:0] = verdict.judge(plan.benchmark, figures)
    return found


def say(text: str) -> None:
    """Tell on stderr what is going on."""
    print(f'[{time.strftime("%H:%M:%S")}] {text}', file=sys.stderr, flush=True)


def _cassandra_version(systems: Systems) -> str:
    found = systems.bare.execute('SELECT release_version FROM system.local')
    return str(found.one()[0])


def _processor() -> str:
    with contextlib.suppress(OSError), open('/proc/cpuinfo') as file:
        for line in file:
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    return platform.machine()
