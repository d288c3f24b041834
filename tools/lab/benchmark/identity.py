# SPDX-License-Identifier: Apache-2.0
"""``tools/benchmark identity``: users, groups and credentials.

Both systems are filled with the same users in bulk; what is measured goes
through the drivers.  Checking and making a hash of a password, which takes a
third of a second by design and the same in both, is left out.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import random
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from keystone.application_credential.backends import sql as sql_app_cred
from keystone.common import password_hashing
from keystone.common.driver_hints import Hints
from keystone.credential.backends import sql as sql_credential
from keystone.federation.backends import sql as sql_federation
from keystone.identity.backends import sql as sql_identity
from keystone.identity.backends import sql_model

from keystone_cassandra_token.db import clock
from keystone_cassandra_token.drivers import application_credential, credential
from keystone_cassandra_token.drivers.identity import driver as identity
from keystone_cassandra_token.drivers.identity import (
    groups,
    memberships,
    users,
)
from keystone_cassandra_token.tables.index import SHARDS, shard_of
from lab.benchmark import fill, stage, systems
from lab.benchmark.clients import Pool
from lab.benchmark.measure import Measurements, Series
from lab.benchmark.stage import Turn, say, take_turns
from lab.benchmark.systems import Order, Systems
from lab.cassandra import Cluster

DOMAIN = uuid.uuid5(uuid.NAMESPACE_OID, 'domain').hex
HASH = '$2b$12$' + 53 * 'x'
#: Users that are in groups and have credentials; these are asked for.
ASKED = 1000
GROUPS_OF_A_USER = 20
PAGE = 100
#: Ids of SQL's local users, behind those that a bootstrap makes.
_LOCAL = 1_000_000

#: The tables of Keystone's SQL drivers that are needed.
MODELS = (
    sql_federation.IdentityProviderModel,
    sql_federation.FederationProtocolModel,
    sql_model.User,
    sql_model.LocalUser,
    sql_model.Password,
    sql_model.FederatedUser,
    sql_model.NonLocalUser,
    sql_model.Group,
    sql_model.UserGroupMembership,
    sql_model.ExpiringUserGroupMembership,
    sql_model.UserOption,
    sql_credential.CredentialModel,
    sql_app_cred.ApplicationCredentialModel,
    sql_app_cred.ApplicationCredentialRoleModel,
    sql_app_cred.AccessRuleModel,
    sql_app_cred.ApplicationCredentialAccessRuleModel,
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to measure.

    :ivar users: of one domain.
    :ivar groups: of the same domain.
    :ivar clients: numbers of client processes, 1 among them.
    :ivar rounds: how often each series has its turn.
    :ivar count: operations in each turn, at most.
    """

    users: int = 100_000
    groups: int = 10_000
    clients: tuple[int, ...] = (1,)
    rounds: int = 6
    count: int = 200


def run(plan: Plan) -> tuple[Measurements, dict[str, str]]:
    """Start the servers, fill them, measure; return figures and context."""
    measured = Measurements()
    with stage.both('people') as (server, cluster, place):
        pool = Pool(lambda: Systems(place))
        for function in (fill_sql, fill_cassandra):
            say(f'{function.__name__}: {plan.users} users')
            pool.call(function, plan.users, plan.groups)
        for system in ('sql', 'cassandra'):
            pool.call(add_credentials, system)
        stage.flush(cluster)
        stage.settle(cluster)
        context = stage.context(pool)
        found = server.settings()
        context['MariaDB'] = (
            f'{found["version"]}, innodb_flush_log_at_trx_commit'
            f' {found["innodb_flush_log_at_trx_commit"]}'
        )
        context['People'] = (
            f'{plan.users} users and {plan.groups} groups in one domain;'
            f' {ASKED} users are in {GROUPS_OF_A_USER} groups each and have'
            ' a credential and an application credential'
        )
        context['Partitions'] = sizes(cluster, place.name, plan)
        for clients in sorted(plan.clients):
            say(f'measuring with {clients} clients')
            turns = [
                Turn(
                    Series(system, name, plan.users, 0, clients),
                    pool,
                    Order(
                        f'identity: {name}',
                        (system, plan.users, plan.groups),
                        plan.count,
                    ),
                )
                for name, (_, measures) in OPERATIONS.items()
                for system in measures
            ]
            take_turns(measured, turns, plan.rounds)
    return measured, context


