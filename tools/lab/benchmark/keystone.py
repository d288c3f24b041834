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
import secrets
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from lab import statements
from lab.benchmark import calls, events, identity, revocation
from lab.benchmark.calls import OPERATIONS, VALIDATION, Callers, Person, Site
from lab.benchmark.clients import Pool
from lab.benchmark.report import Table
from lab.benchmark.run import Run, say
from lab.benchmark.systems import BOTH, DAY, Call, Place
from lab.benchmark.verdict import MIDDLE, Verdict, round_trips, times
from lab.client import ADMIN_SCOPE, Client
from lab.people import People, soon
from lab.server import (
    ALL_DRIVERS,
    REGION,
    Keystone,
    Settings,
    merge,
    points_at,
)
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

_Sites = Mapping[str, Site]
_Keystones = Mapping[str, Keystone]


def run(under_way: Run) -> None:
    """Fill the servers, count what goes to the databases, measure."""
    plan = under_way.plan
    place = under_way.place('whole', under_way.node, sql=True)
    password = secrets.token_urlsafe(16)
    keystones = {}
    for system in BOTH:
        say(f'bootstrapping Keystone ({system})')
        keystones[system] = _keystone(under_way, system, place)
        under_way.enter(keystones[system])
        keystones[system].bootstrap(password)
    _restart(keystones, 1)
    pool = under_way.pool(place)
    identity.fill_both(under_way, pool, place, plan.users, GROUPS)
    sites = {}
    for system, keystone in keystones.items():
        say(f'filling by requests ({system})')
        sites[system] = fill(keystone.port, password, plan.users)
    # Their tokens were issued now, in the middle of the events' hour.
    place = dataclasses.replace(
        place,
        reference=events.now() + datetime.timedelta(seconds=MIDDLE),
    )
    _revoke(under_way, place, FEW)
    counted = {
        system: count(keystone, sites[system])
        for system, keystone in keystones.items()
    }
    if plan.statements:
        _keep(plan.statements, keystones)
    _tell(under_way, pool)
    pool.shrink(0)
    workers = _restart(keystones, _WORKERS)
    sites = {
        system: dataclasses.replace(site, workers=workers[system])
        for system, site in sites.items()
    }
    under_way.settle(under_way.node)
    pool = Pool(functools.partial(Callers, plan, sites))
    _measure(under_way, pool, FEW)
    memory = _memory(sites)
    _revoke(under_way, place, plan.events)
    under_way.settle(under_way.node)
    _measure(under_way, pool, plan.events, [VALIDATION])
    grown = _memory(sites)
    found = under_way.found
    found.context['Worker'] = '; '.join(
        f'{system} {memory[system][0] / 1e6:.0f} MB resident (proportional'
        f' set {memory[system][1] / 1e6:.0f} MB), after validations with'
        f' {plan.events} revocations {grown[system][0] / 1e6:.0f} MB'
        for system in BOTH
    )
    found.verdicts += _verdicts(counted, memory)
    found.tables.append(table(counted))


def _verdicts(
    counted: Mapping[str, Mapping[str, Trips]],
    memory: Mapping[str, tuple[int, int]],
) -> Iterator[Verdict]:
    for name in OPERATIONS:
        yield round_trips(name, *(counted[system][name] for system in BOTH))
    ours, theirs = (memory[system][0] / 1e6 for system in BOTH)
    yield times('memory of a worker against SQL', ours, theirs, 1.2, 'MB')


def _keystone(under_way: Run, system: str, place: Place) -> Keystone:
    """Make a Keystone, not yet started."""
    settings: Settings = {
        'identity': {'password_hash_rounds': _HASH_ROUNDS},
        'token': {'expiration': DAY},
    }
    if system == 'cassandra':
        node = points_at(under_way.node, place.name)
        settings = merge(settings, ALL_DRIVERS, node)
    else:
        database = {'database': {'connection': place.database}}
        settings = merge(settings, database)
    return Keystone(
        Path(under_way.folder, f'keystone-{system}'),
        settings,
        threads=1,
        sql=system == 'sql',
        keepalive=DAY,
    )


def _restart(
    keystones: _Keystones, workers: int
) -> dict[str, tuple[str, ...]]:
    """Start the servers anew and return their workers.

    A single worker writes down its statements, which takes time.
    """
    found = {}
    for system, keystone in keystones.items():
        if keystone.pid:
            keystone.stop()
        keystone.workers = workers
        keystone.environment.pop(statements.VARIABLE, None)
        if workers == 1:
            keystone.environment[statements.VARIABLE] = str(_sent(keystone))
        keystone.start()
        with contextlib.closing(Client(keystone.url, workers)) as client:
            found[system] = tuple(client.workers)
    return found


def _sent(keystone: Keystone) -> Path:
    """Return the file with the statements of a server."""
    return keystone.directory / 'statements'


# -- filling


