# SPDX-License-Identifier: Apache-2.0
"""``tools/benchmark revocation``: the check of a token, and ``revoke``.

Each number of live revocations has a keyspace and a database of its own, and
all are measured in turns, so that "with a million" and "with ten" are
figures of the same minutes.
"""

from __future__ import annotations

import collections
import datetime
import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from keystone.models import revoke_model
from keystone.revoke.backends import sql as sql_revoke

from keystone_cassandra_token import revocation_ttl
from keystone_cassandra_token.db.cql import Statement
from keystone_cassandra_token.db.request import Future
from keystone_cassandra_token.db.session import Sessions
from keystone_cassandra_token.drivers.token import events as stored
from keystone_cassandra_token.drivers.token import revoke
from lab import LabError
from lab.benchmark import events, fill, systems, token
from lab.benchmark.measure import Series
from lab.benchmark.run import WARM_ALONE, Run, say
from lab.benchmark.systems import (
    BOTH,
    Call,
    PlacePool,
    Systems,
    by_driver,
    driver,
)
from lab.benchmark.verdict import BATCH, MIDDLE
from lab.cassandra import Cluster
from lab.mariadb import MariaDB

AGES = (300, MIDDLE, 3300)
#: Live events with which ``revoke`` is measured.
REVOKE_SIZE = 10_000
#: Tokens that a check goes through.
_TOKENS = 1000
#: The SQL driver reads all events younger than the token, as objects: with
#: more than these, several clients at once take gigabytes.
_SQL_MANY_CLIENTS = 100_000
_LOADERS = 2


def run(under_way: Run) -> None:
    """Fill the servers and measure."""
    plan = under_way.plan
    filled = partial(_fill, under_way, reference=events.now())
    pools = {
        size: filled(under_way.node, size, f'events_{size}', sql=True)
        for size in sorted({*plan.events, REVOKE_SIZE})
    }
    batched = filled(under_way.batch_node, REVOKE_SIZE, 'synced')
    under_way.settle(under_way.batch_node)
    under_way.settle(under_way.node)
    distinct = ', '.join(
        f'{pool.call(subject_rows)} with {size}'
        for size, pool in pools.items()
    )
    context = {
        'Live revocations': events.MIX,
        'Distinct rows in the subjects of a token': distinct,
        'Memtables': 'flushed before measuring',
    }
    under_way.tell(**context)
    checks = (
        turn
        for size in plan.events
        for names, age in (
            *((['check'], age) for age in AGES),
            (['check (nine subjects)', 'read nine subjects'], MIDDLE),
            (['read token row'], 0),
        )
        for turn in under_way.turns(pools[size], size, names, age=age)
    )
    under_way.measure(f'checks, {plan.rounds} rounds', checks)
    # They make the tables grow, so they come last.
    for clients in plan.clients:
        if clients > 1:
            _measure_many(under_way, pools, clients)
        sizes = {REVOKE_SIZE, max(plan.events)}
        turns = [
            turn
            for size in (sorted(sizes) if clients == 1 else [REVOKE_SIZE])
            for turn in under_way.turns(
                pools[size], size, ['revoke'], clients=clients
            )
        ]
        series = Series('cassandra', 'revoke' + BATCH, REVOKE_SIZE, 0, clients)
        turns.append((series, batched))
        if clients == 1:
            systems.measure(batched, series, WARM_ALONE, 60)
        under_way.measure(f'revoke with {clients} clients', turns)


def _measure_many(
    under_way: Run, pools: Mapping[int, PlacePool], clients: int
) -> None:
    """Measure checks with several clients, one size after the other."""
    for size in under_way.plan.events:
        turns = under_way.turns(
            pools[size],
            size,
            ['check'],
            age=MIDDLE,
            clients=clients,
            only=BOTH if size <= _SQL_MANY_CLIENTS else ['cassandra'],
        )
        under_way.measure(f'{size} events with {clients} clients', turns)
        pools[size].shrink(1)


# -- filling


def _fill(
    under_way: Run,
    node: Cluster,
    size: int,
    name: str,
    *,
    reference: datetime.datetime,
    sql: bool = False,
) -> PlacePool:
    """Make a keyspace, and a database if wanted, with live events."""
    say(f'loading {size} revocations ({name})')
    pool = under_way.pool(name, node, sql, reference=reference)
    if sql:
        pool.call(fill.create_tables, 'revoke')
    load(pool, under_way.sql if sql else None, size)
    pool.shrink(1)
    return pool