def sizes(cluster: Cluster, keyspace: str, plan: Plan) -> str:
    """Return how large partitions are, and with a million users would be."""
    rows = collections.Counter(
        shard_of(user_id(number)) for number in range(plan.users)
    )
    most = max(rows.values())
    measured = stage.largest_partition(cluster, f'{keyspace}.user_by_domain')
    row = stage.largest_partition(cluster, f'{keyspace}.user')
    each = measured / most
    million = each * 1_000_000 / SHARDS
    return (
        f'{most} of {plan.users} users are in the largest of {SHARDS} shards'
        f' of user_by_domain, {measured} bytes, {each:.1f} for each; of'
        f' 1000000 users a shard would be {million / 1e6:.1f} MB. The largest'
        f' row of user is {row} bytes'
    )


def user_id(number: int) -> str:
    """Return the id of a user; ids are in no order."""
    return uuid.uuid5(uuid.NAMESPACE_OID, f'user {number}').hex


def group_id(number: int) -> str:
    """Return the id of a group."""
    return uuid.uuid5(uuid.NAMESPACE_OID, f'group {number}').hex


def groups_of(number: int, of: int) -> list[str]:
    """Return the ids of the groups of a user who is asked for."""
    chosen = random.Random(number).sample(range(of), GROUPS_OF_A_USER)
    return [group_id(each) for each in chosen]


def fill_sql(found: Systems, count: int, group_count: int) -> None:
    """Fill MariaDB; what a client does."""
    database = fill.Database(found, *MODELS)
    now = clock.utcnow()
    micros = clock.to_micros(now)
    numbers = range(count)
    database.insert(
        sql_model.User,
        (
            {
                'id': user_id(n),
                'domain_id': DOMAIN,
                'enabled': True,
                'created_at': now,
                'extra': {},
            }
            for n in numbers
        ),
    )
    database.insert(
        sql_model.LocalUser,
        (
            {
                'id': _LOCAL + n,
                'user_id': user_id(n),
                'domain_id': DOMAIN,
                'name': f'user-{n}',
            }
            for n in numbers
        ),
    )
    database.insert(
        sql_model.Password,
        (
            {
                'local_user_id': _LOCAL + n,
                'password_hash': HASH,
                'created_at': now,
                'created_at_int': clock.from_micros(micros),
                'self_service': False,
            }
            for n in numbers
        ),
    )
    database.insert(
        sql_model.Group,
        (
            {
                'id': group_id(n),
                'domain_id': DOMAIN,
                'name': f'group-{n}',
                'extra': {},
            }
            for n in range(group_count)
        ),
    )
    database.insert(
        sql_model.UserGroupMembership,
        (
            {'user_id': user_id(n), 'group_id': each}
            for n in numbers[:ASKED]
            for each in groups_of(n, group_count)
        ),
    )
    database.close()


def fill_cassandra(found: Systems, count: int, group_count: int) -> None:
    """Fill Cassandra, with plain writes; what a client does."""
    db = _driver(found, 'cassandra', 'identity').db
    stored = [
        {
            'hash': HASH,
            'created_at': clock.to_micros(clock.utcnow()),
            'expires_at': None,
            'self_service': False,
        }
    ]
    people = (
        users.USERS.entity.new(
            {
                'id': user_id(number),
                'domain_id': DOMAIN,
                'enabled': True,
                'local_name': f'user-{number}',
                'created_at': clock.utcnow(),
                'lock_epoch': 0,
                'passwords': stored,
            }
        )
        for number in range(count)
    )
    fill.write_named(found, db, users.USERS, people)
    some_groups = (
        groups.GROUPS.entity.new(
            {
                'id': group_id(number),
                'domain_id': DOMAIN,
                'name': f'group-{number}',
            }
        )
        for number in range(group_count)
    )
    fill.write_named(found, db, groups.GROUPS, some_groups)
    joined = [
        {
            'user_id': user_id(n),
            'group_id': each,
            'incarnation': clock.incarnation(),
        }
        for n in range(min(ASKED, count))
        for each in groups_of(n, group_count)
    ]
    fill.write(found, memberships.MEMBERSHIPS.insert, joined)
    fill.write(
        found,
        memberships.MEMBERSHIPS.insert_listed,
        (each | {'shard': shard_of(each['user_id'])} for each in joined),
    )


