# SPDX-License-Identifier: Apache-2.0
"""``tools/benchmark hang``: requests while one node of three hangs.

Its connections stay open, and nothing answers (SIGSTOP).  A Keystone with
everything in Cassandra is asked all the time: before; from the moment on in
which the node stops; once the heartbeats have found that out; and once the
node has gone on.
"""

from __future__ import annotations

import secrets

from lab.benchmark.measure import Sample, Series
from lab.benchmark.run import Run, say
from lab.benchmark.systems import Call
from lab.benchmark.verdict import at_most
from lab.cassandra import Cluster
from lab.load import HEALTH, LOG_IN, VALIDATION, Load
from lab.server import ALL_DRIVERS, Keystone, Settings, merge, points_at
from lab.waiting import until

_WARM = 'warming up'
BEFORE, HUNG, DOWN, AFTER = 'before', 'hung', 'down', 'after'
_OPERATIONS = (LOG_IN, VALIDATION, HEALTH)
#: Seconds of the slowest of a hundred requests while a node hangs.
_LIMIT = 1.0
_HASH_ROUNDS = 4


def run(under_way: Run) -> None:
    """Start nodes and a server; measure."""
    say('starting three nodes')
    cluster = under_way.enter(Cluster.start(nodes=3, own=True))
    home = under_way.folder / 'home'
    (home / '.keystone').mkdir(parents=True)
    # Its middleware reads nothing but default files.
    (home / '.keystone' / 'keystone.conf').write_text(
        '[healthcheck]\nbackends = cassandra\n'
    )
    own: Settings = {
        'identity': {'password_hash_rounds': _HASH_ROUNDS},
        'token': {'caching': False},
    }
    keystone = Keystone(
        under_way.folder / 'keystone',
        merge(ALL_DRIVERS, points_at(cluster, 'keystone'), own),
        sql=False,
        environment={'HOME': str(home)},
    )
    under_way.enter(keystone)
    password = secrets.token_urlsafe(16)
    keystone.run('keystone-cassandra', 'keyspace', 'create')
    keystone.run('keystone-cassandra', 'schema', 'apply')
    keystone.bootstrap(password)
    keystone.start()
    count = under_way.plan.requests
    with Load(keystone, password, _OPERATIONS) as load:
        say('warming up')
        load.during(_WARM, count)
        say('measuring before')
        load.during(BEFORE, count)
        cluster.nodes[1].pause()
        say('measuring while a node hangs')
        load.during(HUNG, count)
        until(
            lambda: 'Heartbeat failed' in keystone.log(), 'a failed heartbeat'
        )
        load.during(DOWN, count)
        cluster.nodes[1].resume()
        say('measuring after')
        load.during(AFTER, count)
    _note(under_way, load)


def _note(under_way: Run, load: Load) -> None:
    """Add what came out."""
    found = under_way.found
    for phase in (BEFORE, HUNG, DOWN, AFTER):
        for operation in _OPERATIONS:
            seconds = load.seconds(operation, phase)
            sample = Sample(tuple(seconds), 0.0, 0.0, sum(seconds))
            found.measured.add(Series(phase, operation, 0, 0), [sample])
    for operation in _OPERATIONS:
        p99 = found.measured.figures(Series(HUNG, operation, 0, 0)).p99
        target = f'{operation} while a node of three hangs, p99'
        found.verdicts.append(at_most(target, p99, _LIMIT, 's'))
    # A new worker connects first, and a health check does not wait for it.
    refused = [each for each in load.refused() if each.phase != _WARM]
    for each in refused:
        say(f'{each.phase}: {each.operation}: {each.status} {each.text}')
    found.verdicts.append(
        at_most('answers that tell an error', len(refused), 0, 'answers')
    )
    found.context.update(
        {
            'Nodes': 'three with 3 replicas, on loopback addresses; one is'
            ' stopped with SIGSTOP',
            'Keystone': 'gunicorn, two workers of one thread each,'
            f' password_hash_rounds {_HASH_ROUNDS}, no cache; one client for'
            ' each operation, all at once',
        }
    )


CALLS: dict[str, Call] = {}
