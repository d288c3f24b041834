# SPDX-License-Identifier: Apache-2.0
"""A flood of short tokens, and what the disk has of it after their life.

Keystone's defaults, a hundred and twenty times faster: a window of two hours
becomes one minute (the shortest there is), a life of one hour thirty seconds,
and so on.  Nothing flushes tokens and nothing asks for a compaction; that
memtables are flushed once after the flood only makes all of it visible on
the disk.
"""

from __future__ import annotations

import glob
import os
import time
from typing import NamedTuple

from keystone_cassandra_token.drivers.token import provider as token
from lab.benchmark.clients import Pool
from lab.benchmark.measure import Series
from lab.benchmark.run import Run, say
from lab.benchmark.systems import Systems, prepare, run
from lab.benchmark.verdict import Verdict
from lab.waiting import WaitedInVain, until

SCALE = 120
LIFETIME = 3600 // SCALE
GRACE = 10_800 // SCALE
#: How often the strategy looks for expired SSTables: seconds; 600 unscaled.
CHECK = 600 // SCALE

#: Cassandra itself looks after each table every minute, the first time five
#: minutes after its start; this much later the SSTables must be gone.
_PATIENCE = 400

_CLIENTS = 4


class Disk(NamedTuple):
    """SSTables of a table, and the bytes of all their files."""

    sstables: int
    size: int

    def __str__(self) -> str:
        return f'{self.sstables} SSTables, {self.size / 2**20:.1f} MiB'


class Flood:
    """The flood, in a keyspace of its own; made, its tokens are issued."""

    def __init__(self, under_way: Run) -> None:
        self._found = under_way.found
        self._node = under_way.node.nodes[0]
        self._tokens = under_way.plan.flood
        place = under_way.place(
            'flood', under_way.node, window=0, lifetime=LIFETIME
        )
        self._pool = under_way.pool(place)
        self._pool.call(scale)
        say(f'issuing {self._tokens} tokens of {LIFETIME} s')
        self._rate = issue(self._pool, self._tokens, _CLIENTS)
        self._end = time.monotonic()
        self._node.nodetool('flush')
        self._before = self.disk()
        say(f'on the disk: {self._before}')
        self._pool.shrink(1)

    def ebb(self) -> None:
        """Wait until the SSTables are gone, or should have been."""
        say('waiting for the SSTables of the expired tokens to drop')
        end = self._end + LIFETIME + GRACE + _PATIENCE
        try:
            until(
                lambda: not self.disk().sstables,
                'the SSTables to drop',
                end - time.monotonic(),
            )
        except WaitedInVain as error:
            say(str(error))
        after = self.disk()
        seconds = time.monotonic() - self._end
        compactions = self._pool.call(compactions_of_tokens)
        self._found.verdicts.append(
            Verdict(
                f'SSTables of {self._tokens} short tokens drop by themselves',
                'none left',
                f'before: {self._before}; {seconds:.0f} s after the last'
                f' token: {after}',
                after.sstables == 0,
            )
        )
        self._found.context['Flood'] = (
            f'{self._tokens} tokens of {LIFETIME} s through'
            f" {_CLIENTS} processes at {self._rate:.0f}/s; Cassandra's"
            f' times divided by {SCALE}: window 1 min, gc_grace_seconds'
            f' {GRACE}, expired_sstable_check_frequency_seconds {CHECK};'
            f' no token flush, no compaction asked for'
            f' ({compactions} minor ones within windows)'
        )

    def disk(self) -> Disk:
        """Return what the node has of the token table on its disk."""
        pattern = os.path.join(
            glob.escape(self._node.directory), '**', 'flood', 'token-*', '*'
        )
        files = glob.glob(pattern, recursive=True)
        sstables = sum(name.endswith('-Data.db') for name in files)
        return Disk(sstables, sum(map(_size, files)))


def issue(pool: Pool, tokens: int, clients: int) -> float:
    """Issue many tokens through the driver; return how many in a second."""
    series = Series('cassandra', 'issue', tokens, 0, clients)
    pool.share(prepare, [(series,)] * clients)
    share = -(-tokens // clients)
    began = time.monotonic()
    pool.measure(run, clients, series, share, float('inf'))
    return tokens / (time.monotonic() - began)


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


def compactions_of_tokens(systems: Systems) -> int:
    """Return how many compactions of the table put SSTables together."""
    found = systems.bare.execute(
        'SELECT keyspace_name, columnfamily_name FROM'
        ' system.compaction_history'
    )
    wanted = (systems.place.name, token.INSERT.table)
    return sum(tuple(row) == wanted for row in found)


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except FileNotFoundError:
        return 0  # dropped while it was looked at
