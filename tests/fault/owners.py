# SPDX-License-Identifier: Apache-2.0
"""Creators that stall after their claim: of trusts and of users."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

import cassandra
import cassandra.query

from keystone_cassandra_token.db import clock
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.drivers import trust
from keystone_cassandra_token.drivers.identity import driver as identity
from keystone_cassandra_token.drivers.identity import users

HOUR = datetime.timedelta(hours=1)


class Trusts:
    """Trusts, of which no two are equal."""

    table = 'trust'
    ttl = 3600
    row = trust.TRUST
    claims = trust.CLAIMS
    get = trust.GET
    get_everywhere = trust.GET_EVERYWHERE

    def new(self):
        return {
            'trustor_user_id': uuid.uuid4().hex,
            'trustee_user_id': uuid.uuid4().hex,
            'project_id': uuid.uuid4().hex,
            'impersonation': False,
            'expires_at': clock.utcnow() + HOUR,
            'remaining_uses': None,
        }

    def stored(self, trust_id, values):
        return trust.to_row(trust_id, values, [])

    def key(self, db, values):
        return trust.claim_key(self.stored('any', values))

    def create(self, trust_id, values):
        trust.Trust().create_trust(trust_id, values, [])


class Users:
    """Users, of which no two of a domain have one name."""

    table = 'user'
    ttl = None
    row = users.USERS.entity.row
    claims = users.USERS.claims
    get = users.USERS.entity.get
    get_everywhere = users.USERS.entity.get_everywhere

    def new(self):
        return {
            'name': uuid.uuid4().hex,
            'domain_id': uuid.uuid4().hex,
            'enabled': True,
        }

    def stored(self, user_id, values):
        return users.USERS.entity.new(
            {'id': user_id, 'lock_epoch': 0, **users.to_row(values)}
        )

    def key(self, db, values):
        return users.name_key(db, values['domain_id'], values['name'])

    def create(self, user_id, values):
        identity.Identity().create_user(user_id, values | {'id': user_id})


class Case:
    """What creators and owners of one kind want, by name.

    :ivar slow: the owner of ``taken``, whose row comes late.
    :ivar absent: the owner of ``untold``, whose row never comes.
    :ivar winner: who wants either.
    """

    def __init__(self, kind: Trusts | Users) -> None:
        self.kind = kind
        self.slow, self.absent, self.winner = (
            uuid.uuid4().hex for _ in range(3)
        )
        self.taken, self.untold = kind.new(), kind.new()

    def claim(self, db: Store) -> None:
        """Leave the claims of the two creators that stall."""
        for owner, values in (
            (self.slow, self.taken),
            (self.absent, self.untold),
        ):
            self.kind.claims.take(
                db, owner, self.kind.key(db, values), self, self.kind.ttl
            )

    def has(self, db: Store, owner: str, key: Any) -> bool:
        raise NotImplementedError('there is no other owner yet')

    def fence(self, db: Store, owner: str) -> None:
        raise NotImplementedError('there is no other owner yet')

    def owner(self, db: Store, values: dict[str, Any]) -> str | None:
        return self.kind.claims.owner(db, **self.kind.key(db, values))

    def write(self, session: Any, keyspace: str) -> None:
        """Write what the slow one writes, in the datacenter of a session."""
        row = self.kind.row.dump(self.kind.stored(self.slow, self.taken))
        row = {name: value for name, value in row.items() if value is not None}
        statement = cassandra.query.SimpleStatement(
            f'INSERT INTO {keyspace}."{self.kind.table}" ({", ".join(row)})'
            f' VALUES ({", ".join(["%s"] * len(row))})'
            + (f' USING TTL {self.kind.ttl}' if self.kind.ttl else ''),
            consistency_level=cassandra.ConsistencyLevel.LOCAL_QUORUM,
        )
        session.execute(statement, list(row.values()), timeout=30)
