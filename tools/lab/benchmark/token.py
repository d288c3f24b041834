# SPDX-License-Identifier: Apache-2.0
"""``tools/benchmark token``: issue, validate, a flood, a worker's cost.

The flood are short tokens, of which the disk must have nothing after their
life: Keystone's defaults, a hundred and twenty times faster.  A window of two
hours becomes one minute (the shortest there is), a life of one hour thirty
seconds, and so on.  Nothing flushes tokens and nothing asks for a compaction;
that memtables are flushed once after the flood only makes all of it visible
on the disk.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import glob
import itertools
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from osprofiler import notifier, profiler

from keystone_cassandra_token.db import metrics, watch
from keystone_cassandra_token.drivers.token import opaque_ids
from keystone_cassandra_token.drivers.token import provider as token
from lab import LabError
from lab.benchmark import events, worker
from lab.benchmark.measure import Sample, Series, loop
from lab.benchmark.run import Run, say
from lab.benchmark.systems import Call, PlacePool, Systems, driver, measure
from lab.benchmark.verdict import BATCH, Verdict, at_most, times
from lab.cassandra import Cluster
from lab.waiting import WaitedInVain, until

#: Ways in which a validation is watched, each with more than the one before.
#: With spans on, a request has a trace only if its headers ask for one.
WATCHED = (
    'validate (none on)',
    'validate (metrics on)',
    'validate (metrics, spans on)',
    'validate (metrics, traced)',
)
_COUNTED, _SPANS, _TRACED = range(1, len(WATCHED))
FIRST_USE = 'first use of a worker'
#: Processes started for the figures of a worker.
_WORKERS = 3
#: Tokens that are validated in turn.
_TOKENS = 1000
#: Of a round in which metrics are on and off in turn, for each; and before.
_VALIDATIONS = 2000
_WARM = 200
_LOADERS = 2

#: Of the flood: how much faster, and what follows from that, in seconds.
SCALE = 120
LIFETIME = 3600 // SCALE
GRACE = 10_800 // SCALE
#: How often the strategy looks for expired SSTables; 600 unscaled.
CHECK = 600 // SCALE
#: Cassandra itself looks after each table every minute, the first time five
#: minutes after its start; this much later the SSTables must be gone.
_PATIENCE = 400
_FLOOD_CLIENTS = 4


def run(under_way: Run) -> None:
    """Fill the servers and measure."""
    # It has to wait for its end, so it comes first and ends last.
    flood = _flood(under_way) if under_way.plan.flood else None
    with flood or contextlib.nullcontext():
        pool = _fill(under_way, under_way.node, 'live_tokens')
        batched = _fill(under_way, under_way.batch_node, 'synced')
        under_way.tell(Memtables='flushed before measuring')
        _measure(under_way, pool, batched)
        _count(under_way, pool)
        _weigh(under_way, pool.place.file)


def _fill(under_way: Run, node: Cluster, name: str) -> PlacePool:
    """Make a keyspace with live tokens."""
    tokens = under_way.plan.tokens
    say(f'issuing {tokens} live tokens ({name})')
    pool = under_way.pool(name, node)
    issue(pool, tokens, _LOADERS)
    pool.shrink(1)
    under_way.settle(node)
    return pool


def issue(pool: PlacePool, tokens: int, clients: int) -> float:
    """Issue many tokens through the driver; return how many in a second."""
    series = Series('cassandra', 'issue', tokens, clients=clients)
    measure(pool, series, 1, 0.0)  # opens it
    began = time.monotonic()
    measure(pool, series, -(-tokens // clients), float('inf'))
    return tokens / (time.monotonic() - began)


def _measure(under_way: Run, pool: PlacePool, batched: PlacePool) -> None:
    size = under_way.plan.tokens
    for clients in under_way.plan.clients:
        turns = list(under_way.turns(pool, size, clients=clients))
        series = Series('cassandra', 'issue' + BATCH, size, clients=clients)
        turns.append((series, batched))
        under_way.measure(f'with {clients} clients', turns)
        pool.shrink(1)
        batched.shrink(1)


# -- the cost of metrics and spans, and of the session


def _count(under_way: Run, pool: PlacePool) -> None:
    """Find out what metrics and spans cost a validation."""
    plan, found = under_way.plan, under_way.found
    say('measuring validations with metrics and spans, and without')
    every = [Series('cassandra', name, plan.tokens) for name in WATCHED]
    for _ in range(plan.rounds):
        turns = pool.call(watched, _VALIDATIONS)
        for series, turn in zip(every, turns, strict=True):
            found.measured.add(series, turn)
    off, counted, both, traced = (
        found.measured.figures(each).p50 * 1e3 for each in every
    )
    found.verdicts += [
        times(f'cost of {what}: validate_token, p50', p50, off, 1.02, 'ms')
        for what, p50 in (('metrics', counted), ('metrics and spans', both))
    ]
    # No limit: whoever asks for the trace of a request wants it at its price.
    found.context['Trace'] = (
        f'validate_token with metrics and a trace takes {traced / off:.4f} x'
        ' the time with none on, p50, sending the spans away left out'
    )


def watched(systems: Systems, count: int) -> list[list[Sample]]:
    """Validate in each way of :data:`WATCHED`; what a client does.

    They take turns one by one, so that whatever else the machine does hits
    all alike, and in any order: what follows a traced one is slower by more
    than metrics cost.  Spans go nowhere: what collects them is the operator's
    choice.
    """
    validate = _validate(systems, Series('cassandra', 'validate', 0))
    found: list[list[Sample]] = [[] for _ in WATCHED]
    told = collections.deque[object](maxlen=1)
    notifier.set(told.append)
    looks = watch.traced
    with tempfile.TemporaryDirectory() as folder:
        recorder = metrics.Recorder(folder)
        rounds = (_WARM + count) * [list(enumerate(found))]
        for way, samples in itertools.chain.from_iterable(
            random.sample(ways, len(ways)) for ways in rounds
        ):
            metrics.current = recorder if way >= _COUNTED else metrics.OFF
            # Without spans nothing even looks for a trace: this is False.
            watch.traced = looks if way >= _SPANS else bool
            # As Keystone's pipeline does for a request that wants a trace.
            profiler.init('key') if way >= _TRACED else profiler.clean()
            samples.append(loop(validate, 1, 0))
        metrics.current, watch.traced = metrics.OFF, looks
        profiler.clean()
        recorder.stop()
        if not os.listdir(folder) or not told:
            raise LabError('metrics or spans could not be written')
    return [samples[_WARM:] for samples in found]


def _weigh(under_way: Run, file: str) -> None:
    """Find out what the session adds to a worker; MB are 10^6 bytes.

    :param file: the configuration of the workers.
    """
    say('starting workers of Keystone')
    pairs = [
        (worker.start(file, 'cassandra'), worker.start(file, 'fernet'))
        for _ in range(_WORKERS)
    ]
    ours, stock = zip(*pairs, strict=True)
    series = Series('cassandra', FIRST_USE, under_way.plan.tokens)
    for found in ours:
        sample = Sample((found.first_use,), 0.0, 0.0, found.first_use)
        under_way.found.measured.add(series, [sample])
    used = statistics.median(w.used for w in ours)
    beside = (used - statistics.median(w.loaded for w in stock)) / 1e6
    by_itself = statistics.median(w.used - w.loaded for w in ours) / 1e6
    added = max(beside, by_itself)
    first_use = max(w.first_use for w in ours)
    under_way.found.verdicts += [
        at_most('memory that the session adds to a worker', added, 40, 'MB'),
        at_most('connect at first use', first_use, 1, 's'),
    ]
    under_way.found.context['Worker'] = (
        f'resident memory after {4 * worker.OPERATIONS} operations:'
        f' {by_itself:.1f} MB above its own before the first use,'
        f" {beside:.1f} MB above that of a worker with Keystone's"
        f' own drivers, just loaded (median of {_WORKERS})'
    )


# -- the flood


@contextlib.contextmanager
def _flood(under_way: Run) -> Iterator[None]:
    """Issue short tokens in a keyspace of their own; see them go at the end.

    At the end it waits until the SSTables are gone, or should have been.
    """
    tokens = under_way.plan.flood
    node = under_way.node.nodes[0]
    pool = under_way.pool('flood', under_way.node, window=0, lifetime=LIFETIME)
    pool.call(scale)
    say(f'issuing {tokens} tokens of {LIFETIME} s')
    rate = issue(pool, tokens, _FLOOD_CLIENTS)
    began = time.monotonic()
    node.nodetool('flush')
    _, before = on_disk(node.directory)
    say(f'on the disk: {before}')
    pool.shrink(1)
    yield
    say('waiting for the SSTables of the expired tokens to drop')
    end = began + LIFETIME + GRACE + _PATIENCE
    try:
        until(
            lambda: not on_disk(node.directory)[0],
            'the SSTables to drop',
            end - time.monotonic(),
        )
    except WaitedInVain as error:
        say(str(error))
    left, after = on_disk(node.directory)
    seconds = time.monotonic() - began
    verdict = Verdict(
        f'SSTables of {tokens} short tokens drop by themselves',
        'none left',
        f'before: {before}; {seconds:.0f} s after the last token: {after}',
        left == 0,
    )
    under_way.found.verdicts.append(verdict)
    under_way.found.context['Flood'] = (
        f'{tokens} tokens of {LIFETIME} s through'
        f" {_FLOOD_CLIENTS} processes at {rate:.0f}/s; Cassandra's"
        f' times divided by {SCALE}: window 1 min, gc_grace_seconds'
        f' {GRACE}, expired_sstable_check_frequency_seconds {CHECK};'
        f' no token flush, no compaction asked for'
        f' ({pool.call(compactions)} minor ones within windows)'
    )


def on_disk(directory: str) -> tuple[int, str]:
    """Return how many SSTables a node has of the flood, and their size."""
    sstables = size = 0
    pattern = os.path.join(glob.escape(directory), '**/flood/token-*/*')
    for file in glob.glob(pattern, recursive=True):
        with contextlib.suppress(FileNotFoundError):  # dropped meanwhile
            size += os.path.getsize(file)
            sstables += file.endswith('-Data.db')
    return sstables, f'{sstables} SSTables, {size / 2**20:.1f} MiB'


def scale(systems: Systems) -> None:
    """Shorten the table's times; what a client does."""
    systems.bare.execute(
        # Its name is a keyword, which this statement takes quoted only.
        f'ALTER TABLE {systems.place.name}."{token.INSERT.table}" WITH'
        f' gc_grace_seconds = {GRACE} AND compaction = {{'
        "'class': 'TimeWindowCompactionStrategy',"
        " 'compaction_window_unit': 'MINUTES',"
        " 'compaction_window_size': '1',"
        f" 'expired_sstable_check_frequency_seconds': '{CHECK}'}}"
    )


