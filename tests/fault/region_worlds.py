# SPDX-License-Identifier: Apache-2.0
"""Worlds whose calls meet in two regions alone."""

from __future__ import annotations

from typing import Any

from keystone import exception
from keystone.common.driver_hints import Hints

from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.drivers.assignment import driver as assignment
from keystone_cassandra_token.drivers.credential import Credential
from keystone_cassandra_token.drivers.identity import driver as identity
from keystone_cassandra_token.drivers.identity import id_mapping
from keystone_cassandra_token.drivers.resource import driver as resource
from keystone_cassandra_token.drivers.resource import projects
from tests.fault.generated import (
    State,
    World,
    found,
    operation,
    wrong_names,
)


class Grants(World):
    """A user and a group have a role each on a project; one of two roles."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.driver = assignment.Assignment()
        self.grant('one', 'user')
        self.grant('one', 'group')

    def key(self, role: str, actor: str) -> dict[str, str]:
        return {
            'role_id': self.id(role),
            f'{actor}_id': self.id(actor),
            'project_id': self.id('project'),
        }

    def grant(self, role: str, actor: str) -> None:
        self.driver.create_grant(**self.key(role, actor))

    @operation()
    def grant_again(self) -> None:
        self.grant('one', 'user')

    @operation()
    def grant_another(self) -> None:
        self.grant('two', 'user')

    @operation(exception.RoleAssignmentNotFound)
    def take_away(self) -> None:
        self.driver.delete_grant(**self.key('one', 'user'))

    @operation()
    def delete_for_project(self) -> None:
        self.driver.delete_project_assignments(self.id('project'))

    @operation()
    def delete_for_user(self) -> None:
        self.driver.delete_user_assignments(self.id('user'))

    @operation()
    def delete_for_role(self) -> None:
        self.driver.delete_role_assignments(self.id('one'))

    def state(self) -> State:
        seen: dict[str, Any] = {}
        for actor in ('user', 'group'):
            key = self.key('one', actor)
            del key['role_id']
            seen[actor] = self.labels(self.driver.list_grant_role_ids(**key))
        user, project = self.id('user'), self.id('project')
        by = {
            'by user': {'user_id': user},
            'by project': {'project_ids': [project]},
            'by role one': {'role_id': self.id('one')},
            'by role two': {'role_id': self.id('two')},
        }
        for name, wanted in by.items():
            listed = self.driver.list_role_assignments(**wanted)
            seen[name] = sorted(
                self.labels([each['role_id']])[0]
                + (' user' if 'user_id' in each else ' group')
                for each in listed
            )
        return seen

    def wrong(self) -> list[str]:
        """What lists say is granted, and the other way round."""
        seen = self.state()
        there = [
            f'{role} {actor}'
            for actor in ('user', 'group')
            for role in seen[actor]
        ]
        listed = {
            'by project': there,
            'by user': [each for each in there if 'user' in each],
            'by role one': [each for each in there if 'one' in each],
            'by role two': [each for each in there if 'two' in each],
        }
        return [
            f'{name} {seen[name]}, and granted {sorted(each)}'
            for name, each in listed.items()
            if seen[name] != sorted(each)
        ]


NAMES = 'abcd'


class Projects(World):
    """A project that is called a, in a domain."""

    kinds = ('project',)

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.driver = resource.Resource()
        self.driver.create_project(
            self.id('domain'),
            {
                'id': self.id('domain'),
                'name': self.id('domain'),
                'domain_id': None,
                'is_domain': True,
                'enabled': True,
            },
        )
        self.create('first', 'a')

    def create(
        self, label: str, name: str, parent: str = 'domain', **more: Any
    ) -> None:
        self.driver.create_project(
            self.id(label),
            {
                'id': self.id(label),
                'name': name,
                'domain_id': self.id('domain'),
                'parent_id': self.id(parent),
                'enabled': True,
                **more,
            },
        )

    def update(self, **changes: Any) -> None:
        self.driver.update_project(self.id('first'), changes)

    @operation(exception.Conflict, makes='second')
    def create_a(self) -> None:
        self.create('second', 'a')

    @operation(exception.Conflict, makes='second')
    def create_b(self) -> None:
        self.create('second', 'b')

    @operation(exception.Conflict)
    def create_same(self) -> None:
        self.create('second', 'c', description='another')

    @operation(exception.Conflict)
    def create_below(self) -> None:
        self.create('third', 'd', 'first')

    @operation()
    def rename_b(self) -> None:
        self.update(name='b')

    @operation()
    def rename_c(self) -> None:
        self.update(name='c')

    @operation()
    def disable(self) -> None:
        self.update(enabled=False)

    @operation()
    def describe(self) -> None:
        self.update(description='new')

    @operation()
    def tag_one(self) -> None:
        self.update(tags=['one'])

    @operation()
    def tag_two(self) -> None:
        self.update(tags=['two'])

    @operation(exception.ProjectNotFound)
    def delete(self) -> None:
        self.driver.delete_project(self.id('first'))

    def state(self) -> State:
        domain = self.id('domain')
        seen: dict[str, Any] = {}
        for name in NAMES:
            has = found(self.driver.get_project_by_name, name, domain)
            seen[name] = has and self.labels([has['id']])
        hints = Hints()
        hints.add_filter('domain_id', domain)
        listed = self.driver.list_projects(hints)
        seen['listed'] = self.labels(each['id'] for each in listed)
        for label in ('first', 'second', 'third'):
            one = found(self.driver.get_project, self.id(label))
            seen[label] = one and (
                one['name'],
                one['enabled'],
                one['description'],
                one['tags'],
                self.labels([one['parent_id']]),
            )
        below = found(self.driver.list_projects_in_subtree, self.id('first'))
        seen['below'] = self.labels(each['id'] for each in below or ())
        for tag in ('one', 'two'):
            tagged = self.driver.list_projects_by_tags({'tags': tag})
            seen[f'tagged {tag}'] = self.labels(
                (each['id'] for each in tagged), strange=False
            )
        return seen

    def wrong(self) -> list[str]:
        domain, store = self.id('domain'), self.store
        keys = {name: projects.key(store, domain, name) for name in NAMES}
        labels = ('first', 'second', 'third')
        return wrong_names(
            self,
            projects.PROJECTS.entity,
            projects.PROJECTS,
            keys,
            labels,
        )


class Passwords(World):
    """A user with a password."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.driver = identity.Identity()
        self.driver.create_user(
            self.id('user'),
            {
                'id': self.id('user'),
                'name': 'user',
                'domain_id': self.id('domain'),
                'enabled': True,
                'password': 'former',
            },
        )

    @operation()
    def reset(self) -> None:
        self.driver.update_user(self.id('user'), {'password': 'reset'})

    @operation()
    def reset_again(self) -> None:
        self.driver.update_user(self.id('user'), {'password': 'again'})

    @operation()
    def change(self) -> None:
        self.driver.change_password(self.id('user'), 'changed')

    @operation()
    def change_otherwise(self) -> None:
        self.driver.change_password(self.id('user'), 'other')

    @operation()
    def disable(self) -> None:
        self.driver.update_user(self.id('user'), {'enabled': False})

    @operation(exception.UserNotFound)
    def delete(self) -> None:
        self.driver.delete_user(self.id('user'))

    def state(self) -> State:
        user = found(self.driver.get_user, self.id('user'))
        return {
            'user': user and user['enabled'],
            'logs in by': [
                password
                for password in (
                    'former',
                    'reset',
                    'again',
                    'changed',
                    'other',
                )
                if self.logs_in(password)
            ],
        }

    def logs_in(self, password: str) -> bool:
        try:
            self.driver.authenticate(self.id('user'), password)
        except (AssertionError, exception.Error):
            return False
        return True


