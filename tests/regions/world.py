# SPDX-License-Identifier: Apache-2.0
"""What the clients of one run share: few entities, so that they conflict."""

from __future__ import annotations

import dataclasses
import itertools
import random
import secrets
import threading
from typing import Any

from lab import LabError
from lab.waiting import until

from tests.regions.api import Answer, Api, Json
from tests.regions.history import REFUSED

#: Users by what is tried with them.
PASSWORD_USERS, GRANT_USERS, OWNERS = 3, 2, 2
#: Kinds of entities with names on which all regions agree, by their path.
KINDS = {'user': 'users', 'group': 'groups', 'project': 'projects'}
NAMES = 3
LIMIT = 3  # uses of a trust
#: Of the tokens that can be picked: those that were issued last.
_RECENT = 30


@dataclasses.dataclass(eq=False)
class User:
    """A user of the run.

    :ivar label: as it is called in the history.
    :ivar passwords: by label; all it has ever been given.
    """

    label: str
    id: str = ''
    passwords: dict[str, str] = dataclasses.field(default_factory=dict)
    last: str = ''  # the label of the password that was set last


@dataclasses.dataclass(eq=False)
class Entity:
    """What has a name, or may have: an attempt to create it.

    :ivar id: empty if it is not known.
    :ivar secret: of an application credential, or a user.
    """

    label: str
    kind: str
    name: str
    id: str = ''
    secret: str = ''
    owner: User | None = None


@dataclasses.dataclass(eq=False)
class Token:
    label: str
    id: str


class World:
    """The entities of a run.

    :param run: a word that no other run has, in all names.
    """

    def __init__(self, run: str) -> None:
        self.run = run
        self.domain = self.project = ''
        self.roles: dict[str, str] = {}
        self.password_users = self._users('p', PASSWORD_USERS)
        self.grant_users = self._users('g', GRANT_USERS)
        self.owners = self._users('o', OWNERS)
        self.trustor, self.trustee = self._users('t', 2)
        self.entities: list[Entity] = []
        self.trusts: list[Entity] = []
        self.credentials: list[Entity] = []
        self.secrets: list[Entity] = []
        self.tokens: list[Token] = []
        self._ids: dict[str, str] = {}
        self._turn = threading.Lock()
        self._counts: dict[str, int] = {}

    def _users(self, letter: str, number: int) -> list[User]:
        return [User(f'{letter}{n}') for n in range(1, number + 1)]

    @property
    def users(self) -> list[User]:
        return [
            *self.password_users,
            *self.grant_users,
            *self.owners,
            self.trustor,
            self.trustee,
        ]

    def label(self, kind: str) -> str:
        """Return a label that nothing else has."""
        with self._turn:
            number = self._counts[kind] = self._counts.get(kind, 0) + 1
        return f'{kind}{number}'

    def new_password(self, user: User) -> str:
        """Give a user one more password; return its label."""
        label = self.label('w')
        user.passwords[label] = secrets.token_urlsafe(12)
        return label

    def keep_token(self, answer: Answer) -> str:
        """Keep the token of a log-in; return its label."""
        token = Token(self.label('T'), answer.token)
        self.tokens.append(token)
        return token.label

    def token(self, random: random.Random) -> Token | None:
        recent = self.tokens[-_RECENT:]
        return random.choice(recent) if recent else None

    def names(self, kind: str) -> list[str]:
        """Return the names that are fought for, as they are in Keystone."""
        return [f'{self.run}-{kind}-{n}' for n in range(1, NAMES + 1)]

    def role_name(self, role_id: str) -> str:
        """Return what a role is called in the history."""
        for name, each in self.roles.items():
            if each == role_id:
                return name
        return 'another'

    def make(self, api: Api, admin: str) -> None:
        """Make what is there at first.

        :raises LabError: something was refused.
        """

        numbers = itertools.count(1)

        def made(method: str, path: str, json: Json | None) -> Answer | None:
            for each in (json or {}).values():
                # One that a busy machine gave up may have been made.
                each['name'] = f'{self.run}-{next(numbers)}'
            answer = api.send(method, path, admin, json=json)
            if answer.outcome == REFUSED:
                raise LabError(f'{method} {path}: {answer}')
            return answer if answer else None

        def call(method: str, path: str, json: Json | None = None) -> Any:
            answer = until(
                lambda: made(method, path, json), f'{method} {path}'
            )
            return answer.entity if answer and answer.body else None

        self.domain = call('POST', '/domains', {'domain': {}})['id']
        project = {'domain_id': self.domain}
        self.project = call('POST', '/projects', {'project': project})['id']
        for name in 'r1', 'r2':
            self.roles[name] = call('POST', '/roles', {'role': {}})['id']
        for user in self.users:
            user.last = self.new_password(user)
            new = {
                'domain_id': self.domain,
                'password': user.passwords[user.last],
            }
            user.id = call('POST', '/users', {'user': new})['id']
            call('PUT', self.grant(user, 'r1'))

    def grant(self, user: User, role: str) -> str:
        """Return the path of a grant of a role on the project."""
        return (
            f'/projects/{self.project}/users/{user.id}'
            f'/roles/{self.roles[role]}'
        )
