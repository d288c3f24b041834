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
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from keystone.models import revoke_model
from keystone.revoke.backends import sql as sql_revoke

from keystone_cassandra_token import revocation_ttl
from keystone_cassandra_token.db.cql import Statement
from keystone_cassandra_token.db.request import Future
from keystone_cassandra_token.drivers.token import revoke
from lab import LabError
from lab.benchmark import events, fill, token
from lab.benchmark.clients import Pool
from lab.benchmark.measure import Series
from lab.benchmark.run import Run, Turn, say
from lab.benchmark.systems import BOTH, Call, Place, Systems
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

Pools = dict[int, Pool]


def run(under_way: Run) -> None:
    """Fill the servers and measure."""
    plan = under_way.plan
    reference = events.now()
    pools = {
        size: _fill(under_way, under_way.node, size, reference, sql=True)
        for size in sorted({*plan.events, REVOKE_SIZE})
    }
    batch = under_way.batch_node
    batched = _fill(under_way, batch, REVOKE_SIZE, reference, 'synced')
    under_way.settle(batch)
    under_way.settle(under_way.node)
    distinct = ', '.join(
        f'{pool.call(subject_rows)} with {size}'
        for size, pool in pools.items()
    )
    under_way.tell(
        pools[REVOKE_SIZE],
        **{
            'Live revocations': events.MIX,
            'Distinct rows in the subjects of a token': distinct,
            'Memtables': 'flushed before measuring',
        },
    )
    checks = (
        turn
        for size in plan.events
        for turn in _checks(under_way, pools[size], size)
    )
    under_way.measure(f'checks, {plan.rounds} rounds', checks)
    # They make the tables grow, so they come last.
    for clients in plan.clients:
        if clients > 1:
            _measure_many(under_way, pools, clients)
        _measure_revoke(under_way, pools, batched, clients)


def _checks(under_way: Run, pool: Pool, size: int) -> Iterator[Turn]:
    for age in AGES:
        yield from under_way.turns(pool, size, ['check'], age=age)
    for name in ('check (nine subjects)', 'read nine subjects'):
        yield from under_way.turns(pool, size, [name], age=MIDDLE)
    yield from under_way.turns(pool, size, ['read token row'])


def _measure_many(under_way: Run, pools: Pools, clients: int) -> None:
    """Measure with several clients, one size after the other."""
    for size in under_way.plan.events:
        systems = BOTH if size <= _SQL_MANY_CLIENTS else ('cassandra',)
        turns = under_way.turns(
            pools[size],
            size,
            ['check'],
            age=MIDDLE,
            clients=clients,
            systems=systems,
        )
        under_way.measure(f'{size} events with {clients} clients', turns)
        pools[size].shrink(1)


def _measure_revoke(
    under_way: Run, pools: Pools, batched: Pool, clients: int
) -> None:
    sizes = {REVOKE_SIZE}
    if clients == 1:
        sizes.add(max(under_way.plan.events))
    turns = [
        turn
        for size in sorted(sizes)
        for turn in under_way.turns(
            pools[size], size, ['revoke'], clients=clients
        )
    ]
    series = Series('cassandra', 'revoke' + BATCH, REVOKE_SIZE, 0, clients)
    turns.append(Turn(series, batched))
    under_way.measure(f'revoke with {clients} clients', turns)


# -- filling


def _fill(
    under_way: Run,
    node: Cluster,
    size: int,
    reference: datetime.datetime,
    name: str = '',
    sql: bool = False,
) -> Pool:
    """Make a keyspace, and a database if wanted, with live events."""
    name = name or f'events_{size}'
    say(f'loading {size} revocations ({name})')
    place = under_way.place(name, node, sql, reference=reference)
    pool = under_way.pool(place)
    if sql:
        pool.call(fill.create_tables, sql_revoke.RevocationEvent)
    load(pool, under_way.sql if sql else None, place, size)
    pool.shrink(1)
    return pool