class Moves(World):
    """A credential, of which one attribute by which it is found changes."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.driver = Credential()
        self.driver.create_credential(
            self.id('it'),
            {
                'id': self.id('it'),
                'user_id': self.id('user here'),
                'project_id': self.id('project here'),
                'type': 'type',
                'encrypted_blob': 'secret',
                'key_hash': 'hash',
            },
        )

    def update(self, **places: str) -> None:
        self.driver.update_credential(
            self.id('it'),
            {
                f'{name}_id': self.id(f'{name} {place}')
                for name, place in places.items()
            },
        )

    @operation()
    def give_to_another(self) -> None:
        self.update(user='there')

    @operation()
    def give_to_a_third(self) -> None:
        self.update(user='beyond')

    @operation()
    def keep_user(self) -> None:
        self.update(user='here')

    @operation()
    def move_to_another_project(self) -> None:
        self.update(project='there')

    @operation(exception.CredentialNotFound)
    def delete(self) -> None:
        self.driver.delete_credential(self.id('it'))

    def state(self) -> State:
        one = found(self.driver.get_credential, self.id('it'))
        seen: dict[str, Any] = {
            name: one and self.labels([one[f'{name}_id']])
            for name in ('user', 'project')
        }
        for place in ('here', 'there', 'beyond'):
            of_user = self.driver.list_credentials_for_user(
                self.id(f'user {place}')
            )
            seen[f'of user {place}'] = len(of_user)
        return seen

    def wrong(self) -> list[str]:
        seen = self.state()
        (place,) = seen['user'] or [None]
        return [
            f'it is of {place}, and listed of user {each}: {seen[name]}'
            for each in ('here', 'there', 'beyond')
            if seen[name := f'of user {each}'] != (place == f'user {each}')
        ]


class Mappings(World):
    """What an identity backend calls a user, and is known."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.driver = id_mapping.IDMappings()
        self.known()

    def local(self, name: str) -> dict[str, str]:
        return {
            'domain_id': self.id('domain'),
            'local_id': name,
            'entity_type': 'user',
        }

    @operation()
    def known(self) -> None:
        self.driver.create_id_mapping(self.local('known'), self.id('known'))

    @operation()
    def new(self) -> None:
        self.driver.create_id_mapping(self.local('new'), self.id('new'))

    @operation()
    def delete(self) -> None:
        self.driver.delete_id_mapping(self.id('known'))

    @operation()
    def purge(self) -> None:
        self.driver.purge_mappings({'domain_id': self.id('domain')})

    def state(self) -> State:
        domain = self.id('domain')
        listed = self.driver.get_domain_mapping_list(domain, 'user')
        seen: dict[str, Any] = {
            'listed': self.labels(
                each.to_dict()['public_id'] for each in listed
            )
        }
        for name in ('known', 'new'):
            public = self.driver.get_public_id(self.local(name))
            seen[name] = public and self.labels([public])
            back = self.driver.get_id_mapping(self.id(name))
            seen[f'{name} back'] = back and back['local_id']
        return seen


WORLDS = (Grants, Projects, Passwords, Moves, Mappings)
