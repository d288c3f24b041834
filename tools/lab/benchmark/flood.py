# SPDX-License-Identifier: Apache-2.0
"""A flood of short tokens, and what the disk has of it after their life.

Keystone's defaults, a hundred and twenty times faster: a window of two hours
becomes one minute (the shortest there is), a life of one hour thirty seconds,
and so on.  Nothing flushes tokens and nothing asks for a compaction; that
memtables are flushed once after the flood only makes all of it visible on
the disk.
"""

from __future__ import annotations

import dataclasses
import glob
import os
import time

from keystone_cassandra_token.drivers.token import provider as token
from lab.benchmark.clients import Pool
from lab.benchmark.stage import flush, make_keyspace, say
from lab.benchmark.systems import Order, Place, Systems, prepare, run
from lab.benchmark.verdict import Verdict
from lab.cassandra import Cluster

TOKENS = 200_000
SCALE = 120
LIFETIME = 3600 // SCALE
GRACE = 10_800 // SCALE
#: How often the strategy looks for expired SSTables: seconds; 600 unscaled.
CHECK = 600 // SCALE

#: Cassandra itself looks after each table every minute, the first time five
#: minutes after its start; this much later the SSTables must be gone.
_PATIENCE = 400

_CLIENTS = 4


@dataclasses.dataclass(frozen=True)
class Disk:
    """SSTables of a table, and the bytes of all their files."""

    sstables: int
    size: int

    def __str__(self) -> str:
        return f'{self.sstables} SSTables, {self.size / 2**20:.1f} MiB'


class Flood:
    """The flood, in a keyspace of its own."""

    def __init__(self, folder: str, cluster: Cluster, tokens: int) -> None:
        self._cluster = cluster
        self._tokens = tokens
        self._place = Place(
            folder,
            'flood',
            tuple(cluster.contact_points),
            cluster.port,
            allow_expired=0,
        )
        make_keyspace(self._place)
        self._pool = Pool(lambda: Systems(self._place))
        self._pool.call(scale)
        self._end = 0.0
        self._before = Disk(0, 0)
        self._rate = 0.0

    def pour(self) -> None:
        """Issue the tokens through the driver, by several processes."""
        say(f'issuing {self._tokens} tokens of {LIFETIME} s')
        order = Order(
            'issue',
            ('cassandra', LIFETIME),
            -(-self._tokens // _CLIENTS),
            float('inf'),
        )
        self._pool.share(prepare, [(order,)] * _CLIENTS)
        began = time.monotonic()
        self._pool.measure(run, _CLIENTS, order)
        self._end = time.monotonic()
        self._rate = self._tokens / (self._end - began)
        flush(self._cluster)
        self._before = self.disk()
        say(f'on the disk: {self._before}')
        self._pool.shrink(1)

    def ebb(self) -> tuple[Verdict, dict[str, str]]:
        """Wait until the SSTables are gone, or should have been."""
        say('waiting for the SSTables of the expired tokens to drop')
        deadline = self._end + LIFETIME + GRACE + _PATIENCE
        while self.disk().sstables and time.monotonic() < deadline:
            time.sleep(1)
        after = self.disk()
        seconds = time.monotonic() - self._end
        compactions = self._pool.call(compactions_of_tokens)
        verdict = Verdict(
            f'SSTables of {self._tokens} short tokens drop by themselves',
            'none left',
            f'before: {self._before}; {seconds:.0f} s after the last token:'
            f' {after}',
            after.sstables == 0,
        )
        return verdict, {
            'Flood': f'{self._tokens} tokens of {LIFETIME} s through'
            f" {_CLIENTS} processes at {self._rate:.0f}/s; Cassandra's"
            f' times divided by {SCALE}: window 1 min, gc_grace_seconds'
            f' {GRACE}, expired_sstable_check_frequency_seconds {CHECK};'
            f' no token flush, no compaction asked for'
            f' ({compactions} minor ones within windows)',
        }

    def disk(self) -> Disk:
        """Return what the node has of the token table on its disk."""
        folders = os.path.join(
            self._cluster.nodes[0].directory,
            '**',
            self._place.name,
            'token-*',
        )
        size = sstables = 0
        for folder in glob.glob(folders, recursive=True):
            for entry in os.scandir(folder):
                if entry.is_file():
                    size += _size(entry.path)
                    sstables += entry.name.endswith('-Data.db')
        return Disk(sstables, size)


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