def load(pool: Pool, server: MariaDB | None, place: Place, size: int) -> None:
    """Add revocations to Cassandra and to MariaDB, and check that they count.

    :raises LabError: if a token is not found revoked that one of them is for;
        then the figures would be of something else.
    """
    step = min(_LOADERS, max(1, size // 1000))
    pool.share(_load, [(size, first, step) for first in range(step)])
    pool.call(_verify, 'cassandra', size)
    if server:
        columns = revoke_model.REVOKE_KEYS
        rows = (
            [getattr(event, name) for name in columns]
            for event in events.events(size, place.reference)
        )
        table = (sql_revoke.RevocationEvent, ' '.join(columns), rows)
        fill.load(server, place.name, [table])
        pool.call(_verify, 'sql', size)


class _Gathering:
    """Stands for a store, and keeps what the driver would send."""

    def __init__(self) -> None:
        self.rows = collections.defaultdict[Statement, list[Any]](list)

    def batch(self, *steps: tuple[Statement, Mapping[str, Any]]) -> None:
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


def _load(systems: Systems, size: int, first: int, step: int) -> None:
    """Write every ``step``-th of ``size`` events; what a client does.

    Each goes through the driver's own ``revoke``; only what it then asks of
    the store is gathered.
    """
    driver = revoke.Revoke()
    driver.ttl.ensure(revocation_ttl.needed(driver.conf))
    driver.ttl = _SettledTTL(driver.ttl)
    coming = events.events(size, systems.place.reference, first, step)
    for some in fill.portions(coming, 20_000):
        driver.db = _Gathering()
        for event in some:
            driver.revoke(event)
        for statement, rows in driver.db.rows.items():
            fill.write(systems, statement, rows)


def _verify(systems: Systems, system: str, size: int) -> None:
    values = events.token_values(MIDDLE, systems.place.reference)
    values['audit_id'] = events.revoked_audit_id(size)
    found = _DRIVERS[system]().list_events(token=values)
    if not revoke_model.is_revoked(found, values):
        raise LabError(f'{system}: a revoked token counts as live')


def subject_rows(systems: Systems) -> int:
    """Return the rows in the subjects of a token that is checked."""
    values = events.token_values(MIDDLE, systems.place.reference)
    return len(systems.read(revoke.CHECK, [(subjects(values),)])())


# -- the operations


_DRIVERS = {'cassandra': revoke.Revoke, 'sql': sql_revoke.Revoke}


def subjects(values: Mapping[str, Any]) -> list[str]:
    """Return the keys of the partitions that a check reads."""
    return revoke.subjects(revoke.values_of(values))


def _tokens(
    systems: Systems, series: Series, trust: bool = False
) -> Iterable[dict[str, Any]]:
    reference = systems.place.reference
    return itertools.cycle(
        [
            events.token_values(series.token_age, reference, trust)
            for _ in range(_TOKENS)
        ]
    )


def _check(
    systems: Systems, series: Series, trust: bool = False
) -> Callable[[], object]:
    """The revocation check of live tokens."""
    driver = _DRIVERS[series.system]()
    tokens = iter(_tokens(systems, series, trust))

    def run() -> None:
        values = next(tokens)
        found = driver.list_events(token=values)
        if revoke_model.is_revoked(found, values):
            raise LabError(f'{series.system}: a live token counts as revoked')

    return run


def _revoke(systems: Systems, series: Series) -> Callable[[], object]:
    """The revocation of one token by its audit id."""
    driver = _DRIVERS[series.system]()
    return lambda: driver.revoke(events.audit_event())


def _read_subjects(systems: Systems, series: Series) -> Callable[[], object]:
    """A bare read of the subjects of a token that has all kinds: nine."""
    keys = [
        (subjects(values),)
        for values in itertools.islice(
            _tokens(systems, series, trust=True), _TOKENS
        )
    ]
    return systems.read(revoke.CHECK, itertools.cycle(keys))


CALLS = {
    'check': Call(_check),
    'check (nine subjects)': Call(
        lambda systems, series: _check(systems, series, trust=True),
        ('cassandra',),
    ),
    'read nine subjects': Call(_read_subjects, ('bare',)),
    'read token row': token.CALLS['read token row'],
    'revoke': Call(_revoke),
}
