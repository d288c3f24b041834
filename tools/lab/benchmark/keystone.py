# SPDX-License-Identifier: Apache-2.0
"""``tools/benchmark keystone``: whole requests, over HTTP.

One Keystone has everything in Cassandra, the other one everything in MariaDB
and Fernet tokens; both are served alike and hold the same.  First a single
worker of each writes down what its requests send to the database; then both
are started anew, and measured in turns.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import itertools
import secrets
import statistics
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import psutil

from lab import statements
from lab.benchmark import calls, events, identity, revocation
from lab.benchmark.calls import OPERATIONS, VALIDATION, Person, Site
from lab.benchmark.clients import Pool
from lab.benchmark.report import Table
from lab.benchmark.run import Run, Turn, say
from lab.benchmark.systems import BOTH, DAY, Call, Place, PlacePool
from lab.benchmark.verdict import MIDDLE, round_trips, times
from lab.client import ADMIN_SCOPE, Client
from lab.people import People, soon
from lab.server import ALL_DRIVERS, REGION, Keystone, merge, points_at
from lab.statements import Trips

#: Live revocations for all requests; validation is measured with more too.
FEW = 10
PEOPLE = 10
GROUPS_OF_A_PERSON = 2
#: Of the domain whose users are listed.
GROUPS = 100
SERVICES = 20
INTERFACES = ('public', 'internal', 'admin')

_WORKERS = 2
#: For both; the smallest value.
_HASH_ROUNDS = 4

_Counted = Mapping[str, Mapping[str, Trips]]


def run(under_way: Run) -> None:
    """Fill the servers, count what goes to the databases, measure."""
    plan = under_way.plan
    pool = under_way.pool('whole', under_way.node, sql=True)
    password = secrets.token_urlsafe(16)
    keystones = {}
    for system in BOTH:
        say(f'bootstrapping Keystone ({system})')
        keystones[system] = _keystone(under_way, system, pool.place)
        under_way.enter(keystones[system])
        keystones[system].bootstrap(password)
        _restart(keystones[system], 1)
    identity.fill_both(under_way, pool, plan.users, GROUPS)
    pool.shrink(0)
    sites = {}
    for system, keystone in keystones.items():
        say(f'filling by requests ({system})')
        sites[system] = fill(keystone.port, password, plan.users)
    # Their tokens were issued now, in the middle of the events' hour.
    middle = events.now() + datetime.timedelta(seconds=MIDDLE)
    place = dataclasses.replace(pool.place, reference=middle)
    _revoke(under_way, place, FEW)
    counted = {
        system: count(keystone, sites[system])
        for system, keystone in keystones.items()
    }
    if plan.statements:
        _keep(plan.statements, keystones)
    _tell(under_way)
    for system, keystone in keystones.items():
        workers = _restart(keystone, _WORKERS)
        sites[system] = dataclasses.replace(sites[system], workers=workers)
    under_way.settle(under_way.node)
    callers = Pool(functools.partial(calls.Callers, plan, sites))
    _measure(under_way, callers, FEW, OPERATIONS)
    memory = _memory(sites)
    _revoke(under_way, place, plan.events)
    under_way.settle(under_way.node)
    _measure(under_way, callers, plan.events, [VALIDATION])
    grown = _memory(sites)
    under_way.found.context['Worker'] = '; '.join(
        f'{system} {rss / 1e6:.0f} MB resident (proportional set'
        f' {pss / 1e6:.0f} MB), after validations with {plan.events}'
        f' revocations {grown[system][0] / 1e6:.0f} MB'
        for system, (rss, pss) in memory.items()
    )
    for name in OPERATIONS:
        trips = (counted[system][name] for system in BOTH)
        under_way.found.verdicts.append(round_trips(name, *trips))
    ours, theirs = (memory[system][0] / 1e6 for system in BOTH)
    target = 'memory of a worker against SQL'
    under_way.found.verdicts.append(times(target, ours, theirs, 1.2, 'MB'))
    under_way.found.tables.append(table(counted))


def _tell(under_way: Run) -> None:
    context = {
        'Keystone': f'gunicorn, {_WORKERS} workers of one thread each,'
        f' password_hash_rounds {_HASH_ROUNDS}; both with the default'
        ' cache, which ends with a request',
        'Content': f'{PEOPLE} people who log in by name, each in'
        f' {GROUPS_OF_A_PERSON} groups; {SERVICES + 1} services,'
        f' {SERVICES * len(INTERFACES) + 3} endpoints;'
        f' {under_way.plan.users} users in the domain that is listed',
        'Live revocations': f'{events.UNRELATED} an hour in whose middle the'
        ' tokens were issued',
    }
    under_way.tell(**context)


def _keystone(under_way: Run, system: str, place: Place) -> Keystone:
    """Make a Keystone, not yet started."""
    common = {
        'identity': {'password_hash_rounds': _HASH_ROUNDS},
        'token': {'expiration': DAY},
    }
    own = {
        'cassandra': (ALL_DRIVERS, points_at(under_way.node, place.name)),
        'sql': ({'database': {'connection': place.database}},),
    }
    return Keystone(
        under_way.folder / f'keystone-{system}',
        merge(common, *own[system]),
        sql=system == 'sql',
        keepalive=DAY,
    )


def _restart(keystone: Keystone, workers: int) -> tuple[str, ...]:
    """Start a server anew and return its workers.

    A single worker writes down its statements, which takes time.
    """
    if keystone.pid:
        keystone.stop()
    keystone.workers = workers
    keystone.environment.pop(statements.VARIABLE, None)
    if workers == 1:
        keystone.environment[statements.VARIABLE] = str(_sent(keystone))
    keystone.start()
    with contextlib.closing(Client(keystone.url, workers)) as client:
        return tuple(client.workers)


def _sent(keystone: Keystone) -> Path:
    """Return the file with the statements of a server."""
    return keystone.directory / 'statements'


# -- filling


def fill(port: int, password: str, users: int) -> Site:
    """Make people, a catalog and what is asked for."""
    with contextlib.closing(Client(f'http://127.0.0.1:{port}', 1)) as client:
        admin = client.log_in('admin', password, **ADMIN_SCOPE).auth_token

        def create(path: str, **body: Any) -> Any:
            return client.call('POST', path, admin, body)

        create(
            '/domains',
            domain={'name': 'listed', 'explicit_domain_id': identity.DOMAIN},
        )
        _fill_catalog(create)
        names = [f'person-{number}' for number in range(PEOPLE)]
        people = People(client, admin, 'measured', names)
        roles = client.request('GET', '/roles', admin).json()['roles']
        reader = next(r['id'] for r in roles if r['name'] == 'reader')
        for number in range(GROUPS_OF_A_PERSON):
            group = {'name': f'group-{number}', 'domain_id': 'default'}
            made = create('/groups', group=group)['id']
            for path in (
                *(
                    f'/groups/{made}/users/{each}'
                    for each in people.ids.values()
                ),
                f'/projects/{people.project}/groups/{made}/roles/{reader}',
            ):
                client.call('PUT', path, admin, None)
        everybody = tuple(
            _person(client, people, name, names[number - 1])
            for number, name in enumerate(names)
        )
        workers = tuple(client.workers)
    return Site(port, workers, admin, 'measured', everybody, users)


def _fill_catalog(create: Callable[..., Any]) -> None:
    for number in range(SERVICES):
        name = f'service-{number}'
        service = create('/services', service={'name': name, 'type': name})
        for interface in INTERFACES:
            endpoint = {
                'service_id': service['id'],
                'interface': interface,
                'region_id': REGION,
                'url': f'https://{interface}.{name}.example/$(project_id)s',
            }
            create('/endpoints', endpoint=endpoint)


def _person(client: Client, people: People, name: str, trustor: str) -> Person:
    token, until = people.log_in(name), soon(DAY)
    trust = people.trust(
        people.log_in(trustor), client, until, trustor, name, uses=None
    )
    credential = people.application_credential(token, client, until, name)
    return Person(name, people.passwords[name], token, trust, credential)


def _revoke(under_way: Run, place: Place, size: int) -> None:
    """Add revocations to both."""
    say(f'loading {size} revocations')
    pool = PlacePool(place)
    revocation.load(pool, under_way.sql, size)
    pool.shrink(0)


# -- counting


def count(keystone: Keystone, site: Site) -> dict[str, Trips]:
    """Return the round trips of each operation, when it is not the first."""
    say(f'counting round trips ({keystone.directory.name})')
    found = {}
    with contextlib.closing(calls.Caller(site, 0)) as caller:
        for operation in OPERATIONS:
            # Each person once before: their names are then looked up.
            for request in itertools.islice(
                calls.requests(site, operation), 2 * PEOPLE
            ):
                caller.send(request)
            sent = statements.read(_sent(keystone))[-PEOPLE:]
            found[operation] = statistics.mode(map(statements.trips, sent))
    return found


def _keep(path: str, keystones: Mapping[str, Keystone]) -> None:
    """Copy what the servers' requests have sent."""
    text = ''.join(
        f'{{"system": "{system}", {line[1:]}\n'
        for system, keystone in keystones.items()
        for line in _sent(keystone).read_text().splitlines()
    )
    Path(path).write_text(text)


