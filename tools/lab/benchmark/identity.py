# SPDX-License-Identifier: Apache-2.0
"""``tools/benchmark identity``: users, groups and credentials.

Both systems are filled with the same users in bulk; what is measured goes
through the drivers.  Checking and making a hash of a password, which takes a
third of a second by design and the same in both, is left out.
"""

from __future__ import annotations

import collections
import random
import re
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from keystone.common.driver_hints import Hints
from keystone.identity.backends import sql_model

from keystone_cassandra_token.db import clock
from keystone_cassandra_token.drivers.identity import driver as identity
from keystone_cassandra_token.drivers.identity import groups, users
from keystone_cassandra_token.drivers.identity.memberships import MEMBERSHIPS
from keystone_cassandra_token.tables.index import SHARDS, shard_of
from lab import LabError
from lab.benchmark import fill
from lab.benchmark.measure import Series
from lab.benchmark.run import Run
from lab.benchmark.systems import (
    ASKED,
    BOTH,
    GROUPS_OF_A_USER,
    HASH,
    Call,
    PlacePool,
    Systems,
    bare,
    by_driver,
    driver,
)

DOMAIN = uuid.uuid5(uuid.NAMESPACE_OID, 'domain').hex
PAGE = 100
#: Ids of SQL's local users, behind those that a bootstrap makes.
_LOCAL = 1_000_000
#: The SQL drivers whose tables are needed.
_SQL = ('identity', 'credential', 'application_credential')


def run(under_way: Run) -> None:
    """Fill the servers and measure."""
    plan = under_way.plan
    pool = under_way.pool('people', under_way.node, sql=True)
    pool.call(fill.create_tables, *_SQL)
    fill_both(under_way, pool, plan.users, plan.groups)
    for system in BOTH:
        pool.call(_add_credentials, system)
    under_way.settle(under_way.node)
    under_way.tell(
        People=f'{plan.users} users and {plan.groups} groups in one domain;'
        f' {ASKED} users are in {GROUPS_OF_A_USER} groups each and have'
        ' a credential and an application credential',
        Partitions=_partitions(under_way, pool.place.name),
    )
    under_way.with_each_number_of_clients(pool, plan.users)


def _partitions(under_way: Run, keyspace: str) -> str:
    """Return how large partitions are, and with a million users would be."""

    def largest(table: str) -> int:
        node = under_way.node.nodes[0]
        told = node.nodetool('tablestats', f'{keyspace}.{table}')
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
    return uuid.uuid5(uuid.NAMESPACE_OID, f'group {number}').hex


def _memberships(count: int, group_count: int) -> Iterator[tuple[str, str]]:
    """Yield user and group of those who are asked for."""
    for number in range(min(ASKED, count)):
        chance = random.Random(number)
        for each in chance.sample(range(group_count), GROUPS_OF_A_USER):
            yield user_id(number), group_id(each)


def fill_both(
    under_way: Run, pool: PlacePool, count: int, group_count: int
) -> None:
    """Fill both systems with users and groups; SQL has its tables."""
    under_way.fill_both(
        pool, f'{count} users', _sql_rows, _fill_cassandra, count, group_count
    )


def _sql_rows(count: int, group_count: int) -> Iterator[fill.SqlRows]:
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
            'id': user_id(n),
            'domain_id': DOMAIN,
            'enabled': True,
            'local_name': f'user-{n}',
            'created_at': now,
            'lock_epoch': 0,
            'passwords': [password],
        }
        for n in range(count)
    )
    fill.write_named(systems, db, users.USERS, people)
    some_groups = (
        {'id': group_id(n), 'domain_id': DOMAIN, 'name': f'group-{n}'}
        for n in range(group_count)
    )
    fill.write_named(systems, db, groups.GROUPS, some_groups)
    joined = [
        {
            'user_id': user,
            'group_id': group,
            'incarnation': clock.incarnation(),
            'shard': shard_of(user),
        }
        for user, group in _memberships(count, group_count)
    ]
    fill.write(systems, MEMBERSHIPS.insert, joined)
    fill.write(systems, MEMBERSHIPS.insert_listed, joined)


def _add_credentials(systems: Systems, system: str) -> None:
    """Give the users who are asked for what they have, by the drivers."""
    credentials = driver(system, 'credential')
    app_creds = driver(system, 'application_credential')
    what = {'type': 'ec2', 'encrypted_blob': 'x' * 200, 'key_hash': 'hash'}
    where = {'name': 'name', 'secret': 'secret', 'project_id': 'project'}
    for number in range(ASKED):
        owned = {'id': user_id(number), 'user_id': user_id(number)}
        credentials.create_credential(owned['id'], owned | what)
        app_creds.create_application_credential(
            owned | where, [{'id': 'role'}]
        )


# -- the operations


def _create(opened: Any, _: int) -> object:
    made = {
        'id': uuid.uuid4().hex,
        'name': uuid.uuid4().hex,
        'domain_id': 'another domain',
        'enabled': True,
        'password': 'secret',
    }
    return opened.create_user(made['id'], made)


def _join(systems: Systems, series: Series) -> Callable[[], object]:
    """A user joins a group."""
    opened = driver(series.system, 'identity')
    chance = random.Random()
    plan = systems.plan
    return lambda: opened.add_user_to_group(
        user_id(chance.randrange(ASKED, plan.users)),
        group_id(chance.randrange(plan.groups)),
    )


def _page(systems: Systems, series: Series) -> Callable[[], object]:
    """A page of the domain's users, from anywhere."""
    opened = driver(series.system, 'identity')
    chance = random.Random(1)

    def run() -> object:
        hints = Hints()
        hints.add_filter('domain_id', DOMAIN)
        hints.set_limit(PAGE)
        hints.marker = user_id(chance.randrange(systems.plan.users))
        return opened.list_users(hints)

    return run


_identity = partial(by_driver, 'identity')

#: ``d`` is a driver, ``n`` the number of a user.
CALLS = {
    'read user row': bare(users.USERS.entity.get, user_id),
    'get_user': _identity(lambda d, n: d.get_user(user_id(n))),
    'get_user_by_name': _identity(
        lambda d, n: d.get_user_by_name(f'user-{n}', DOMAIN)
    ),
    'authenticate': _identity(
        lambda d, n: d.authenticate(user_id(n), 'secret')
    ),
    'list_groups_for_user': _identity(
        lambda d, n: d.list_groups_for_user(user_id(n), Hints())
    ),
    'get_credential': by_driver(
        'credential', lambda d, n: d.get_credential(user_id(n))
    ),
    'application credential log-in': by_driver(
        'application_credential',
        lambda d, n: d.authenticate(user_id(n), 'secret'),
    ),
    'list_users, a page of 100': Call(_page),
    'create_user': _identity(_create),
    'add_user_to_group': Call(_join),
}
