# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks fill a keyspace with, beside the drivers."""

from __future__ import annotations

import collections
import itertools
import types

import pytest
from lab.benchmark import assignment, fill, identity
from oslo_config import cfg

from keystone_cassandra_token import conf as options
from keystone_cassandra_token.db import clock
from keystone_cassandra_token.drivers.identity import groups, users
from keystone_cassandra_token.drivers.resource import projects

USER = {
    'id': identity.user_id(1),
    'domain_id': identity.DOMAIN,
    'local_name': 'user-1',
    'enabled': True,
    'created_at': clock.utcnow(),
}
GROUP = {'id': 'a group', 'domain_id': identity.DOMAIN, 'name': 'group-1'}
PROJECT = next(itertools.islice(assignment._projects(), 100, None))


@pytest.mark.parametrize(
    ('named', 'values'),
    [
        (users.USERS, USER),
        (groups.GROUPS, GROUP),
        (projects.PROJECTS, PROJECT),
    ],
)
def test_rows_have_all_that_their_statements_take(named, values) -> None:
    rows = collections.defaultdict(list)
    new = named.entity.new(values)
    conf = cfg.ConfigOpts()
    options.register_opts(conf)
    conf([])
    db = types.SimpleNamespace(conf=conf)
    fill.add_named(rows, db, named, new)
    # The entity, its claims, and where there are some its index rows.
    assert {named.entity.insert, named.claims.insert} <= rows.keys()
    for statement, some in rows.items():
        assert all(statement.binds == row.keys() for row in some)
    assert len(new['stamps']) == len(rows[named.claims.insert])


def test_portions_are_all_of_it() -> None:
    assert list(fill.portions(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(fill.portions([], 2)) == []
