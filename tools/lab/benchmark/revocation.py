# SPDX-License-Identifier: Apache-2.0
"""``tools/benchmark revocation``: the check of a token, and ``revoke``.

Each number of live revocations has a keyspace and a database of its own, and
all are measured in turns, so that "with a million" and "with ten" are
figures of the same minutes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
from collections.abc import Iterator, Sequence

from lab.benchmark import events, load, stage, verdict
from lab.benchmark.clients import Pool, all_stopped
from lab.benchmark.measure import Measurements, Series
from lab.benchmark.stage import Turn, say, take_turns
from lab.benchmark.systems import Order, Place, Systems
from lab.cassandra import Cluster
from lab.mariadb import MariaDB

SIZES = (10, 1_000, 10_000, 100_000, 1_000_000)
AGES = (300, verdict.MIDDLE, 3300)
#: Live events with which ``revoke`` is measured.
REVOKE_SIZE = 10_000

#: The SQL driver reads all events younger than the token, as objects: with
#: more than these, several clients at once take gigabytes.
_SQL_MANY_CLIENTS = 100_000

_LOADERS = 2

_Pools = dict[int, Pool]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to measure.

    :ivar sizes: numbers of live revocations.
    :ivar clients: numbers of client processes, 1 among them.
    :ivar rounds: how often each series has its turn.
    :ivar count: operations in each turn, at most.
    :ivar seconds: of a turn of the SQL driver, at most.
    """

    sizes: tuple[int, ...] = SIZES
    clients: tuple[int, ...] = (1, 8)
    rounds: int = 5
    count: int = 200
    seconds: float = 4.0


def run(plan: Plan) -> tuple[Measurements, dict[str, str]]:
    """Start the servers, fill them, measure; return figures and context."""
    measured = Measurements()
    with contextlib.ExitStack() as servers:
        folder = servers.enter_context(stage.folder())
        say('starting MariaDB')
        sql = servers.enter_context(MariaDB.start())
        cluster = servers.enter_context(stage.node())
        batch = servers.enter_context(stage.node('batch'))
        servers.enter_context(all_stopped())
        reference = datetime.datetime.now(datetime.UTC).replace(
            tzinfo=None, microsecond=0
        )
        sizes = sorted({*plan.sizes, REVOKE_SIZE})
        pools = {
            size: _fill(folder, cluster, size, reference, sql)
            for size in sizes
        }
        batched = _fill(folder, batch, REVOKE_SIZE, reference, name='synced')
        stage.flush(cluster)
        stage.flush(batch)
        stage.settle(cluster)
        context = _context(sql, pools, reference)

        say(f'measuring checks, {plan.rounds} rounds')
        turns = [
            turn
            for size in plan.sizes
            for turn in _checks(plan, size, pools[size], reference)
        ]
        take_turns(measured, turns, plan.rounds)
        # They make the tables grow, so they come last.
        say('measuring revoke')
        take_turns(measured, list(_revokes(plan, pools, batched)), plan.rounds)
        for clients in plan.clients:
            if clients > 1:
                say(f'measuring with {clients} clients')
                _many(plan, clients, measured, pools, batched, reference)
    return measured, context


def _fill(
    folder: str,
    cluster: Cluster,
    size: int,
    reference: datetime.datetime,
    sql: MariaDB | None = None,
    name: str | None = None,
) -> Pool:
    """Make a keyspace and a database with live events, and check them."""
    name = name or f'events_{size}'
    say(f'loading {size} revocations ({name})')
    place = Place(
        folder,
        name,
        tuple(cluster.contact_points),
        cluster.port,
        sql.create(name) if sql else '',
    )
    stage.make_keyspace(place)
    pool = Pool(lambda: Systems(place))
    step = min(_LOADERS, max(1, size // 1000))
    pool.share(
        load.load_cassandra,
        [(size, reference, first, step) for first in range(step)],
    )
    pool.call(load.verify, 'cassandra', size, reference)
    if sql:
        pool.call(load.create_sql)
        load.load_sql(sql, name, size, reference)
        pool.call(load.verify, 'sql', size, reference)
    pool.shrink(1)
    return pool


def _context(
    sql: MariaDB, pools: _Pools, reference: datetime.datetime
) -> dict[str, str]:
    found = sql.settings()
    distinct = ', '.join(
        f'{pool.call(load.subject_rows, reference)} with {size}'
        for size, pool in pools.items()
    )
    return {
        **stage.context(pools[REVOKE_SIZE]),
        'MariaDB': f'{found["version"]}, its own settings:'
        f' innodb_flush_log_at_trx_commit'
        f' {found["innodb_flush_log_at_trx_commit"]}, sync_binlog'
        f' {found["sync_binlog"]}, log_bin {found["log_bin"]}, buffer pool'
        f' {int(found["innodb_buffer_pool_size"]) >> 20} MiB',
        'Live revocations': events.MIX,
        'Distinct rows in the subjects of a token': distinct,
        'Memtables': 'flushed before measuring',
    }


def _checks(
    plan: Plan, size: int, pool: Pool, reference: datetime.datetime
) -> Iterator[Turn]:
    for age in AGES:
        for system in ('cassandra', 'sql'):
            yield Turn(
                Series(system, 'check', size, age),
                pool,
                Order(
                    'check',
                    (system, age, reference),
                    plan.count,
                    plan.seconds,
                ),
            )
    middle = verdict.MIDDLE
    for series, operation, arguments in (
        (
            Series('cassandra', 'check (nine subjects)', size, middle),
            'check',
            ('cassandra', middle, reference, True),
        ),
        (
            Series('bare', 'read nine subjects', size, middle),
            'read_subjects',
            (middle, reference),
        ),
        (Series('bare', 'read token row', size, 0), 'read_row', ()),
    ):
        yield Turn(series, pool, Order(operation, arguments, plan.count))


def _revokes(
    plan: Plan, pools: _Pools, batched: Pool, clients: int = 1
) -> Iterator[Turn]:
    sizes = sorted({REVOKE_SIZE, max(plan.sizes)})
    for size in sizes if clients == 1 else [REVOKE_SIZE]:
        batch = Series('cassandra', 'revoke' + verdict.BATCH, size, 0, clients)
        for series, system, pool in (
            (
                Series('cassandra', 'revoke', size, 0, clients),
                'cassandra',
                pools[size],
            ),
            (Series('sql', 'revoke', size, 0, clients), 'sql', pools[size]),
            *([(batch, 'cassandra', batched)] if size == REVOKE_SIZE else []),
        ):
            yield Turn(
                series,
                pool,
                Order('revoke', (system,), plan.count, plan.seconds),
            )


def _many(
    plan: Plan,
    clients: int,
    measured: Measurements,
    pools: _Pools,
    batched: Pool,
    reference: datetime.datetime,
) -> None:
    """Measure with several clients, one size after the other."""
    for size in plan.sizes:
        turns: list[Turn] = []
        for system in ('cassandra', 'sql'):
            if system == 'sql' and size > _SQL_MANY_CLIENTS:
                continue
            turns.append(
                Turn(
                    Series(system, 'check', size, verdict.MIDDLE, clients),
                    pools[size],
                    Order(
                        'check',
                        (system, verdict.MIDDLE, reference),
                        plan.count,
                        plan.seconds,
                    ),
                )
            )
        if size == REVOKE_SIZE:
            turns += _revokes(plan, pools, batched, clients)
        take_turns(measured, turns, 2)
        pools[size].shrink(1)
    if REVOKE_SIZE not in plan.sizes:
        revokes: Sequence[Turn] = list(_revokes(plan, pools, batched, clients))
        take_turns(measured, revokes, 2)