def fill(port: int, password: str, users: int) -> Site:
    """Make people, a catalog and what is asked for."""
    with contextlib.closing(Client(f'http://127.0.0.1:{port}', 1)) as client:
        admin = client.log_in('admin', password, **ADMIN_SCOPE).auth_token
        domain = {'name': 'listed', 'explicit_domain_id': identity.DOMAIN}
        client.call('POST', '/domains', admin, {'domain': domain})
        _fill_catalog(client, admin)
        names = [f'person-{number}' for number in range(PEOPLE)]
        people = People(client, admin, 'measured', names)
        _fill_groups(client, admin, people)
        made = [
            _person(client, people, name, names[number - 1])
            for number, name in enumerate(names)
        ]
        workers = tuple(client.workers)
    return Site(port, workers, admin, 'measured', tuple(made), users)


def _fill_catalog(client: Client, admin: str) -> None:
    for number in range(SERVICES):
        name = f'service-{number}'
        service = client.call(
            'POST',
            '/services',
            admin,
            {'service': {'name': name, 'type': name}},
        )
        for interface in INTERFACES:
            endpoint = {
                'service_id': service['id'],
                'interface': interface,
                'region_id': REGION,
                'url': f'https://{interface}.{name}.example/$(project_id)s',
            }
            client.call('POST', '/endpoints', admin, {'endpoint': endpoint})


def _fill_groups(client: Client, admin: str, people: People) -> None:
    """Put each person into groups that have a role on the project."""
    roles = client.request('GET', '/roles', admin).json()['roles']
    reader = next(role['id'] for role in roles if role['name'] == 'reader')
    for number in range(GROUPS_OF_A_PERSON):
        group = {'name': f'group-{number}', 'domain_id': 'default'}
        made = client.call('POST', '/groups', admin, {'group': group})['id']
        for user_id in people.ids.values():
            path = f'/groups/{made}/users/{user_id}'
            client.call('PUT', path, admin, None)
        path = f'/projects/{people.project}/groups/{made}/roles/{reader}'
        client.call('PUT', path, admin, None)


def _person(client: Client, people: People, name: str, trustor: str) -> Person:
    token = people.log_in(name)
    until = soon(DAY)
    return Person(
        name,
        people.passwords[name],
        token,
        people.trust(
            people.log_in(trustor), client, until, trustor, name, uses=None
        ),
        people.application_credential(token, client, until, name),
    )


def _revoke(under_way: Run, place: Place, size: int) -> None:
    """Add revocations to both."""
    say(f'loading {size} revocations')
    pool = under_way.pool(place)
    revocation.load(pool, under_way.sql, place, size)
    pool.shrink(0)


# -- counting


def count(keystone: Keystone, site: Site) -> dict[str, Trips]:
    """Return the round trips of each operation, when it is not the first."""
    say(f'counting round trips ({keystone.directory.name})')
    found = {}
    for operation in OPERATIONS:
        # Each person once before: their names are then looked up.
        for _ in range(2):
            calls.send_some(0, site, operation, PEOPLE)
        sent = statements.read(_sent(keystone))[-PEOPLE:]
        found[operation] = statistics.mode(map(statements.trips, sent))
    return found


def _keep(path: str, keystones: _Keystones) -> None:
    """Copy what the servers' requests have sent."""
    text = ''.join(
        f'{{"system": "{system}", {line[1:]}\n'
        for system, keystone in keystones.items()
        for line in _sent(keystone).read_text().splitlines()
    )
    Path(path).write_text(text)


def table(counted: Mapping[str, Mapping[str, Trips]]) -> Table:
    """Return the round trips as a table."""
    return Table(
        'Round trips of a request to the database',
        (
            'system',
            'operation',
            'statements',
            'COMMIT or ROLLBACK',
            'pings',
            'follow each other',
        ),
        tuple(
            (system, name, *map(str, dataclasses.astuple(found[name])))
            for name in OPERATIONS
            for system, found in counted.items()
        ),
    )


# -- measuring


def _measure(
    under_way: Run, pool: Pool, size: int, names: Sequence[str] = ()
) -> None:
    for clients in under_way.plan.clients:
        turns = [
            turn
            for name in names or OPERATIONS
            for turn in under_way.turns(
                pool,
                size,
                [name],
                age=MIDDLE if name == VALIDATION else 0,
                clients=clients,
            )
        ]
        what = f'{size} revocations with {clients} clients'
        under_way.measure(what, turns)


def _memory(sites: _Sites) -> dict[str, tuple[int, int]]:
    """Return the bytes of the largest worker: resident, and its share."""
    found = {}
    for system, site in sites.items():
        memory = [
            psutil.Process(int(worker)).memory_full_info()
            for worker in site.workers
        ]
        found[system] = (
            max(each.rss for each in memory),
            max(each.pss for each in memory),
        )
    return found


def _tell(under_way: Run, pool: Pool) -> None:
    under_way.tell(
        pool,
        **{
            'Keystone': f'gunicorn, {_WORKERS} workers of one thread each,'
            f' password_hash_rounds {_HASH_ROUNDS}; both with the default'
            ' cache, which ends with a request',
            'Content': f'{PEOPLE} people who log in by name, each in'
            f' {GROUPS_OF_A_PERSON} groups; {SERVICES + 1} services,'
            f' {SERVICES * len(INTERFACES) + 3} endpoints;'
            f' {under_way.plan.users} users in the domain that is listed',
            'Live revocations': f'{events.UNRELATED} an hour in whose middle'
            ' the tokens were issued',
        },
    )


CALLS = {name: Call(calls.operation) for name in OPERATIONS}
