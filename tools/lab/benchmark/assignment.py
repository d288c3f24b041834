# SPDX-License-Identifier: Apache-2.0
"""``tools/benchmark assignment``: projects, domains and grants.

Both systems are filled with the same projects and grants in bulk; what is
measured goes through the drivers.
"""

from __future__ import annotations

import dataclasses
import functools
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
from lab.benchmark import fill, stage, systems
from lab.benchmark.clients import Pool
from lab.benchmark.measure import Measurements, Series
from lab.benchmark.stage import Turn, say, take_turns
from lab.benchmark.systems import Order, Systems

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


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to measure.

    :ivar projects: at least ``TREE`` + ``ASKED`` + 2.
    :ivar clients: numbers of client processes, 1 among them.
    :ivar rounds: how often each series has its turn.
    :ivar count: operations in each turn, at most.
    """

    projects: int = 10_000
    domains: int = 20
    users: int = 10_000
    roles: int = 500
    grants: int = 200_000
    clients: tuple[int, ...] = (1,)
    rounds: int = 6
    count: int = 200


def run(plan: Plan) -> tuple[Measurements, dict[str, str]]:
    """Start the servers, fill them, measure; return figures and context."""
    measured = Measurements()
    with stage.both('grants') as (server, cluster, place):
        pool = Pool(lambda: Systems(place))
        for function in (fill_sql, fill_cassandra):
            say(f'{function.__name__}: {plan.grants} grants')
            pool.call(function, plan)
        stage.flush(cluster)
        stage.settle(cluster)
        context = stage.context(pool)
        found = server.settings()
        context['MariaDB'] = (
            f'{found["version"]}, innodb_flush_log_at_trx_commit'
            f' {found["innodb_flush_log_at_trx_commit"]}'
        )
        context['Grants'] = (
            f'{plan.grants} of {plan.roles} roles to {plan.users} users and'
            f' as many groups, on {plan.projects} projects in {plan.domains}'
            f' domains; {ASKED} users are asked for, with'
            f' {GROUPS_OF_A_USER} groups each'
        )
        for clients in sorted(plan.clients):
            say(f'measuring with {clients} clients')
            turns = [
                Turn(
                    Series(system, name, plan.grants, 0, clients),
                    pool,
                    Order(f'assignment: {name}', (system, plan), plan.count),
                )
                for name, (_, measures) in OPERATIONS.items()
                for system in measures
            ]
            take_turns(measured, turns, plan.rounds)
    return measured, context


def an_id(kind: str, number: int) -> str:
    """Return the id of a user, a project...; ids are in no order."""
    return uuid.uuid5(uuid.NAMESPACE_OID, f'{kind} {number}').hex


def all_projects(plan: Plan) -> Iterator[dict[str, Any]]:
    """Yield the domains and the projects, each after its parent.

    Project 0 is the root of a tree in the first domain; the others are on
    the first level of their domains.
    """
    for number in range(plan.domains):
        yield {
            'id': an_id('domain', number),
            'name': f'domain-{number}',
            'domain_id': NULL_DOMAIN_ID,
            'parent_id': None,
            'is_domain': True,
            'enabled': True,
            'extra': {},
        }
    for number in range(plan.projects):
        domain_id = an_id('domain', 0)
        if number == 0:
            parent_id = domain_id
        elif number <= _FIRST:
            parent_id = an_id('project', 0)
        elif number <= _FIRST + _SECOND:
            parent_id = an_id('project', 1 + number % _FIRST)
        elif number <= TREE:
            parent_id = an_id('project', _FIRST + 1 + number % _SECOND)
        else:
            domain_id = an_id('domain', number % plan.domains)
            parent_id = domain_id
        yield {
            'id': an_id('project', number),
            'name': f'project-{number}',
            'domain_id': domain_id,
            'parent_id': parent_id,
            'is_domain': False,
            'enabled': True,
            'extra': {},
        }


def asked_project(number: int) -> str:
    """Return the id of the project on which a user is asked for."""
    return an_id('project', TREE + 1 + number)


def the_one(plan: Plan) -> str:
    """Return the id of the project all of whose grants are listed."""
    return an_id('project', plan.projects - 1)


def groups_of(number: int, plan: Plan) -> list[str]:
    """Return the ids of the groups of a user who is asked for."""
    chosen = random.Random(number).sample(range(plan.users), GROUPS_OF_A_USER)
    return [an_id('group', each) for each in chosen]


def all_grants(plan: Plan) -> Iterator[dict[str, Any]]:
    """Yield the grants, each once."""
    chance = random.Random(0)
    seen = set()

    def grant(kind: str, actor_id: str, project_id: str) -> dict[str, Any]:
        return {
            'type': f'{kind}Project',
            'actor_id': actor_id,
            'target_id': project_id,
            'role_id': an_id('role', chance.randrange(plan.roles)),
            'inherited': False,
        }

    def wanted() -> Iterator[dict[str, Any]]:
        for number in range(ASKED):
            project_id = asked_project(number)
            yield grant('User', an_id('user', number), project_id) | {
                'role_id': an_id('role', 0)
            }
            for group_id in groups_of(number, plan):
                yield grant('Group', group_id, project_id)
        for number in range(OF_ONE):
            yield grant('User', an_id('user', number), the_one(plan))
        while True:
            kind = chance.choice(['User', 'User', 'Group'])
            yield grant(
                kind,
                an_id(kind.lower(), chance.randrange(plan.users)),
                an_id('project', chance.randrange(plan.projects - 1)),
            )

    for each in wanted():
        key = tuple(each.values())
        if key not in seen:
            seen.add(key)
            yield each
        if len(seen) == plan.grants:
            return


def fill_sql(found: Systems, plan: Plan) -> None:
    """Fill MariaDB; what a client does."""
    database = fill.Database(found, *MODELS)
    root = {
        'id': NULL_DOMAIN_ID,
        'name': NULL_DOMAIN_ID,
        'domain_id': NULL_DOMAIN_ID,
        'is_domain': True,
        'enabled': False,
        'extra': {},
    }
    database.insert(sql_model.Project, [root])
    database.insert(sql_model.Project, all_projects(plan))
    database.insert(sql_assignment.RoleAssignment, all_grants(plan))
    database.close()


def fill_cassandra(found: Systems, plan: Plan) -> None:
    """Fill Cassandra, with plain writes; what a client does."""
    db = resource.Resource().db
    fill.write_named(
        found,
        db,
        projects.PROJECTS,
        map(projects.PROJECTS.entity.new, all_projects(plan)),
    )
    for some in fill.portions(all_grants(plan), 20_000):
        made = [each | {'incarnation': clock.incarnation()} for each in some]
        fill.write(found, grants.GRANTS.insert, made)
        listed = [
            each
            | {
                'settled': True,
                'written_at': clock.micros_of(each['incarnation'])
                + grants.Step.SETTLED,
            }
            for each in made
        ]
        fill.write(found, grants.INSERT_BY_ACTOR, listed)
        fill.write(
            found,
            grants.INSERT_BY_ROLE,
            (each | {'shard': shard_of(each['actor_id'])} for each in listed),
        )


_DRIVERS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    'cassandra': (resource.Resource, assignment.Assignment),
    'sql': (sql_resource.Resource, sql_assignment.Assignment),
}


def _asked() -> Iterator[int]:
    return itertools.cycle(random.Random(1).sample(range(ASKED), ASKED))


def _on(which: int, call: Callable[[Any, Plan, int], object]) -> Any:
    """An operation of a driver, for numbers below ``ASKED``."""

    def make(found: Systems, system: str, plan: Plan) -> Callable[[], object]:
        driver = _DRIVERS[system][which]()
        numbers = _asked()
        return lambda: call(driver, plan, next(numbers))

    return make


_on_projects = functools.partial(_on, 0)
_on_grants = functools.partial(_on, 1)


def bare(found: Systems, system: str, plan: Plan) -> Callable[[], object]:
    """A bare read of the rows that ``get_project`` reads."""
    statement = found.bare.prepare(
        projects.PROJECTS.entity.get.text(found.place.name)
    )
    numbers = _asked()
    return lambda: found.bare.execute(
        statement, (asked_project(next(numbers)),)
    ).one()


_BOTH = ('cassandra', 'sql')
#: Operation -> what makes it, and the systems that have it.
OPERATIONS: dict[str, tuple[Any, tuple[str, ...]]] = {
    'read project row': (bare, ('bare',)),
    'get_project': (
        _on_projects(lambda d, p, n: d.get_project(asked_project(n))),
        _BOTH,
    ),
    'get_project_by_name': (
        _on_projects(
            lambda d, p, n: d.get_project_by_name(
                f'project-{TREE + 1 + n}',
                an_id('domain', (TREE + 1 + n) % p.domains),
            )
        ),
        _BOTH,
    ),
    'domain by name': (
        _on_projects(
            lambda d, p, n: d.get_project_by_name(
                f'domain-{n % p.domains}', None
            )
        ),
        _BOTH,
    ),
    'subtree of 1 000': (
        _on_projects(
            lambda d, p, n: d.list_projects_in_subtree(an_id('project', 0))
        ),
        _BOTH,
    ),
    'check_grant': (
        _on_grants(
            lambda d, p, n: d.check_grant_role_id(
                an_id('role', 0),
                user_id=an_id('user', n),
                project_id=asked_project(n),
            )
        ),
        _BOTH,
    ),
    'grants of a user on a project': (
        _on_grants(
            lambda d, p, n: d.list_role_assignments(
                user_id=an_id('user', n), project_ids=[asked_project(n)]
            )
        ),
        _BOTH,
    ),
    'grants of 20 groups on a project': (
        _on_grants(
            lambda d, p, n: d.list_role_assignments(
                group_ids=groups_of(n, p), project_ids=[asked_project(n)]
            )
        ),
        _BOTH,
    ),
    'all grants of a user': (
        _on_grants(
            lambda d, p, n: d.list_role_assignments(user_id=an_id('user', n))
        ),
        _BOTH,
    ),
    '500 grants of a project': (
        _on_grants(
            lambda d, p, n: d.list_role_assignments(project_ids=[the_one(p)])
        ),
        _BOTH,
    ),
    'create_grant': (
        _on_grants(
            lambda d, p, n: d.create_grant(
                uuid.uuid4().hex,
                user_id=uuid.uuid4().hex,
                project_id=uuid.uuid4().hex,
            )
        ),
        _BOTH,
    ),
}
systems.OPERATIONS.update(
    {f'assignment: {name}': make for name, (make, _) in OPERATIONS.items()}
)