def load(pool: PlacePool, server: MariaDB | None, size: int) -> None:
    """Add revocations to Cassandra and to MariaDB, and check that they count.

    :raises LabError: if a token is not found revoked that one of them is for;
        then the figures would be of something else.
    """
    step = min(_LOADERS, max(1, size // 1000))
    pool.share(write_events, [(size, first, step) for first in range(step)])
    pool.call(_verify, 'cassandra', size)
    if server:
        columns = revoke_model.REVOKE_KEYS
        rows = (
            [getattr(event, name) for name in columns]
            for event in events.events(size, pool.place.reference)
        )
        table = (sql_revoke.RevocationEvent, ' '.join(columns), rows)
        fill.load(server, pool.place.name, [table])
        pool.call(_verify, 'sql', size)


class _Gathering:
    """Stands for a store, and keeps what the driver would send."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions = sessions
        self.rows: fill.Rows = collections.defaultdict(list)

    def run_all(self, *steps: tuple[Statement, Mapping[str, Any]]) -> None:
        for statement, binds in steps:
            self.rows[statement].append(binds)


class _SettledTTL(revocation_ttl.RevocationTTL):
    """The revocation TTL, read once instead of for each event."""

    def __init__(self, settled: revocation_ttl.RevocationTTL) -> None:
        self._seconds = settled.current()

    def ensure(self, seconds: int) -> None:
        """Do nothing: it was made sure of before the first event."""

    def current_async(self) -> tuple[int, Future[int]]:
        return self._seconds, Future(lambda: self._seconds)


def write_events(systems: Systems, size: int, first: int, step: int) -> None:
    """Write every ``step``-th of ``size`` events; what a client does.

    Each goes through the driver's own ``revoke``; only what it then asks of
    the store is gathered.
    """
    opened = revoke.Revoke()
    opened.ttl.ensure(revocation_ttl.needed(opened.conf))
    opened.ttl = _SettledTTL(opened.ttl)
    sessions = opened.db.sessions
    coming = events.events(size, systems.place.reference, first, step)
    for some in fill.portions(coming, 20_000):
        opened.db = _Gathering(sessions)
        for event in some:
            opened.revoke(event)
        fill.write_all(systems, opened.db.rows)


def _verify(systems: Systems, system: str, size: int) -> None:
    values = events.token_values(MIDDLE, systems.place.reference)
    values['audit_id'] = events.revoked_audit_id(size)
    found = driver(system, 'revoke').list_events(token=values)
    if not revoke_model.is_revoked(found, values):
        raise LabError(f'{system}: a revoked token counts as live')


def subject_rows(systems: Systems) -> int:
    """Return the rows in the subjects of a token that is checked."""
    values = events.token_values(MIDDLE, systems.place.reference)
    return len(systems.read(stored.CHECK, [(subjects(values),)])())


# -- the operations


def subjects(values: Mapping[str, Any]) -> list[str]:
    """Return the keys of the partitions that a check reads."""
    return stored.subjects(stored.values_of(values))


def _tokens(
    systems: Systems, series: Series, trust: bool
) -> list[dict[str, Any]]:
    reference = systems.place.reference
    return [
        events.token_values(series.token_age, reference, trust)
        for _ in range(_TOKENS)
    ]


def _check(
    systems: Systems, series: Series, trust: bool = False
) -> Callable[[], object]:
    """The revocation check of live tokens."""
    opened = driver(series.system, 'revoke')
    tokens = itertools.cycle(_tokens(systems, series, trust))

    def run() -> None:
        values = next(tokens)
        found = opened.list_events(token=values)
        if revoke_model.is_revoked(found, values):
            raise LabError(f'{series.system}: a live token counts as revoked')

    return run


def _read_subjects(systems: Systems, series: Series) -> Callable[[], object]:
    """A bare read of the subjects of a token that has all kinds: nine."""
    keys = [(subjects(v),) for v in _tokens(systems, series, trust=True)]
    return systems.read(stored.CHECK, itertools.cycle(keys))


CALLS = {
    'check': Call(_check),
    'check (nine subjects)': Call(partial(_check, trust=True), ('cassandra',)),
    'read nine subjects': Call(_read_subjects, ('bare',)),
    'read token row': token.CALLS['read token row'],
    'revoke': by_driver(
        'revoke', lambda opened, _: opened.revoke(events.audit_event())
    ),
}
