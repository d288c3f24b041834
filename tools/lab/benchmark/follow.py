# SPDX-License-Identifier: Apache-2.0
"""``tools/benchmark follow``: what following another region costs a server.

Two datacenters of one node each.  The log of one is filled for ten minutes, in
which tokens were revoked all the time; a server of the other one looks at it,
second after second of the log, without waiting between its looks.
"""

from __future__ import annotations

import contextlib
import functools
import time
import uuid
from collections.abc import Callable, Mapping, Sequence

import keystone.conf
from cassandra.concurrent import execute_concurrent
from cassandra.util import uuid_from_time
from keystone.common import cache

from keystone_cassandra_token.compat.caches import KeystoneCaches
from keystone_cassandra_token.db import changes, elsewhere
from keystone_cassandra_token.db.following import EVERY, Follower, Mark
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.drivers import base
from keystone_cassandra_token.drivers.token import events, revoke
from lab import LabError
from lab.benchmark.measure import Sample, Series
from lab.benchmark.run import Run, say
from lab.benchmark.systems import Call
from lab.benchmark.verdict import at_most
from lab.cassandra import Cluster
from lab.server import Keystone, Settings, merge, points_at
from lab.waiting import until

#: Revocations a second.
_RATE = 33
#: Seconds of the log that are there before, and that are looked at.
_BEFORE, _LOOKS = 600, 120
#: Looks that find nothing more of what was there before.
_QUIET = 20
#: Percent of a core.
_LIMIT = 1.0
IDLE, BUSY = 'idle', 'busy'

CALLS: dict[str, Call] = {}


class _Caches(KeystoneCaches):
    """Those of Keystone; they count the changes for which they drop."""

    dropped = 0

    def drop(self, told: Mapping[str, Sequence[changes.Key]]) -> None:
        self.dropped += sum(map(len, told.values()))
        super().drop(told)


def run(under_way: Run) -> None:
    """Start the nodes, fill the log; measure."""
    say('starting two nodes')
    cluster = under_way.enter(Cluster.start(nodes=2, datacenters=2, own=True))
    home = cluster.nodes[0]
    own: Settings = {
        'database': {'cassandra_node_ips': [home.address]},
        'cassandra': {'local_dc': home.datacenter},
        'cache': {'enabled': True, 'backend': 'dogpile.cache.memory'},
    }
    server = Keystone(
        under_way.folder / 'follow',
        merge(points_at(cluster, 'follow'), own),
        sql=False,
    )
    server.stop()
    server.run('keystone-cassandra', 'keyspace', 'create')
    server.run('keystone-cassandra', 'schema', 'apply')
    conf = keystone.conf.CONF
    keystone.conf.configure()
    conf(
        ['--config-file', str(server.configuration)],
        project='keystone',
        default_config_files=[],
    )
    db = base.shared(conf)
    cache.configure_cache()
    cache.configure_invalidation_region()
    with contextlib.closing(db), elsewhere.each_datacenter(db) as stores:
        for phase, rate in (IDLE, 0), (BUSY, _RATE):
            say(f'measuring: {phase}')
            sample = _measure(db, stores[1], rate)
            found = under_way.found
            series = Series(phase, 'look', rate * _BEFORE, 0)
            found.measured.add(series, [sample])
            percent = 100 * sample.cpu / (_LOOKS * EVERY)
            target = f'following {rate} revocations a second, of a core'
            found.verdicts.append(at_most(target, percent, _LIMIT, '%'))
    under_way.found.context['Looks'] = (
        f'{_LOOKS}, one for each second of the log, of which two, as one in a'
        f' minute, are through ten minutes of it. busy: {_RATE} revocations a'
        ' second'
    )


def _measure(db: Store, there: Store, rate: int) -> Sample:
    """Let a server follow; ``there`` is where tokens are revoked."""
    now = time.time()
    _revoke(there, rate, [now - each for each in range(_BEFORE)])
    caches = _Caches(keystone.conf.CONF)
    follower = Follower(db, caches)
    _beat(there, now)
    # As those leave it that were there before: no gap is looked through.
    beat = int(now * 10**6)
    caches.set_mark(there.sessions.get().local_dc, Mark(beat))
    # What was there before is followed first, some of it in each look.
    quiet = 0
    while quiet < _QUIET:
        before = caches.dropped
        follower.look()
        quiet = 0 if caches.dropped > before else quiet + 1
    caches.dropped = 0
    latencies, cpu = [], 0.0
    began = time.monotonic()
    for second in range(1, _LOOKS + 1):
        told = _revoke(there, rate, [now + second])
        _beat(there, now + second)
        # As most have, when a server looks.
        arrived = functools.partial(_have_arrived, db, told)
        until(arrived, 'revocations from elsewhere')
        cpu -= time.process_time()
        latencies.append(-time.perf_counter())
        follower.look()
        latencies[-1] += time.perf_counter()
        cpu += time.process_time()
    if caches.dropped < rate * _LOOKS:
        raise LabError(f'only {caches.dropped} revocations were followed')
    return Sample(tuple(latencies), cpu, began, time.monotonic())


def _have_arrived(db: Store, subjects: list[str]) -> bool:
    found = db.rows(events.CHECK, events.REVOCATION, subjects=subjects)
    return len(found) == len(subjects)


def _beat(there: Store, now: float) -> None:
    here = there.sessions.get().local_dc
    there.run(changes.BEAT, datacenter=here, beat=int(now * 10**6))


def _revoke(there: Store, rate: int, seconds: list[float]) -> list[str]:
    """Revoke tokens, some in each of these seconds; return the subjects."""
    connection = there.sessions.get()
    subjects: list[str] = []

    def written(time_: float) -> list[tuple[object, object]]:
        micros = int(time_ * 10**6)
        row = {
            'subject': f'audit:{uuid.uuid4().hex}',
            'scope': '{}',
            'issued_before': micros,
            'revoked_at': micros,
        }
        entry = {
            'datacenter': connection.local_dc,
            'hour': micros // (3600 * 10**6),
            'id': uuid_from_time(time_),
            'table_name': changes.REVOCATION,
            'key': row | {'end': int(time_) + 7200},
        }
        life = {'ttl': 7200}
        subjects.append(str(row['subject']))
        return [
            (revoke.REVOKE, row | life),
            (changes.ADD, changes.ENTRY.dump(entry) | life),
        ]

    bind: Callable[..., object] = there.bind
    execute_concurrent(
        connection.session,
        [
            (bind(connection, statement, binds), None)
            for second in seconds
            for number in range(rate)
            for statement, binds in written(second + number / rate - 1)
        ],
    )
    return subjects
