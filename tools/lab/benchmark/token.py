# SPDX-License-Identifier: Apache-2.0
"""``tools/benchmark token``: issue, validate, a flood, a worker's cost."""

from __future__ import annotations

import functools
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

from keystone.token.providers.fernet import core as fernet

from keystone_cassandra_token.db import metrics
from keystone_cassandra_token.drivers.token import opaque_ids
from keystone_cassandra_token.drivers.token import provider as token
from lab import LabError
from lab.benchmark import events, worker
from lab.benchmark.clients import Pool
from lab.benchmark.flood import Flood, issue
from lab.benchmark.measure import Sample, Series
from lab.benchmark.run import Run, Turn, say
from lab.benchmark.systems import Call, Place, Systems
from lab.benchmark.verdict import BATCH, at_most, times
from lab.cassandra import Cluster

#: A validation that is counted, and one that is not, in turn.
COUNTED = 'validate (metrics on)'
UNCOUNTED = 'validate (metrics off)'
FIRST_USE = 'first use of a worker'
#: Processes started for the figures of a worker.
_WORKERS = 3
#: Tokens that are validated in turn.
_TOKENS = 1000
#: Of a round in which metrics are on and off in turn, for each; and before.
_VALIDATIONS = 2000
_WARM = 200
_LOADERS = 2


def run(under_way: Run) -> None:
    """Fill the servers and measure."""
    plan = under_way.plan
    # It has to wait for its end, so it comes first and ends last.
    flood = Flood(under_way) if plan.flood else None
    place, pool = _fill(under_way, under_way.node, 'live_tokens')
    _, batched = _fill(under_way, under_way.batch_node, 'synced')
    under_way.tell(pool, Memtables='flushed before measuring')
    for clients in plan.clients:
        turns = list(under_way.turns(pool, plan.tokens, clients=clients))
        turns.append(
            Turn(
                Series('cassandra', 'issue' + BATCH, plan.tokens, 0, clients),
                batched,
            )
        )
        under_way.measure(f'with {clients} clients', turns)
        pool.shrink(1)
        batched.shrink(1)
    _count(under_way, pool)
    _weigh(under_way, place)
    if flood:
        flood.ebb()


def _fill(under_way: Run, node: Cluster, name: str) -> tuple[Place, Pool]:
    """Make a keyspace with live tokens."""
    tokens = under_way.plan.tokens
    say(f'issuing {tokens} live tokens ({name})')
    place = under_way.place(name, node)
    pool = under_way.pool(place)
    issue(pool, tokens, _LOADERS)
    pool.shrink(1)
    under_way.settle(node)
    return place, pool


def _count(under_way: Run, pool: Pool) -> None:
    """Find out what metrics cost: validations with them and without.

    They take turns one by one, so that whatever else the machine does hits
    both alike.
    """
    plan = under_way.plan
    say('measuring validations with metrics and without')
    found = under_way.found
    ways = [
        Series('cassandra', name, plan.tokens, 0)
        for name in (UNCOUNTED, COUNTED)
    ]
    for _ in range(plan.rounds):
        both = pool.call(_validated_both_ways, _VALIDATIONS)
        for series, sample in zip(ways, both, strict=True):
            found.measured.add(series, [sample])
    without, counted = (
        found.measured.figures(series).p50 * 1e3 for series in ways
    )
    found.verdicts.append(
        times(
            'validate_token with metrics against without, p50',
            counted,
            without,
            1.02,
            'ms',
        )
    )


def _validated_both_ways(systems: Systems, count: int) -> list[Sample]:
    """Validate without metrics and with them, in turn; what a client does."""
    validate = _validate(systems, Series('cassandra', 'validate', 0, 0))
    latencies: tuple[list[float], list[float]] = ([], [])
    cpu = [0.0, 0.0]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        ways = (metrics.OFF, metrics.Recorder(folder))
        for number in range(2 * (count + _WARM)):
            way = number % 2
            metrics.current = ways[way]
            used, before = time.process_time(), time.perf_counter()
            validate()
            took = time.perf_counter() - before
            if number >= 2 * _WARM:
                latencies[way].append(took)
                cpu[way] += time.process_time() - used
        metrics.current = metrics.OFF
        ways[1].stop()
        if not os.listdir(folder):
            raise LabError('the metrics could not be written')
    ended = time.monotonic()
    return [
        Sample(tuple(latencies[way]), cpu[way], began, ended) for way in (0, 1)
    ]


def _weigh(under_way: Run, place: Place) -> None:
    """Find out what the session adds to a worker; MB are 10^6 bytes."""
    say('starting workers of Keystone')
    ours = []
    stock = []
    for _ in range(_WORKERS):
        ours.append(worker.start(place.file, 'cassandra'))
        stock.append(worker.start(place.file, 'fernet'))
    series = Series('cassandra', FIRST_USE, under_way.plan.tokens, 0)
    for found in ours:
        sample = Sample((found.first_use,), 0.0, 0.0, found.first_use)
        under_way.found.measured.add(series, [sample])
    by_itself = statistics.median(w.used - w.loaded for w in ours) / 1e6
    beside = (
        statistics.median(w.used for w in ours)
        - statistics.median(w.loaded for w in stock)
    ) / 1e6
    first_use = max(w.first_use for w in ours)
    under_way.found.verdicts += [
        at_most(
            'memory that the session adds to a worker',
            max(beside, by_itself),
            40,
            'MB',
        ),
        at_most('connect at first use', first_use, 1, 's'),
    ]
    under_way.found.context['Worker'] = (
        f'resident memory after {4 * worker.OPERATIONS} operations:'
        f' {by_itself:.1f} MB above its own before the first use,'
        f" {beside:.1f} MB above that of a worker with Keystone's"
        f' own drivers, just loaded (median of {_WORKERS})'
    )


# -- the operations


_PROVIDERS = {'cassandra': token.Provider, 'fernet': fernet.Provider}


def _issue(systems: Systems, series: Series) -> Callable[[], Any]:
    """The issue of a project token."""
    provider = _PROVIDERS[series.system]()
    return lambda: provider.generate_id_and_issued_at(
        events.new_token(systems.place.lifetime)
    )


@functools.cache
def _issued(systems: Systems, system: str) -> list[str]:
    """Issue some tokens and return their ids."""
    one = _issue(systems, Series(system, 'issue', 0, 0))
    return [one()[0] for _ in range(_TOKENS)]


def _validate(systems: Systems, series: Series) -> Callable[[], object]:
    """The provider's ``validate_token``."""
    provider = _PROVIDERS[series.system]()
    ids = itertools.cycle(_issued(systems, series.system))
    return lambda: provider.validate_token(next(ids))


def _read_row(systems: Systems, series: Series) -> Callable[[], object]:
    """A bare read of the rows that :func:`_validate` reads."""
    conf = token.Provider().conf
    keys = [
        # What the driver computes for a key.
        (opaque_ids.hashed(conf, token_id),)
        for token_id in _issued(systems, 'cassandra')
    ]
    read = systems.read(token.GET, itertools.cycle(keys))

    def run() -> None:
        if not read():
            raise LabError('the row of a live token is missing')

    return run


CALLS = {
    'validate': Call(_validate, ('cassandra', 'fernet')),
    'read token row': Call(_read_row, ('bare',)),
    'issue': Call(_issue, ('cassandra', 'fernet')),
}
