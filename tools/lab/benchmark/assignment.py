# SPDX-License-Identifier: Apache-2.0
"""``tools/benchmark assignment``: projects, domains and grants.

Both systems are filled with the same projects and grants in bulk; what is
measured goes through the drivers.
"""

from __future__ import annotations

import itertools
import random
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from keystone.assignment.backends import sql as sql_assignment
from keystone.resource.backends import sql as sql_resource
from keystone.resource.backends import sql_model
from keystone.resource.backends.base import NULL_DOMAIN_ID

from keystone_cassandra_token.db import clock
from keystone_cassandra_token.drivers.assignment import driver as assignment
from keystone_cassandra_token.drivers.assignment import grants
from keystone_cassandra_token.drivers.resource import driver as resource
from keystone_cassandra_token.drivers.resource import projects
from keystone_cassandra_token.tables.index import shard_of
from lab.benchmark import fill
from lab.benchmark.measure import Series
from lab.benchmark.run import Run, say
from lab.benchmark.systems import Call, Systems

PROJECTS = 10_000  # at least TREE + ASKED + 2
DOMAINS = 20
USERS = 10_000  # and as many groups
ROLES = 500
#: Users that are asked for, each with one project on which it has a role and
#: its groups one each.
ASKED = 1000
GROUPS_OF_A_USER = 20
#: Grants of the project all of whose grants are listed.
OF_ONE = 500
#: Projects of the tree that is listed, of four levels.
TREE = 1000
_FIRST, _SECOND = 10, 100

MODELS = (
    sql_model.Project,
    sql_model.ProjectTag,
    sql_model.ProjectOption,
    sql_assignment.RoleAssignment,
    sql_assignment.SystemRoleAssignment,
)


def run(under_way: Run) -> None:
    """Fill the servers and measure."""
    count = under_way.plan.grants
    place = under_way.place('grants', under_way.node, sql=True)
    pool = under_way.pool(place)
    pool.call(fill.create_tables, *MODELS)
    say(f'filling MariaDB: {count} grants')
    fill.load(under_way.sql, place.name, _sql_rows(count))
    say(f'filling Cassandra: {count} grants')
    pool.call(_fill_cassandra, count)
    under_way.settle(under_way.node)
    under_way.tell(
        pool,
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
    first = _id('domain', 0)
    for number in range(PROJECTS):
        if number == 0:
            yield _project('project', number, first, first)
        elif number <= TREE:
            if number <= _FIRST:
                parent = 0
            elif number <= _FIRST + _SECOND:
                parent = 1 + number % _FIRST
            else:
                parent = _FIRST + 1 + number % _SECOND
            yield _project('project', number, first, _id('project', parent))
        else:
            domain_id = _id('domain', number % DOMAINS)
            yield _project('project', number, domain_id, domain_id)


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
    chance = random.Random(0)
    seen = set()

    def grant(kind: str, actor_id: str, project_id: str) -> dict[str, Any]:
        return {
            'type': f'{kind}Project',
            'actor_id': actor_id,
            'target_id': project_id,
            'role_id': _id('role', chance.randrange(ROLES)),
            'inherited': False,
        }

    def wanted() -> Iterator[dict[str, Any]]:
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

    for each in wanted():
        key = tuple(each.values())
        if key not in seen:
            seen.add(key)
            yield each
        if len(seen) == count:
            return


def _sql_rows(count: int) -> Iterator[fill.Rows]:
    root = _project('domain', 0, NULL_DOMAIN_ID, None) | {
        'id': NULL_DOMAIN_ID,
        'name': NULL_DOMAIN_ID,
        'enabled': False,
    }
    yield (
        sql_model.Project,
        ' '.join(root),
        (list(each.values()) for each in itertools.chain([root], _projects())),
    )
    yield (
        sql_assignment.RoleAssignment,
        'type actor_id target_id role_id inherited',
        (list(each.values()) for each in _grants(count)),
    )


def _fill_cassandra(systems: Systems, count: int) -> None:
    """Fill Cassandra, with plain writes; what a client does."""
    fill.write_named(
        systems,
        resource.Resource().db,
        projects.PROJECTS,
        map(projects.PROJECTS.entity.new, _projects()),
    )
    for some in fill.portions(_grants(count), 20_000):
        made = []
        for each in some:
            incarnation = clock.incarnation()
            settled_at = clock.micros_of(incarnation) + grants.Step.SETTLED
            made.append(
                each
                | {
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


_DRIVERS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    'cassandra': (resource.Resource, assignment.Assignment),
    'sql': (sql_resource.Resource, sql_assignment.Assignment),
}


def _asked() -> Iterator[int]:
    return itertools.cycle(random.Random(1).sample(range(ASKED), ASKED))


def _resource(call: Callable[[Any, int], object], driver: int = 0) -> Call:
    """Return an operation of a driver, for numbers below ``ASKED``."""

    def make(systems: Systems, series: Series) -> Callable[[], object]:
        opened = _DRIVERS[series.system][driver]()
        numbers = _asked()
        return lambda: call(opened, next(numbers))

    return Call(make)


def _assignment(**wanted: Callable[[int], Any]) -> Call:
    """Return a list of grants, by what it is asked for."""

    def call(driver: Any, number: int) -> object:
        return driver.list_role_assignments(
            **{name: value(number) for name, value in wanted.items()}
        )

    return _resource(call, 1)


def _bare(systems: Systems, series: Series) -> Callable[[], object]:
    """A bare read of the rows that ``get_project`` reads."""
    keys = ((_on(number),) for number in _asked())
    return systems.read(projects.PROJECTS.entity.get, keys)


CALLS = {
    'read project row': Call(_bare, ('bare',)),
    'get_project': _resource(lambda driver, n: driver.get_project(_on(n))),
    'get_project_by_name': _resource(
        lambda driver, n: driver.get_project_by_name(
            f'project-{TREE + 1 + n}', _id('domain', (TREE + 1 + n) % DOMAINS)
        )
    ),
    'domain by name': _resource(
        lambda driver, n: driver.get_project_by_name(
            f'domain-{n % DOMAINS}', None
        )
    ),
    'subtree of 1 000': _resource(
        lambda driver, n: driver.list_projects_in_subtree(_id('project', 0))
    ),
    'check_grant': _resource(
        lambda driver, n: driver.check_grant_role_id(
            _id('role', 0), user_id=_id('user', n), project_id=_on(n)
        ),
        1,
    ),
    'grants of a user on a project': _assignment(
        user_id=lambda n: _id('user', n), project_ids=lambda n: [_on(n)]
    ),
    'grants of 20 groups on a project': _assignment(
        group_ids=_groups_of, project_ids=lambda n: [_on(n)]
    ),
    'all grants of a user': _assignment(user_id=lambda n: _id('user', n)),
    '500 grants of a project': _assignment(project_ids=lambda n: [_THE_ONE]),
    'create_grant': _resource(
        lambda driver, n: driver.create_grant(
            uuid.uuid4().hex,
            user_id=uuid.uuid4().hex,
            project_id=uuid.uuid4().hex,
        ),
        1,
    ),
}
