# SPDX-License-Identifier: Apache-2.0
"""``tools/benchmark identity``: users, groups and credentials.

Both systems are filled with the same users in bulk; what is measured goes
through the drivers.  Checking and making a hash of a password, which takes a
third of a second by design and the same in both, is left out.
"""

from __future__ import annotations

import collections
import itertools
import random
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
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
from lab import LabError
from lab.benchmark import fill
from lab.benchmark.clients import Pool
from lab.benchmark.measure import Series
from lab.benchmark.run import Run, say
from lab.benchmark.systems import BOTH, Call, Place, Systems

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


def run(under_way: Run) -> None:
    """Fill the servers and measure."""
    plan = under_way.plan
    place = under_way.place('people', under_way.node, sql=True)
    pool = under_way.pool(place)
    pool.call(fill.create_tables, *MODELS)
    fill_both(under_way, pool, place, plan.users, plan.groups)
    for system in BOTH:
        pool.call(_add_credentials, system)
    under_way.settle(under_way.node)
    under_way.tell(
        pool,
        People=f'{plan.users} users and {plan.groups} groups in one domain;'
        f' {ASKED} users are in {GROUPS_OF_A_USER} groups each and have'
        ' a credential and an application credential',
        Partitions=_partitions(under_way, place),
    )
    under_way.with_each_number_of_clients(pool, plan.users)


def _partitions(under_way: Run, place: Place) -> str:
    """Return how large partitions are, and with a million users would be."""

    def largest(table: str) -> int:
        node = under_way.node.nodes[0]
        told = node.nodetool('tablestats', f'{place.name}.{table}')
        found = re.search(r'Compacted partition maximum bytes: (\d+)', told)
        if found is None:
            raise LabError(f'nodetool does not tell the size of {table}')
        return int(found[1])

    count = under_way.plan.users
    rows = collections.Counter(shard_of(user_id(n)) for n in range(count))
    most = max(rows.values())
    measured = largest('user_by_domain')
    each = measured / most
    million = each * 1_000_000 / SHARDS
    return (
        f'{most} of {count} users are in the largest of {SHARDS} shards'
        f' of user_by_domain, {measured} bytes, {each:.1f} for each; of'
        f' 1000000 users a shard would be {million / 1e6:.1f} MB. The largest'
        f' row of user is {largest("user")} bytes'
    )


# -- filling


def user_id(number: int) -> str:
    """Return the id of a user; ids are in no order."""
    return uuid.uuid5(uuid.NAMESPACE_OID, f'user {number}').hex


def group_id(number: int) -> str:
    """Return the id of a group."""
    return uuid.uuid5(uuid.NAMESPACE_OID, f'group {number}').hex


def _memberships(count: int, group_count: int) -> Iterator[tuple[str, str]]:
    """Yield user and group of those who are asked for."""
    for number in range(min(ASKED, count)):
        chance = random.Random(number)
        for each in chance.sample(range(group_count), GROUPS_OF_A_USER):
            yield user_id(number), group_id(each)


def fill_both(
    under_way: Run, pool: Pool, place: Place, count: int, group_count: int
) -> None:
    """Fill both systems with users and groups; SQL has its tables."""
    say(f'filling MariaDB: {count} users')
    fill.load(under_way.sql, place.name, _sql_rows(count, group_count))
    say(f'filling Cassandra: {count} users')
    pool.call(_fill_cassandra, count, group_count)


def _sql_rows(count: int, group_count: int) -> Iterator[fill.Rows]:
    now = clock.utcnow()
    micros = clock.to_micros(now)
    numbers = range(count)
    yield (
        sql_model.User,
        'id domain_id enabled created_at extra',
        ((user_id(n), DOMAIN, True, now, {}) for n in numbers),
    )
    yield (
        sql_model.LocalUser,
        'id user_id domain_id name',
        ((_LOCAL + n, user_id(n), DOMAIN, f'user-{n}') for n in numbers),
    )
    yield (
        sql_model.Password,
        'local_user_id password_hash created_at created_at_int self_service',
        ((_LOCAL + n, HASH, now, micros, False) for n in numbers),
    )
    yield (
        sql_model.Group,
        'id domain_id name extra',
        ((group_id(n), DOMAIN, f'group-{n}', {}) for n in range(group_count)),
    )
    yield (
        sql_model.UserGroupMembership,
        'user_id group_id',
        _memberships(count, group_count),
    )


