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
import multiprocessing
import secrets
import statistics
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from lab import statements
from lab.benchmark import calls, events, identity, load, stage, worker
from lab.benchmark.calls import OPERATIONS, VALIDATION, Callers, Person, Site
from lab.benchmark.clients import Pool
from lab.benchmark.measure import Measurements, Series
from lab.benchmark.report import Found, Table
from lab.benchmark.stage import Turn, say, take_turns
from lab.benchmark.systems import Order, Place, Systems
from lab.benchmark.verdict import MIDDLE, Verdict, round_trips, times
from lab.cassandra import Cluster
from lab.client import ADMIN_SCOPE, Client
from lab.mariadb import MariaDB
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

SYSTEMS = ('cassandra', 'sql')
#: Live revocations for all requests; validation is measured with more too.
FEW = 10
PEOPLE = 10
GROUPS_OF_A_PERSON = 2
#: Of the domain whose users are listed.
GROUPS = 100
SERVICES = 20
INTERFACES = ('public', 'internal', 'admin')

_WORKERS = 2
_THREADS = 4
_HASH_ROUNDS = 4
#: Connections wait for their turns.
_KEEPALIVE = 3600
#: With several clients a turn has many more requests.
_ROUNDS_OF_MANY = 2

_Sites = Mapping[str, Site]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to measure.

    :ivar users: of the domain whose users are listed.
    :ivar events: revocations with which validation is measured again.
    :ivar clients: numbers of client processes, 1 among them.
    :ivar rounds: how often each series has its turn.
    :ivar seconds: of a turn.
    """

    users: int = 10_000
    events: int = 100_000
    clients: tuple[int, ...] = (1, 16)
    rounds: int = 5
    seconds: float = 2.0


def run(plan: Plan, statements_file: str | None = None) -> Found:
    """Start the servers, fill them, measure.

    The verdicts are those that no row tells.

    :param statements_file: where to write what requests sent.
    """
    measured = Measurements()
    with contextlib.ExitStack() as servers:
        server, cluster, place = servers.enter_context(stage.both('whole'))
        systems = Pool(lambda: Systems(place))
        helper = Pool(lambda: None)
        password = secrets.token_urlsafe(16)
        keystones = {}
        for system in SYSTEMS:
            say(f'bootstrapping Keystone ({system})')
            keystones[system] = _keystone(system, place, cluster)
            servers.callback(keystones[system].stop)
            keystones[system].bootstrap(password)
        # Before any client is forked, which would keep their sockets open.
        _restart(keystones, 1)
        sites = _fill(plan, systems, helper, keystones, password)
        # Their tokens were issued now, in the middle of the events' hour.
        reference = datetime.datetime.now(datetime.UTC).replace(
            tzinfo=None, microsecond=0
        ) + datetime.timedelta(seconds=MIDDLE)
        _revoke(systems, server, place, FEW, reference)
        counted = {
            system: count(helper, keystone, sites[system])
            for system, keystone in keystones.items()
        }
        if statements_file:
            _keep(statements_file, keystones)
        context = _context(plan, systems, server)
        helper.shrink(0)
        systems.shrink(0)
        workers = _restart(keystones, _WORKERS)
        sites = {
            system: dataclasses.replace(site, workers=workers[system])
            for system, site in sites.items()
        }
        _first_requests(sites)
        pool = Pool(_numbered(sites))
        _settle(cluster)
        _measure(measured, plan, pool, FEW, tuple(OPERATIONS))
        memory = {system: _memory(sites[system]) for system in SYSTEMS}
        _revoke(systems, server, place, plan.events, reference)
        systems.shrink(0)
        _settle(cluster)
        _measure(measured, plan, pool, plan.events, (VALIDATION,))
        context['Worker'] = _told(memory, sites, plan)
    return Found(
        measured, context, list(_verdicts(counted, memory)), [table(counted)]
    )


def _verdicts(
    counted: Mapping[str, Mapping[str, Trips]],
    memory: Mapping[str, tuple[int, int]],
) -> Iterator[Verdict]:
    for name in OPERATIONS:
        yield round_trips(name, *(counted[system][name] for system in SYSTEMS))
    ours, theirs = (memory[system][0] / 1e6 for system in SYSTEMS)
    yield times('memory of a worker against SQL', ours, theirs, 1.2, 'MB')


def _keystone(system: str, place: Place, cluster: Cluster) -> Keystone:
    """Make a Keystone, not yet started."""
    settings: Settings = {'identity': {'password_hash_rounds': _HASH_ROUNDS}}
    if system == 'cassandra':
        settings = merge(settings, ALL_DRIVERS, points_at(cluster, place.name))
    else:
        settings = merge(
            settings, {'database': {'connection': place.database}}
        )
    return Keystone(
        Path(place.directory, system),
        settings,
        threads=_THREADS,
        sql=system == 'sql',
        keepalive=_KEEPALIVE,
    )


def _restart(
    keystones: Mapping[str, Keystone], workers: int
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
        client = Client(keystone.url, workers)
        found[system] = tuple(client.workers)
        client.close()
    return found


def _sent(keystone: Keystone) -> Path:
    """Return the file with the statements of a server."""
    return keystone.directory / 'statements'


def _numbered(sites: _Sites) -> Callable[[], Callers]:
    """Return what a client calls, each with another number."""
    last = multiprocessing.get_context('fork').Value('i', -1)

    def make() -> Callers:
        with last.get_lock():
            last.value += 1
            return Callers(sites, last.value)

    return make


def _fill(
    plan: Plan,
    systems: Pool,
    helper: Pool,
    keystones: Mapping[str, Keystone],
    password: str,
) -> _Sites:
    """Fill both, what is many in bulk and the rest by requests."""
    for function in (identity.fill_sql, identity.fill_cassandra):
        say(f'{function.__name__}: {plan.users} users')
        systems.call(function, plan.users, GROUPS)
    sites = {}
    for system, keystone in keystones.items():
        say(f'filling by requests ({system})')
        sites[system] = helper.call(fill, keystone.port, password, plan.users)
    return sites


def fill(_: object, port: int, password: str, users: int) -> Site:
    """Make people, a catalog and what is asked for; what a client does."""
    client = Client(f'http://127.0.0.1:{port}', 1)
    try:
        admin = client.log_in('admin', password, **ADMIN_SCOPE).auth_token
        client.call(
            'POST',
            '/domains',
            admin,
            {
                'domain': {
                    'name': 'listed',
                    'explicit_domain_id': identity.DOMAIN,
                }
            },
        )
        _fill_catalog(client, admin)
        names = [f'person-{number}' for number in range(PEOPLE)]
        people = People(client, admin, 'measured', names)
        _fill_groups(client, admin, people)
        made = [
            _person(client, people, name, names[number - 1])
            for number, name in enumerate(names)
        ]
        return Site(
            port,
            tuple(client.workers),
            admin,
            'measured',
            tuple(made),
            users,
        )
    finally:
        client.close()


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
    return Person(
        name,
        people.passwords[name],
        token,
        people.trust(
            people.log_in(trustor),
            client,
            soon(24 * 3600),
            trustor,
            name,
            uses=None,
        ),
        people.application_credential(token, client, soon(24 * 3600), name),
    )


def _revoke(
    pool: Pool,
    server: MariaDB,
    place: Place,
    size: int,
    reference: datetime.datetime,
) -> None:
    """Add revocations to both, and check that they count."""
    say(f'loading {size} revocations')
    pool.call(load.load_cassandra, size, reference, 0, 1)
    load.load_sql(server, place.name, size, reference)
    for system in SYSTEMS:
        pool.call(load.verify, system, size, reference)


def count(helper: Pool, keystone: Keystone, site: Site) -> dict[str, Trips]:
    """Return the round trips of each operation, when it is not the first."""
    say(f'counting round trips ({keystone.directory.name})')
    found = {}
    for operation in OPERATIONS:
        # Each person once before: their names are then looked up.
        for _ in range(2):
            helper.call(calls.send_some, site, operation, PEOPLE)
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


def _first_requests(sites: _Sites) -> None:
    """Send each worker a request alone.

    Keystone's enforcer is in use before its rules are complete: of several
    first requests at once, some get 403.
    """
    for site in sites.values():
        for number in range(len(site.workers)):
            calls.send_some(number, site, VALIDATION, 1)


def _settle(cluster: Cluster) -> None:
    stage.flush(cluster)
    stage.settle(cluster)


def _measure(
    measured: Measurements,
    plan: Plan,
    pool: Pool,
    size: int,
    operations: tuple[str, ...],
) -> None:
    for clients in sorted(plan.clients):
        say(f'measuring {size} revocations with {clients} clients')
        turns = [
            Turn(
                Series(
                    system,
                    name,
                    size,
                    MIDDLE if name == VALIDATION else 0,
                    clients,
                ),
                pool,
                Order(
                    f'keystone: {name}',
                    (system,),
                    count=10**9,
                    seconds=plan.seconds,
                ),
            )
            for name in operations
            for system in SYSTEMS
        ]
        rounds = plan.rounds if clients == 1 else _ROUNDS_OF_MANY
        take_turns(measured, turns, min(rounds, plan.rounds))


def _memory(site: Site) -> tuple[int, int]:
    """Return the bytes of the largest worker: resident, and its share."""
    return (
        max(map(worker.resident, site.workers)),
        max(map(worker.share, site.workers)),
    )


def _told(
    memory: Mapping[str, tuple[int, int]], sites: _Sites, plan: Plan
) -> str:
    grown = {system: _memory(site) for system, site in sites.items()}
    return '; '.join(
        f'{system} {memory[system][0] / 1e6:.0f} MB resident (proportional'
        f' set {memory[system][1] / 1e6:.0f} MB), after validations with'
        f' {plan.events} revocations {grown[system][0] / 1e6:.0f} MB'
        for system in SYSTEMS
    )


def _context(plan: Plan, pool: Pool, server: MariaDB) -> dict[str, str]:
    found = server.settings()
    return {
        **stage.context(pool),
        'MariaDB': f'{found["version"]}, innodb_flush_log_at_trx_commit'
        f' {found["innodb_flush_log_at_trx_commit"]}',
        'Keystone': f'gunicorn, {_WORKERS} workers of {_THREADS} threads,'
        f' password_hash_rounds {_HASH_ROUNDS}; both with the default cache,'
        ' which ends with a request',
        'Content': f'{PEOPLE} people who log in by name, each in'
        f' {GROUPS_OF_A_PERSON} groups; {SERVICES + 1} services,'
        f' {SERVICES * len(INTERFACES) + 3} endpoints; {plan.users} users in'
        ' the domain that is listed',
        'Live revocations': f'{events.UNRELATED} an hour in whose middle the'
        ' tokens were issued',
    }
