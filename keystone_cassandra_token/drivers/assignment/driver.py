# SPDX-License-Identifier: Apache-2.0
"""``keystone.assignment`` on Cassandra.

``drivers.assignment.grants`` holds the tables and says in which
order they are written and what a crash leaves.  Grants on the system are
grants whose target is the system, told apart by their type.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from keystone import exception
from keystone.assignment.backends import base

from keystone_cassandra_token.compat import lengths
from keystone_cassandra_token.drivers.assignment import grants
from keystone_cassandra_token.drivers.base import Driver

Grant = dict[str, Any]

# The types, as Keystone's SQL driver names them.
USER_PROJECT = 'UserProject'
GROUP_PROJECT = 'GroupProject'
USER_DOMAIN = 'UserDomain'
GROUP_DOMAIN = 'GroupDomain'

_OF_USERS = {USER_PROJECT, USER_DOMAIN}
_OF_GROUPS = {GROUP_PROJECT, GROUP_DOMAIN}
_ON_PROJECTS = {USER_PROJECT, GROUP_PROJECT}
_ON_DOMAINS = {USER_DOMAIN, GROUP_DOMAIN}
_NOT_SYSTEM = _OF_USERS | _OF_GROUPS

#: The target of the grants on the system.
SYSTEM = 'system'


class Assignment(Driver, base.AssignmentDriverBase):
    """Role assignments in Cassandra."""

    @classmethod
    def default_role_driver(cls) -> str:
        """Return the name of the driver for roles that goes with this."""
        return 'cassandra'

    def add_role_to_user_and_project(
        self, user_id: str, project_id: str, role_id: str
    ) -> None:
        key = _key(role_id, user_id, None, None, project_id, False)
        if not self._add(key):
            raise exception.Conflict(
                type='role grant',
                details=f'User {user_id} already has role {role_id} in tenant'
                f' {project_id}',
            )

    def create_grant(
        self,
        role_id: str,
        user_id: str | None = None,
        group_id: str | None = None,
        domain_id: str | None = None,
        project_id: str | None = None,
        inherited_to_projects: bool = False,
    ) -> None:
        # Granted already is success, as with SQL.
        self._add(
            _key(
                role_id,
                user_id,
                group_id,
                domain_id,
                project_id,
                inherited_to_projects,
            )
        )

    def list_grant_role_ids(
        self,
        user_id: str | None = None,
        group_id: str | None = None,
        domain_id: str | None = None,
        project_id: str | None = None,
        inherited_to_projects: bool = False,
    ) -> list[str]:
        # By ids alone, as with SQL: a domain is a project of that id too.
        return [
            grant['role_id']
            for grant in grants.on_target(
                self.db,
                project_id or domain_id or '',
                [user_id or group_id or ''],
            )
            if grant['inherited'] == inherited_to_projects
        ]

    def check_grant_role_id(
        self,
        role_id: str,
        user_id: str | None = None,
        group_id: str | None = None,
        domain_id: str | None = None,
        project_id: str | None = None,
        inherited_to_projects: bool = False,
    ) -> None:
        self._grant(
            role_id,
            user_id,
            group_id,
            domain_id,
            project_id,
            inherited_to_projects,
        )

    def delete_grant(
        self,
        role_id: str,
        user_id: str | None = None,
        group_id: str | None = None,
        domain_id: str | None = None,
        project_id: str | None = None,
        inherited_to_projects: bool = False,
    ) -> None:
        found = self._grant(
            role_id,
            user_id,
            group_id,
            domain_id,
            project_id,
            inherited_to_projects,
        )
        if not grants.remove(self.db, found):
            raise _not_found(
                role_id, user_id or group_id, domain_id or project_id
            )

    def list_role_assignments(
        self,
        role_id: str | None = None,
        user_id: str | None = None,
        group_ids: Collection[str] | None = None,
        domain_id: str | None = None,
        project_ids: Collection[str] | None = None,
        inherited_to_projects: bool | None = None,
    ) -> list[dict[str, Any]]:
        types = _types(user_id, group_ids, project_ids, domain_id)
        actors = group_ids or (user_id and [user_id]) or None
        targets = project_ids or (domain_id and [domain_id]) or None
        found: Iterable[Grant]
        if targets:
            found = grants.on_targets(self.db, targets, actors)
        elif actors:
            found = grants.of_actors(self.db, actors)
        elif role_id:
            found = grants.of_role(self.db, role_id)
        else:
            found = grants.everything(self.db)
        return [
            _to_ref(grant)
            for grant in found
            if grant['type'] in types
            and role_id in (None, grant['role_id'])
            and inherited_to_projects in (None, grant['inherited'])
        ]

    def delete_project_assignments(self, project_id: str) -> None:
        self._remove_all(
            lambda: grants.on_target(self.db, project_id), _ON_PROJECTS
        )

    def delete_role_assignments(self, role_id: str) -> None:
        self._remove_all(lambda: grants.of_role(self.db, role_id))

    def delete_user_assignments(self, user_id: str) -> None:
        self._remove_all(
            lambda: grants.of_actors(self.db, [user_id]), _OF_USERS
        )

    def delete_group_assignments(self, group_id: str) -> None:
        self._remove_all(
            lambda: grants.of_actors(self.db, [group_id]), _OF_GROUPS
        )

    def delete_domain_assignments(self, domain_id: str) -> None:
        self._remove_all(
            lambda: grants.on_target(self.db, domain_id), _ON_DOMAINS
        )

    def create_system_grant(
        self,
        role_id: str,
        actor_id: str,
        target_id: str,
        assignment_type: str,
        inherited: bool,
    ) -> None:
        self._add(
            {
                'target_id': target_id,
                'actor_id': actor_id,
                'type': assignment_type,
                'inherited': inherited,
                'role_id': role_id,
            }
        )

    def list_system_grants(
        self,
        actor_id: str | None,
        target_id: str | None,
        assignment_type: str | None,
    ) -> list[dict[str, Any]]:
        actors = [actor_id] if actor_id else None
        return [
            _system_to_ref(grant)
            for grant in grants.on_target(self.db, target_id or SYSTEM, actors)
            if grant['type'] not in _NOT_SYSTEM
            and assignment_type in (None, grant['type'])
        ]

    def list_system_grants_by_role(self, role_id: str) -> list[dict[str, Any]]:
        return [
            _system_to_ref(grant)
            for grant in grants.of_role(self.db, role_id)
            if grant['type'] not in _NOT_SYSTEM
        ]

    def check_system_grant(
        self, role_id: str, actor_id: str, target_id: str, inherited: bool
    ) -> None:
        self._system_grants(role_id, actor_id, target_id, inherited)

    def delete_system_grant(
        self, role_id: str, actor_id: str, target_id: str, inherited: bool
    ) -> None:
        found = self._system_grants(role_id, actor_id, target_id, inherited)
        # No list: the first that is gone does not spare the others.
        if not sum(grants.remove(self.db, grant) for grant in found):
            raise _not_found(role_id, actor_id, target_id)

    def _add(self, key: Mapping[str, Any]) -> bool:
        lengths.check(key, grants.KEY, 'role grant')
        return grants.add(self.db, **key)

    def _grant(
        self,
        role_id: str,
        user_id: str | None,
        group_id: str | None,
        domain_id: str | None,
        project_id: str | None,
        inherited: bool,
    ) -> Grant:
        if domain_id:
            types = (USER_DOMAIN, GROUP_DOMAIN)
        else:
            types = (USER_PROJECT, GROUP_PROJECT)
        found = grants.GRANTS.find(
            self.db,
            target_id=domain_id or project_id or '',
            actor_id=user_id or group_id or '',
            type=types[0] if user_id else types[1],
            inherited=inherited,
            role_id=role_id,
        )
        if found is None:
            raise _not_found(
                role_id, user_id or group_id, domain_id or project_id
            )
        return found

    def _system_grants(
        self, role_id: str, actor_id: str, target_id: str, inherited: bool
    ) -> list[Grant]:
        found = [
            grant
            for grant in grants.on_target(self.db, target_id, [actor_id])
            if grant['type'] not in _NOT_SYSTEM
            and grant['role_id'] == role_id
            and grant['inherited'] == inherited
        ]
        if not found:
            raise _not_found(role_id, actor_id, target_id)
        return found

    def _remove_all(
        self,
        listed: Callable[[], Iterable[Grant]],
        types: Collection[str] | None = None,
    ) -> None:
        """Remove what is listed until there is nothing more.

        Others may be granting meanwhile.
        """
        while grants.remove_all(
            self.db,
            (
                grant
                for grant in listed()
                if types is None or grant['type'] in types
            ),
        ):
            pass


def _key(
    role_id: str,
    user_id: str | None,
    group_id: str | None,
    domain_id: str | None,
    project_id: str | None,
    inherited: bool,
) -> dict[str, Any]:
    """Return the key of a grant.

    :raises keystone.exception.AssignmentTypeCalculationError: without an
        actor or a target.
    """
    actor_id, target_id = user_id or group_id, project_id or domain_id
    if not actor_id or not target_id:
        raise exception.AssignmentTypeCalculationError(
            user_id=user_id,
            group_id=group_id,
            project_id=project_id,
            domain_id=domain_id,
        )
    if project_id:
        found = USER_PROJECT if user_id else GROUP_PROJECT
    else:
        found = USER_DOMAIN if user_id else GROUP_DOMAIN
    return {
        'target_id': target_id,
        'actor_id': actor_id,
        'type': found,
        'inherited': inherited,
        'role_id': role_id,
    }


def _types(
    user_id: str | None,
    group_ids: Collection[str] | None,
    project_ids: Collection[str] | None,
    domain_id: str | None,
) -> set[str]:
    """Return the types among which a list looks."""
    found = _NOT_SYSTEM
    if user_id:
        found = found & _OF_USERS
    elif group_ids:
        found = found & _OF_GROUPS
    if project_ids:
        found = found & _ON_PROJECTS
    elif domain_id:
        found = found & _ON_DOMAINS
    return found


def _to_ref(grant: Mapping[str, Any]) -> dict[str, Any]:
    """Return a grant as the SQL driver lists it."""
    actor = 'user_id' if grant['type'] in _OF_USERS else 'group_id'
    target = 'project_id' if grant['type'] in _ON_PROJECTS else 'domain_id'
    shown = {
        actor: grant['actor_id'],
        target: grant['target_id'],
        'role_id': grant['role_id'],
    }
    if grant['inherited']:
        shown['inherited_to_projects'] = 'projects'
    return shown


def _system_to_ref(grant: Mapping[str, Any]) -> dict[str, Any]:
    """Return a grant on the system as the SQL driver returns it."""
    names = ('type', 'actor_id', 'target_id', 'role_id', 'inherited')
    return {name: grant[name] for name in names}


def _not_found(
    role_id: str, actor_id: str | None, target_id: str | None
) -> exception.RoleAssignmentNotFound:
    return exception.RoleAssignmentNotFound(
        role_id=role_id, actor_id=actor_id, target_id=target_id
    )