def compactions(systems: Systems) -> int:
    """Return how many compactions of the table put SSTables together."""
    found = systems.bare.execute(
        'SELECT keyspace_name, columnfamily_name FROM'
        ' system.compaction_history'
    )
    wanted = (systems.place.name, token.INSERT.table)
    return sum(tuple(row) == wanted for row in found)


# -- the operations


def _issue(systems: Systems, series: Series) -> Callable[[], Any]:
    """The issue of a project token."""
    provider = driver(series.system, 'token.provider')
    return lambda: provider.generate_id_and_issued_at(
        events.new_token(systems.place.lifetime)
    )


@functools.cache
def _issued(systems: Systems, system: str) -> list[str]:
    """Issue some tokens and return their ids."""
    one = _issue(systems, Series(system, 'issue', 0))
    return [one()[0] for _ in range(_TOKENS)]


def _validate(systems: Systems, series: Series) -> Callable[[], object]:
    """The provider's ``validate_token``."""
    provider = driver(series.system, 'token.provider')
    ids = itertools.cycle(_issued(systems, series.system))
    return lambda: provider.validate_token(next(ids))


def _read_row(systems: Systems, series: Series) -> Callable[[], object]:
    """A bare read of the rows that :func:`_validate` reads."""
    hashed = functools.partial(opaque_ids.hashed, token.Provider().conf)
    keys = [(hashed(each),) for each in _issued(systems, 'cassandra')]
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