def add_credentials(found: Systems, system: str) -> None:
    """Give the users who are asked for what they have, by the drivers."""
    _without_hashing()
    credentials = _driver(found, system, 'credential')
    app_creds = _driver(found, system, 'application_credential')
    for number in range(ASKED):
        made = {
            'id': user_id(number),
            'user_id': user_id(number),
            'type': 'ec2',
            'encrypted_blob': 'x' * 200,
            'key_hash': 'hash',
        }
        credentials.create_credential(made['id'], made)
        app_creds.create_application_credential(
            {
                'id': user_id(number),
                'user_id': user_id(number),
                'name': 'name',
                'secret': 'secret',
                'project_id': 'project',
            },
            [{'id': 'role'}],
        )


_DRIVERS: dict[str, dict[str, Callable[[], Any]]] = {
    'cassandra': {
        'identity': identity.Identity,
        'credential': credential.Credential,
        'application_credential': (
            application_credential.ApplicationCredential
        ),
    },
    'sql': {
        'identity': sql_identity.Identity,
        'credential': sql_credential.Credential,
        'application_credential': sql_app_cred.ApplicationCredential,
    },
}


def _driver(found: Systems, system: str, kind: str) -> Any:
    return _DRIVERS[system][kind]()


def _without_hashing() -> None:
    password_hashing.check_password = lambda *_: True
    password_hashing.hash_password = lambda _: HASH


def _asked() -> Iterator[int]:
    return itertools.cycle(random.Random(1).sample(range(ASKED), ASKED))


def _read(method: str, kind: str = 'identity') -> Any:
    """An operation that asks for one user's thing by id."""

    def make(
        found: Systems, system: str, count: int, group_count: int
    ) -> Callable[[], object]:
        _without_hashing()
        call = getattr(_driver(found, system, kind), method)
        more = {
            'authenticate': ('secret',),
            'list_groups_for_user': (Hints(),),
        }.get(method, ())
        numbers = _asked()
        return lambda: call(user_id(next(numbers)), *more)

    return make


def by_name(
    found: Systems, system: str, count: int, group_count: int
) -> Callable[[], object]:
    """A look-up by name."""
    driver = _driver(found, system, 'identity')
    numbers = _asked()
    return lambda: driver.get_user_by_name(f'user-{next(numbers)}', DOMAIN)


def create(
    found: Systems, system: str, count: int, group_count: int
) -> Callable[[], object]:
    """The creation of a user."""
    _without_hashing()
    driver = _driver(found, system, 'identity')

    def run() -> object:
        made = {
            'id': uuid.uuid4().hex,
            'name': uuid.uuid4().hex,
            'domain_id': 'another domain',
            'enabled': True,
            'password': 'secret',
        }
        return driver.create_user(made['id'], made)

    return run


def join(
    found: Systems, system: str, count: int, group_count: int
) -> Callable[[], object]:
    """A user joins a group."""
    driver = _driver(found, system, 'identity')
    chance = random.Random()
    return lambda: driver.add_user_to_group(
        user_id(chance.randrange(ASKED, count)),
        group_id(chance.randrange(group_count)),
    )


def page(
    found: Systems, system: str, count: int, group_count: int
) -> Callable[[], object]:
    """A page of the domain's users, from anywhere."""
    driver = _driver(found, system, 'identity')
    chance = random.Random(1)

    def run() -> object:
        hints = Hints()
        hints.add_filter('domain_id', DOMAIN)
        hints.set_limit(PAGE)
        hints.marker = user_id(chance.randrange(count))
        return driver.list_users(hints)

    return run


def bare(
    found: Systems, system: str, count: int, group_count: int
) -> Callable[[], object]:
    """A bare read of the rows that ``get_user`` reads."""
    statement = found.bare.prepare(
        users.USERS.entity.get.text(found.place.name)
    )
    numbers = _asked()
    return lambda: found.bare.execute(
        statement, (user_id(next(numbers)),)
    ).one()


_BOTH = ('cassandra', 'sql')
#: Operation -> what makes it, and the systems that have it.
OPERATIONS: dict[str, tuple[Any, tuple[str, ...]]] = {
    'read user row': (bare, ('bare',)),
    'get_user': (_read('get_user'), _BOTH),
    'get_user_by_name': (by_name, _BOTH),
    'authenticate': (_read('authenticate'), _BOTH),
    'list_groups_for_user': (_read('list_groups_for_user'), _BOTH),
    'get_credential': (_read('get_credential', 'credential'), _BOTH),
    'application credential log-in': (
        _read('authenticate', 'application_credential'),
        _BOTH,
    ),
    'list_users, a page of 100': (page, _BOTH),
    'create_user': (create, _BOTH),
    'add_user_to_group': (join, _BOTH),
}
systems.OPERATIONS.update(
    {f'identity: {name}': make for name, (make, _) in OPERATIONS.items()}
)
