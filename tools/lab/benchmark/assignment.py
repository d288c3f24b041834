# SPDX-License-Identifier: Apache-2.0
"""``tools/benchmark assignment``: projects, domains and grants.

Both systems are filled with the same projects and grants in bulk; what is
measured goes through the drivers.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from keystone.assignment.backends import sql as sql_assignment
from keystone.resource.backends import sql_model
from keystone.resource.backends.base import NULL_DOMAIN_ID

from keystone_cassandra_token.db import clock
from keystone_cassandra_token.drivers.assignment import grants
from keystone_cassandra_token.drivers.resource import driver as resource
from keystone_cassandra_token.drivers.resource import projects
from keystone_cassandra_token.tables.index import shard_of
from lab.benchmark import fill
from lab.benchmark.run import Run
from lab.benchmark.systems import (
    ASKED,
    GROUPS_OF_A_USER,
    Call,
    Systems,
    bare,
    by_driver,
)

PROJECTS = 10_000  # at least TREE + ASKED + 2
DOMAINS = 20
USERS = 10_000  # and as many groups
ROLES = 500
#: Grants of the project all of whose grants are listed.
OF_ONE = 500
#: Projects of the tree that is listed, of four levels.
TREE = 1000
_FIRST, _SECOND = 10, 100


def run(under_way: Run) -> None:
    """Fill the servers and measure."""
    count = under_way.plan.grants
    pool = under_way.pool('grants', under_way.node, sql=True)
    pool.call(fill.create_tables, 'resource', 'assignment')
    under_way.fill_both(
        pool, f'{count} grants', _sql_rows, _fill_cassandra, count
    )
    under_way.settle(under_way.node)
    under_way.tell(
        Grants=f'{count} of {ROLES} roles to {USERS} users and'
        f' as many groups, on {PROJECTS} projects in {DOMAINS}'
        f' domains; {ASKED} users are asked for, with'
        f' {GROUPS_OF_A_USER} groups each',
    )
    under_way.with_each_number_of_clients(pool, count)


# -- filling


def _id(kind: str, number: int) -> str:
    """Return the id of a user, a project...; ids are in no order."""
    return uuid.uuid5(uuid.NAMESPACE_OID, f'{kind} {number}').hex


def _projects() -> Iterator[dict[str, Any]]:
    """Yield the domains and the projects, each after its parent.

    Project 0 is the root of a tree in the first domain; the others are on
    the first level of their domains.
    """
    for number in range(DOMAINS):
        yield _project('domain', number, NULL_DOMAIN_ID, None)
    for number in range(PROJECTS):
        domain_id = _id('domain', number % DOMAINS if number > TREE else 0)
        parent_id = domain_id
        if 0 < number <= TREE:
            parent_id = _id('project', _parent(number))
        yield _project('project', number, domain_id, parent_id)


def _parent(number: int) -> int:
    """Return the parent of a project in the tree."""
    if number <= _FIRST:
        return 0
    if number <= _FIRST + _SECOND:
        return 1 + number % _FIRST
    return _FIRST + 1 + number % _SECOND


def _project(
    kind: str, number: int, domain_id: str, parent_id: str | None
) -> dict[str, Any]:
    return {
        'id': _id(kind, number),
        'name': f'{kind}-{number}',
        'domain_id': domain_id,
        'parent_id': parent_id,
        'is_domain': kind == 'domain',
        'enabled': True,
        'extra': {},
    }


def _on(number: int) -> str:
    """Return the id of the project on which a user is asked for."""
    return _id('project', TREE + 1 + number)


#: The project all of whose grants are listed.
_THE_ONE = _id('project', PROJECTS - 1)


def _groups_of(number: int) -> list[str]:
    """Return the ids of the groups of a user who is asked for."""
    chosen = random.Random(number).sample(range(USERS), GROUPS_OF_A_USER)
    return [_id('group', each) for each in chosen]


def _grants(count: int) -> Iterator[dict[str, Any]]:
    """Yield the grants, each once."""
    seen = set()
    for each in _wanted():
        key = tuple(each.values())
        if key not in seen:
            seen.add(key)
            yield each
        if len(seen) == count:
            return


def _wanted() -> Iterator[dict[str, Any]]:
    """Yield grants without end: those that are asked for, then any."""
    chance = random.Random(0)

    def grant(kind: str, actor_id: str, project_id: str) -> dict[str, Any]:
        return {
            'type': f'{kind}Project',
            'actor_id': actor_id,
            'target_id': project_id,
            'role_id': _id('role', chance.randrange(ROLES)),
            'inherited': False,
        }

    for number in range(ASKED):
        yield grant('User', _id('user', number), _on(number)) | {
            'role_id': _id('role', 0)
        }
        for group_id in _groups_of(number):
            yield grant('Group', group_id, _on(number))
    for number in range(OF_ONE):
        yield grant('User', _id('user', number), _THE_ONE)
    while True:
        kind = chance.choice(['User', 'User', 'Group'])
        yield grant(
            kind,
            _id(kind.lower(), chance.randrange(USERS)),
            _id('project', chance.randrange(PROJECTS - 1)),
        )


def _sql_rows(count: int) -> Iterator[fill.SqlRows]:
    root = _project('domain', 0, NULL_DOMAIN_ID, None) | {
        'id': NULL_DOMAIN_ID,
        'name': NULL_DOMAIN_ID,
        'enabled': False,
    }
    yield (
        sql_model.Project,
        ' '.join(root),
        (list(each.values()) for each in (root, *_projects())),
    )
    yield (
        sql_assignment.RoleAssignment,
        'type actor_id target_id role_id inherited',
        (list(each.values()) for each in _grants(count)),
    )


def _fill_cassandra(systems: Systems, count: int) -> None:
    """Fill Cassandra, with plain writes; what a client does."""
    db = resource.Resource().db
    fill.write_named(systems, db, projects.PROJECTS, _projects())
    for some in fill.portions(_grants(count), 20_000):
        made = []
        for each in some:
            incarnation = clock.incarnation()
            settled_at = clock.micros_of(incarnation) + grants.Step.SETTLED
            made.append(
                {
                    **each,
                    'incarnation': incarnation,
                    'settled': True,
                    'written_at': settled_at,
                    'shard': shard_of(each['actor_id']),
                }
            )
        for statement in (
            grants.GRANTS.insert,
            grants.INSERT_BY_ACTOR,
            grants.INSERT_BY_ROLE,
        ):
            fill.write(systems, statement, made)


# -- the operations


def _by_name(opened: Any, number: int) -> object:
    number += TREE + 1
    return opened.get_project_by_name(
        f'project-{number}', _id('domain', number % DOMAINS)
    )


def _check(opened: Any, number: int) -> object:
    return opened.check_grant_role_id(
        _id('role', 0), user_id=_id('user', number), project_id=_on(number)
    )


def _create(opened: Any, _: int) -> object:
    role_id, user_id, project_id = (uuid.uuid4().hex for _ in range(3))
    return opened.create_grant(role_id, user_id=user_id, project_id=project_id)


def _list(wanted: Callable[[int], dict[str, Any]]) -> Call:
    """Return a list of grants, by what it is asked for."""
    return _assignment(lambda d, n: d.list_role_assignments(**wanted(n)))


_resource = partial(by_driver, 'resource')
_assignment = partial(by_driver, 'assignment')

#: ``d`` is a driver, ``n`` the number of a user.
CALLS = {
    'read project row': bare(projects.PROJECTS.entity.get, _on),
    'get_project': _resource(lambda d, n: d.get_project(_on(n))),
    'get_project_by_name': _resource(_by_name),
    'domain by name': _resource(
        lambda d, n: d.get_project_by_name(f'domain-{n % DOMAINS}', None)
    ),
    'subtree of 1 000': _resource(
        lambda d, n: d.list_projects_in_subtree(_id('project', 0))
    ),
    'check_grant': _assignment(_check),
    'grants of a user on a project': _list(
        lambda n: {'user_id': _id('user', n), 'project_ids': [_on(n)]}
    ),
    'grants of 20 groups on a project': _list(
        lambda n: {'group_ids': _groups_of(n), 'project_ids': [_on(n)]}
    ),
    'all grants of a user': _list(lambda n: {'user_id': _id('user', n)}),
    '500 grants of a project': _list(lambda n: {'project_ids': [_THE_ONE]}),
    'create_grant': _assignment(_create),
}
