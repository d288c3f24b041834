# SPDX-License-Identifier: Apache-2.0
"""``tools/benchmark token``: issue, validate, a flood, a worker's cost."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
from collections.abc import Iterator

from lab.benchmark import stage, verdict, worker
from lab.benchmark.clients import Pool, all_stopped
from lab.benchmark.flood import TOKENS, Flood
from lab.benchmark.measure import Measurements, Sample, Series
from lab.benchmark.stage import Turn, say, take_turns
from lab.benchmark.systems import LIFETIME, Order, Place, Systems, run
from lab.benchmark.verdict import Verdict
from lab.cassandra import Cluster

FIRST_USE = 'first use of a worker'


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to measure.

    :ivar tokens: that are live while others are issued and validated.
    :ivar flood: short tokens; 0 leaves the flood out.
    :ivar clients: numbers of client processes, 1 among them.
    :ivar rounds: how often each series has its turn.
    :ivar count: operations in each turn, at most.
    :ivar workers: processes started for the figures of a worker.
    """

    tokens: int = 20_000
    flood: int = TOKENS
    clients: tuple[int, ...] = (1, 8)
    rounds: int = 8
    count: int = 300
    workers: int = 3


@dataclasses.dataclass(frozen=True)
class Cost:
    """What the session adds to a worker; MB are 10^6 bytes."""

    memory: float
    by_itself: float
    first_use: float


def run_all(
    plan: Plan,
) -> tuple[Measurements, dict[str, str], list[Verdict]]:
    """Start the servers and measure.

    :returns: figures, context, and the verdicts that no row tells.
    """
    measured = Measurements()
    verdicts = []
    with contextlib.ExitStack() as servers:
        folder = servers.enter_context(stage.folder())
        cluster = servers.enter_context(stage.node())
        batch = servers.enter_context(stage.node('batch'))
        servers.enter_context(all_stopped())
        # It has to wait for its end, so it comes first and ends last.
        flood = Flood(folder, cluster, plan.flood) if plan.flood else None
        if flood:
            flood.pour()
        pool = _fill(folder, cluster, 'live_tokens', plan.tokens)
        batched = _fill(folder, batch, 'synced', plan.tokens)
        context = stage.context(pool)
        context['Memtables'] = 'flushed before measuring'
        for clients in sorted(plan.clients):
            say(f'measuring with {clients} clients')
            turns = list(_turns(plan, clients, pool, batched))
            take_turns(measured, turns, plan.rounds if clients == 1 else 2)
            pool.shrink(1)
            batched.shrink(1)
        say('starting workers of Keystone')
        cost = _cost(plan, folder, cluster, measured)
        verdicts += [
            verdict.at_most(
                'memory that the session adds to a worker',
                max(cost.memory, cost.by_itself),
                40,
                'MB',
            ),
            verdict.at_most('connect at first use', cost.first_use, 1, 's'),
        ]
        context['Worker'] = (
            f'resident memory after {4 * worker._OPERATIONS} operations:'
            f' {cost.by_itself:.1f} MB above its own before the first use,'
            f" {cost.memory:.1f} MB above that of a worker with Keystone's"
            f' own drivers, just loaded (median of {plan.workers})'
        )
        if flood:
            dropped, told = flood.ebb()
            verdicts.append(dropped)
            context |= told
    return measured, context, verdicts


def _fill(folder: str, cluster: Cluster, name: str, tokens: int) -> Pool:
    """Make a keyspace with live tokens."""
    say(f'issuing {tokens} live tokens ({name})')
    place = Place(folder, name, tuple(cluster.contact_points), cluster.port)
    stage.make_keyspace(place)
    pool = Pool(lambda: Systems(place))
    clients = 2
    order = Order(
        'issue', ('cassandra', LIFETIME), -(-tokens // clients), float('inf')
    )
    pool.measure(run, clients, order)
    pool.shrink(1)
    stage.flush(cluster)
    return pool


def _turns(
    plan: Plan, clients: int, pool: Pool, batched: Pool
) -> Iterator[Turn]:
    for system, operation, place, action, arguments in (
        ('cassandra', 'validate', pool, 'validate', ('cassandra',)),
        ('bare', 'read token row', pool, 'read_row', ()),
        ('fernet', 'validate', pool, 'validate', ('fernet',)),
        ('cassandra', 'issue', pool, 'issue', ('cassandra',)),
        (
            'cassandra',
            'issue' + verdict.BATCH,
            batched,
            'issue',
            ('cassandra',),
        ),
        ('fernet', 'issue', pool, 'issue', ('fernet',)),
    ):
        yield Turn(
            Series(system, operation, plan.tokens, 0, clients),
            place,
            Order(action, arguments, plan.count),
        )


def _cost(
    plan: Plan, folder: str, cluster: Cluster, measured: Measurements
) -> Cost:
    place = Place(
        folder, 'live_tokens', tuple(cluster.contact_points), cluster.port
    )
    ours = []
    stock = []
    for _ in range(plan.workers):
        ours.append(worker.start(place.file, 'cassandra'))
        stock.append(worker.start(place.file, 'fernet'))
    series = Series('cassandra', FIRST_USE, plan.tokens, 0)
    for found in ours:
        sample = Sample((found.first_use,), 0.0, 0.0, found.first_use)
        measured.add(series, [sample])

    def median(values: Iterator[int]) -> float:
        return statistics.median(values) / 1e6

    return Cost(
        memory=median(w.used for w in ours) - median(w.loaded for w in stock),
        by_itself=median(w.used - w.loaded for w in ours),
        first_use=max(w.first_use for w in ours),
    )