def _fill_cassandra(systems: Systems, count: int, group_count: int) -> None:
    """Fill Cassandra, with plain writes; what a client does."""
    db = identity.Identity().db
    now = clock.utcnow()
    password = {
        'hash': HASH,
        'created_at': clock.to_micros(now),
        'expires_at': None,
        'self_service': False,
    }
    people = (
        {
            'id': user_id(number),
            'domain_id': DOMAIN,
            'enabled': True,
            'local_name': f'user-{number}',
            'created_at': now,
            'lock_epoch': 0,
            'passwords': [password],
        }
        for number in range(count)
    )
    some_groups = (
        {
            'id': group_id(number),
            'domain_id': DOMAIN,
            'name': f'group-{number}',
        }
        for number in range(group_count)
    )
    for named, entities in (
        (users.USERS, people),
        (groups.GROUPS, some_groups),
    ):
        fill.write_named(systems, db, named, map(named.entity.new, entities))
    joined = [
        {
            'user_id': user,
            'group_id': group,
            'incarnation': clock.incarnation(),
            'shard': shard_of(user),
        }
        for user, group in _memberships(count, group_count)
    ]
    fill.write(systems, memberships.MEMBERSHIPS.insert, joined)
    fill.write(systems, memberships.MEMBERSHIPS.insert_listed, joined)


def _add_credentials(systems: Systems, system: str) -> None:
    """Give the users who are asked for what they have, by the drivers."""
    credentials = _driver(system, 'credential')
    app_creds = _driver(system, 'application_credential')
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


# -- the operations


_DRIVERS: dict[tuple[str, str], Callable[[], Any]] = {
    ('cassandra', 'identity'): identity.Identity,
    ('cassandra', 'credential'): credential.Credential,
    ('cassandra', 'application_credential'): (
        application_credential.ApplicationCredential
    ),
    ('sql', 'identity'): sql_identity.Identity,
    ('sql', 'credential'): sql_credential.Credential,
    ('sql', 'application_credential'): sql_app_cred.ApplicationCredential,
}


def _driver(system: str, kind: str) -> Any:
    # Making and checking hashes is left out.
    password_hashing.check_password = lambda *_: True
    password_hashing.hash_password = lambda _: HASH
    return _DRIVERS[system, kind]()


def _asked() -> Iterator[int]:
    return itertools.cycle(random.Random(1).sample(range(ASKED), ASKED))


def _by_id(
    method: str, kind: str = 'identity', more: Sequence[Any] = ()
) -> Call:
    """Return an operation that asks for one user's thing by id."""

    def make(systems: Systems, series: Series) -> Callable[[], object]:
        call = getattr(_driver(series.system, kind), method)
        numbers = _asked()
        return lambda: call(user_id(next(numbers)), *more)

    return Call(make)


def _by_name(systems: Systems, series: Series) -> Callable[[], object]:
    driver = _driver(series.system, 'identity')
    numbers = _asked()
    return lambda: driver.get_user_by_name(f'user-{next(numbers)}', DOMAIN)


def _create(systems: Systems, series: Series) -> Callable[[], object]:
    driver = _driver(series.system, 'identity')

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


def _join(systems: Systems, series: Series) -> Callable[[], object]:
    """A user joins a group."""
    driver = _driver(series.system, 'identity')
    chance = random.Random()
    plan = systems.plan
    return lambda: driver.add_user_to_group(
        user_id(chance.randrange(ASKED, plan.users)),
        group_id(chance.randrange(plan.groups)),
    )


def _page(systems: Systems, series: Series) -> Callable[[], object]:
    """A page of the domain's users, from anywhere."""
    driver = _driver(series.system, 'identity')
    chance = random.Random(1)

    def run() -> object:
        hints = Hints()
        hints.add_filter('domain_id', DOMAIN)
        hints.set_limit(PAGE)
        hints.marker = user_id(chance.randrange(systems.plan.users))
        return driver.list_users(hints)

    return run


def _bare(systems: Systems, series: Series) -> Callable[[], object]:
    """A bare read of the rows that ``get_user`` reads."""
    keys = ((user_id(number),) for number in _asked())
    return systems.read(users.USERS.entity.get, keys)


CALLS = {
    'read user row': Call(_bare, ('bare',)),
    'get_user': _by_id('get_user'),
    'get_user_by_name': Call(_by_name),
    'authenticate': _by_id('authenticate', more=['secret']),
    'list_groups_for_user': _by_id('list_groups_for_user', more=[Hints()]),
    'get_credential': _by_id('get_credential', 'credential'),
    'application credential log-in': _by_id(
        'authenticate', 'application_credential', ['secret']
    ),
    'list_users, a page of 100': Call(_page),
    'create_user': Call(_create),
    'add_user_to_group': Call(_join),
}
