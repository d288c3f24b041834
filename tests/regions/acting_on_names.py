# SPDX-License-Identifier: Apache-2.0
"""What clients do with what has a name that all regions agree on."""

from __future__ import annotations

import secrets

from tests.regions.actors import Actor
from tests.regions.api import Answer
from tests.regions.history import OK, UNKNOWN, Operation
from tests.regions.world import KINDS, Entity


class OnNames(Actor):
    """Users, groups and projects that come and go."""

    # -- names

    def _path(self, entity: Entity) -> str:
        return f'/{KINDS[entity.kind]}/{entity.id}'

    def name_create(self) -> None:
        kind = self.random.choice(list(KINDS))
        name = self.random.choice(self.world.names(kind))
        entity = Entity(self.world.label('E'), kind, name)
        entity.secret = secrets.token_urlsafe(12)
        new = {
            'name': name,
            'domain_id': self.world.domain,
            # By which it is known if the answer is lost.
            'description': entity.label,
        }
        if kind == 'user':
            new['password'] = entity.secret
        begin = self.now()
        answer = self.api.send(
            'POST', f'/{KINDS[kind]}', self.admin, json={kind: new}
        )
        if answer:
            entity.id = answer.entity['id']
        if answer.outcome in (OK, UNKNOWN):
            self.world.entities.append(entity)
        self.record(
            'name.create',
            begin,
            answer,
            entity=entity.label,
            of=kind,
            name=name,
        )

    def name_rename(self) -> None:
        if entity := self.some(self.world.entities):
            name = self.random.choice(self.world.names(entity.kind))
            begin = self.now()
            answer = self._change(entity, name=name)
            self.record(
                'name.rename',
                begin,
                answer,
                entity=entity.label,
                of=entity.kind,
                name=name,
            )

    def _change(self, entity: Entity, **changes: object) -> Answer:
        return self.api.send(
            'PATCH',
            self._path(entity),
            self.admin,
            json={entity.kind: changes},
        )

    def name_change(self) -> None:
        """Change something that needs no other region."""
        if entity := self.some(self.world.entities):
            word = f'{entity.label} {self.world.label("c")}'
            begin = self.now()
            answer = self._change(entity, description=word)
            self.record('name.change', begin, answer, entity=entity.label)

    def name_delete(self) -> None:
        if entity := self.some(self.world.entities):
            begin = self.now()
            path = self._path(entity)
            answer = self.api.send('DELETE', path, self.admin)
            self.record(
                'name.delete',
                begin,
                answer,
                entity=entity.label,
                of=entity.kind,
            )

    def name_find(self) -> None:
        kind = self.random.choice(list(KINDS))
        self.find(kind, self.random.choice(self.world.names(kind)))

    def find(self, kind: str, name: str | None = None) -> Operation:
        """Find what has a name; without one, all of the domain."""
        begin = self.now()
        path = f'/{KINDS[kind]}?domain_id={self.world.domain}'
        if name is not None:
            path += f'&name={name}'
        answer = self.api.send('GET', path, self.admin)
        found = {}
        if answer:
            for each in answer.entity:
                label, *_ = (each.get('description') or 'none').split()
                if each['name'] in self.world.names(kind):
                    found[label] = each['name']
                    self._is_known(label, each['id'])
        return self.record(
            'name.find', begin, answer, {'found': found}, of=kind, name=name
        )

    def _is_known(self, label: str, entity_id: str) -> None:
        for each in self.world.entities:
            if each.label == label and not each.id:
                each.id = entity_id

    def show(self, entity: Entity) -> Operation:
        begin = self.now()
        answer = self.api.send('GET', self._path(entity), self.admin)
        shown = {'name': answer.entity['name']} if answer else {}
        return self.record(
            'name.show',
            begin,
            answer,
            shown,
            entity=entity.label,
            of=entity.kind,
        )

    def name_log_in(self) -> None:
        users = [x for x in self.world.entities if x.kind == 'user']
        if entity := self.some(users):
            name = self.random.choice(self.world.names('user'))
            begin = self.now()
            answer = self.api.log_in_by_name(
                name, self.world.domain, entity.secret
            )
            self.record(
                'name.log_in', begin, answer, entity=entity.label, name=name
            )
