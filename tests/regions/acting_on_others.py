# SPDX-License-Identifier: Apache-2.0
"""What clients do with trusts of few uses and credentials of both kinds."""

from __future__ import annotations

import secrets

from tests.regions.actors import Actor
from tests.regions.api import Answer
from tests.regions.history import Operation
from tests.regions.world import LIMIT, Entity, User


class OnOthers(Actor):
    """Trusts, application credentials, and credentials (secrets)."""

    # -- trusts

    def trust_create(self) -> None:
        world = self.world
        trust = Entity(world.label('S'), 'trust', '')
        new = {
            'trustor_user_id': world.trustor.id,
            'trustee_user_id': world.trustee.id,
            'project_id': world.project,
            'impersonation': False,
            'remaining_uses': LIMIT,
            'roles': [{'id': world.roles['r1']}],
            # Two equal ones are refused.
            'expires_at': f'2099-01-01T00:00:00.{len(world.trusts):06}Z',
        }
        begin = self.now()
        answer = self.api.send(
            'POST',
            '/OS-TRUST/trusts',
            self.tokens[world.trustor.label],
            json={'trust': new},
        )
        if answer:
            trust.id = answer.entity['id']
            world.trusts.append(trust)
        self.record('trust.create', begin, answer, trust=trust.label)

    def trust_use(self) -> None:
        if trust := self.some(self.world.trusts, 3):
            begin = self.now()
            own = self.tokens[self.world.trustee.label]
            answer = self.api.use_trust(own, trust.id)
            shown = {}
            if answer:
                shown['token'] = self.world.keep_token(answer)
            self.record('trust.use', begin, answer, shown, trust=trust.label)

    def trust_delete(self) -> None:
        if trust := self.some(self.world.trusts, 3):
            begin = self.now()
            answer = self.api.send(
                'DELETE',
                f'/OS-TRUST/trusts/{trust.id}',
                self.tokens[self.world.trustor.label],
            )
            self.record('trust.delete', begin, answer, trust=trust.label)

    def show_trust(self, trust: Entity) -> Operation:
        begin = self.now()
        answer = self.api.send(
            'GET',
            f'/OS-TRUST/trusts/{trust.id}',
            self.tokens[self.world.trustor.label],
        )
        shown = {'left': answer.entity['remaining_uses']} if answer else {}
        return self.record(
            'trust.show', begin, answer, shown, trust=trust.label
        )

    # -- application credentials

    def _credentials(self, owner: User) -> str:
        return f'/users/{owner.id}/application_credentials'

    def credential_create(self) -> None:
        owner = self.random.choice(self.world.owners)
        name = f'{owner.label}-{self.random.randint(1, 2)}'
        made = Entity(self.world.label('C'), 'credential', name, owner=owner)
        made.secret = secrets.token_urlsafe(12)
        new = {
            'name': name,
            'secret': made.secret,
            'description': made.label,
        }
        begin = self.now()
        answer = self.api.send(
            'POST',
            self._credentials(owner),
            self.tokens[owner.label],
            json={'application_credential': new},
        )
        if answer:
            made.id = answer.entity['id']
            self.world.credentials.append(made)
        self.record(
            'credential.create',
            begin,
            answer,
            entity=made.label,
            of='credential',
            name=name,
        )

    def credential_log_in(self) -> None:
        if made := self.some(self.world.credentials):
            self.log_in_by(made)

    def log_in_by(self, made: Entity) -> Operation:
        begin = self.now()
        answer = self.api.log_in_by_credential(made.id, made.secret)
        shown = {}
        if answer:
            shown['token'] = self.world.keep_token(answer)
        return self.record(
            'credential.log_in', begin, answer, shown, entity=made.label
        )

    def credential_delete(self) -> None:
        made = self.some(self.world.credentials)
        if made and made.owner:
            begin = self.now()
            answer = self.api.send(
                'DELETE',
                f'{self._credentials(made.owner)}/{made.id}',
                self.tokens[made.owner.label],
            )
            self.record(
                'credential.delete',
                begin,
                answer,
                entity=made.label,
                of='credential',
            )

    def list_credentials(self, owner: User) -> Operation:
        begin = self.now()
        answer = self.api.send(
            'GET', self._credentials(owner), self.tokens[owner.label]
        )
        found = (
            {each['description']: each['name'] for each in answer.entity}
            if answer
            else {}
        )
        return self.record(
            'credential.list',
            begin,
            answer,
            {'found': found},
            owner=owner.label,
        )

    # -- credentials, which one region alone agrees on

    def secret_pass(self) -> None:
        """Make one and delete it at once: what hangs may come later."""
        made = self._create_secret()
        if made.id:
            self._delete_secret(made)

    def secret_create(self) -> None:
        self._create_secret()

    def _create_secret(self) -> Entity:
        made = Entity(self.world.label('K'), 'secret', '')
        content = self.world.label('k')
        begin = self.now()
        answer = self.api.send(
            'POST',
            '/credentials',
            self.admin,
            json={
                'credential': {
                    'user_id': self.random.choice(self.world.owners).id,
                    'type': 'secret',
                    'blob': content,
                }
            },
        )
        if answer:
            made.id = answer.entity['id']
            self.world.secrets.append(made)
        self._record_secret('secret.create', begin, answer, made, content)
        return made

    def secret_change(self) -> None:
        if made := self.some(self.world.secrets, 3):
            content = self.world.label('k')
            begin = self.now()
            answer = self.api.send(
                'PATCH',
                f'/credentials/{made.id}',
                self.admin,
                json={'credential': {'blob': content}},
            )
            self._record_secret('secret.change', begin, answer, made, content)

    def _record_secret(
        self,
        kind: str,
        begin: float,
        answer: Answer,
        made: Entity,
        content: str,
    ) -> None:
        self.record(
            kind,
            begin,
            answer,
            entity=made.label,
            of='secret',
            name=content,
        )

    def secret_delete(self) -> None:
        if made := self.some(self.world.secrets, 3):
            self._delete_secret(made)

    def _delete_secret(self, made: Entity) -> None:
        begin = self.now()
        path = f'/credentials/{made.id}'
        answer = self.api.send('DELETE', path, self.admin)
        self.record(
            'secret.delete', begin, answer, entity=made.label, of='secret'
        )

    def secret_show(self) -> None:
        if made := self.some(self.world.secrets, 3):
            self.show_secret(made)

    def show_secret(self, made: Entity) -> Operation:
        begin = self.now()
        path = f'/credentials/{made.id}'
        answer = self.api.send('GET', path, self.admin)
        shown = {'name': answer.entity['blob']} if answer else {}
        return self.record(
            'secret.show',
            begin,
            answer,
            shown,
            entity=made.label,
            of='secret',
        )
