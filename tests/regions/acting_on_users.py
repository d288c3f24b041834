# SPDX-License-Identifier: Apache-2.0
"""What clients do with users, their tokens, passwords and roles."""

from __future__ import annotations

from tests.regions.actors import Actor
from tests.regions.api import Answer, Json
from tests.regions.history import UNKNOWN, Operation
from tests.regions.world import Token, User


class OnUsers(Actor):
    """Log-ins, validations, passwords, grants."""

    # -- tokens

    def token_log_in(self) -> None:
        world = self.world
        user = self.random.choice(world.password_users + world.grant_users)
        former = self.random.random() < 0.25
        known = list(user.passwords)
        self.log_in(user, self.random.choice(known) if former else user.last)

    def log_in(self, user: User, password: str) -> Operation:
        begin = self.now()
        answer = self.send_log_in(user, password)
        shown: Json = {}
        if answer:
            shown['token'] = self.world.keep_token(answer)
            shown['roles'] = self._roles(answer)
        return self.record(
            'token.log_in',
            begin,
            answer,
            shown,
            user=user.label,
            password=password,
        )

    def _roles(self, answer: Answer) -> list[str]:
        roles = answer.entity.get('roles', [])
        return sorted(self.world.role_name(each['id']) for each in roles)

    def token_validate(self) -> None:
        if token := self.world.token(self.random):
            self.validate(token)

    def validate(self, token: Token) -> Operation:
        begin = self.now()
        answer = self.api.send(
            'GET', '/auth/tokens', self.admin, subject=token.id
        )
        shown = {'roles': self._roles(answer)} if answer else {}
        return self.record(
            'token.validate', begin, answer, shown, token=token.label
        )

    def token_revoke(self) -> None:
        if token := self.world.token(self.random):
            begin = self.now()
            answer = self.api.send(
                'DELETE', '/auth/tokens', self.admin, subject=token.id
            )
            self.record('token.revoke', begin, answer, token=token.label)

    # -- users

    def _patch(self, user: User, **changes: object) -> Answer:
        return self.api.send(
            'PATCH', f'/users/{user.id}', self.admin, json={'user': changes}
        )

    def password_reset(self) -> None:
        user = self.random.choice(self.world.password_users)
        label = self.world.new_password(user)
        begin = self.now()
        answer = self._patch(user, password=user.passwords[label])
        self.record(
            'password.reset', begin, answer, user=user.label, password=label
        )
        self._has_set(user, label, answer)

    def password_change(self) -> None:
        user = self.random.choice(self.world.password_users)
        original, label = user.last, self.world.new_password(user)
        begin = self.now()
        answer = self.api.send(
            'POST',
            f'/users/{user.id}/password',
            json={
                'user': {
                    'original_password': user.passwords[original],
                    'password': user.passwords[label],
                }
            },
        )
        self.record(
            'password.change', begin, answer, user=user.label, password=label
        )
        self._has_set(user, label, answer)

    def _has_set(self, user: User, label: str, answer: Answer) -> None:
        if answer:
            user.last = label
        elif answer.outcome != UNKNOWN:
            del user.passwords[label]

    def user_disable(self) -> None:
        self.enable(self.random.choice(self.world.password_users), False)

    def user_enable(self) -> None:
        self.enable(self.random.choice(self.world.password_users), True)

    def enable(self, user: User, enabled: bool) -> Operation:
        begin = self.now()
        answer = self._patch(user, enabled=enabled)
        kind = 'user.enable' if enabled else 'user.disable'
        return self.record(kind, begin, answer, user=user.label)

    def grant_add(self) -> None:
        self._grant('PUT', 'grant.add')

    def grant_remove(self) -> None:
        self._grant('DELETE', 'grant.remove')

    def _grant(self, method: str, kind: str) -> None:
        user = self.random.choice(self.world.grant_users)
        role = self.random.choice(list(self.world.roles))
        begin = self.now()
        path = self.world.grant(user, role)
        answer = self.api.send(method, path, self.admin)
        self.record(kind, begin, answer, user=user.label, role=role)

    def show_user(self, user: User) -> Operation:
        begin = self.now()
        answer = self.api.send('GET', f'/users/{user.id}', self.admin)
        shown = {'enabled': answer.entity['enabled']} if answer else {}
        return self.record('user.show', begin, answer, shown, user=user.label)

    def list_grants(self, user: User) -> Operation:
        begin = self.now()
        answer = self.api.send(
            'GET',
            f'/projects/{self.world.project}/users/{user.id}/roles',
            self.admin,
        )
        shown = {}
        if answer:
            shown['roles'] = sorted(
                self.world.role_name(each['id']) for each in answer.entity
            )
        return self.record('grant.list', begin, answer, shown, user=user.label)