def table(counted: _Counted) -> Table:
    """Return the round trips as a table."""
    return Table(
        'Round trips of a request to the database',
        (
            *('system', 'operation', 'statements', 'COMMIT or ROLLBACK'),
            *('pings', 'follow each other'),
        ),
        tuple(
            (system, name, *map(str, dataclasses.astuple(found[name])))
            for name in OPERATIONS
            for system, found in counted.items()
        ),
    )


# -- measuring


def _measure(
    under_way: Run, pool: Pool, size: int, names: Iterable[str]
) -> None:
    for clients in under_way.plan.clients:
        turns: list[Turn] = []
        for name in names:
            age = MIDDLE if name == VALIDATION else 0
            turns += under_way.turns(
                pool, size, [name], age=age, clients=clients
            )
        what = f'{size} revocations with {clients} clients'
        under_way.measure(what, turns)


def _memory(sites: Mapping[str, Site]) -> dict[str, tuple[int, int]]:
    """Return the bytes of the largest worker: resident, and its share."""
    found = {}
    for system, site in sites.items():
        processes = (psutil.Process(int(worker)) for worker in site.workers)
        memory = [each.memory_full_info() for each in processes]
        found[system] = max(m.rss for m in memory), max(m.pss for m in memory)
    return found


CALLS = {name: Call(calls.operation) for name in OPERATIONS}
