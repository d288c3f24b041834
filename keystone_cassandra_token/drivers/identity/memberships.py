# SPDX-License-Identifier: Apache-2.0
"""Who is in which group.

``membership_by_user`` is the truth, since each log-in asks for a user's
groups; ``membership_by_group`` holds ids.  Memberships are made and removed
conditionally, so that a removal counts whatever the clocks of two servers
say.  ``expiring_membership`` has those that an identity provider asserts: a
log-in writes them again with a TTL, and a removal carries the timestamp of
what it read, so it never hides what was written since and always wins over
what it saw.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from typing import Any

from keystone import exception
from keystone.common import provider_api
from keystone.conf import CONF

from keystone_cassandra_token.db import clock
from keystone_cassandra_token.db.cql import mutate, mutate_read, read, write
from keystone_cassandra_token.db.rows import Row, micros
from keystone_cassandra_token.db.store import Store, created, deleted
from keystone_cassandra_token.tables.derived import Kind
from keystone_cassandra_token.tables.index import ALL_SHARDS, Link, shard_of

MEMBERSHIP = Row('user_id', 'group_id', 'incarnation')
MEMBER = Row('group_id', 'shard', 'user_id', 'incarnation')
EXPIRING = Row('user_id', 'group_id', 'idp_id', last_verified=micros)
#: A row stays this much longer than its membership, should its identity
#: provider be given a longer life meanwhile.
_MARGIN = datetime.timedelta(days=1)

LIST_BY_USER = read(
    f'SELECT {MEMBERSHIP} FROM membership_by_user WHERE user_id = :user_id'
)
GET = read(
    f'SELECT {MEMBERSHIP} FROM membership_by_user'
    ' WHERE user_id = :user_id AND group_id = :group_id'
)
SETTLE = mutate_read(
    f'SELECT {MEMBERSHIP} FROM membership_by_user'
    ' WHERE user_id = :user_id AND group_id = :group_id'
)
# A removal must count whatever the clocks say.
INSERT = mutate(
    f'INSERT INTO membership_by_user ({MEMBERSHIP})'
    f' VALUES ({MEMBERSHIP.markers}) IF NOT EXISTS'
)
DELETE = mutate(
    'DELETE FROM membership_by_user WHERE user_id = :user_id'
    ' AND group_id = :group_id IF incarnation = :seen'
)

LIST_BY_GROUP = read(
    f'SELECT {MEMBER} FROM membership_by_group'
    ' WHERE group_id = :group_id AND shard IN :shards'
)
INSERT_MEMBER = write(
    f'INSERT INTO membership_by_group ({MEMBER}) VALUES ({MEMBER.markers})'
)
DELETE_MEMBER = write(
    'DELETE FROM membership_by_group WHERE group_id = :group_id'
    ' AND shard = :shard AND user_id = :user_id'
    ' AND incarnation = :incarnation'
)


def _member(membership: Mapping[str, Any]) -> dict[str, Any]:
    return {
        'group_id': membership['group_id'],
        'shard': shard_of(membership['user_id']),
        'user_id': membership['user_id'],
        'incarnation': membership['incarnation'],
    }


MEMBERSHIP_KIND = Kind(
    'membership_by_user',
    MEMBERSHIP,
    key=['user_id', 'group_id'],
    links=[
        Link(
            'membership_by_group',
            MEMBER,
            MEMBER.columns,
            lambda membership: [_member(membership)],
        )
    ],
)

LIST_EXPIRING = read(
    f'SELECT {EXPIRING}, WRITETIME(last_verified) AS written_at'
    ' FROM expiring_membership WHERE user_id = :user_id'
)
INSERT_EXPIRING = write(
    f'INSERT INTO expiring_membership ({EXPIRING}) VALUES ({EXPIRING.markers})'
).expiring()
DELETE_EXPIRING = write(
    'DELETE FROM expiring_membership USING TIMESTAMP :written_at'
    ' WHERE user_id = :user_id AND group_id = :group_id AND idp_id = :idp_id'
)


def add(db: Store, user_id: str, group_id: str) -> None:
    """Make a user a member; again is harmless.

    :raises OutcomeUnknown: if it cannot be found out whether that was done;
        doing it again does no harm.
    """
    new = {
        'user_id': user_id,
        'group_id': group_id,
        'incarnation': clock.incarnation(),
    }
    db.run(INSERT_MEMBER, **_member(new))
    made = created(new['incarnation'])
    if not db.cas_settled(INSERT, SETTLE, made, **new):  # a member already
        db.run(DELETE_MEMBER, **_member(new))


def find(db: Store, user_id: str, group_id: str) -> dict[str, Any] | None:
    """Return a membership that does not expire, or None."""
    return db.one(GET, MEMBERSHIP, user_id=user_id, group_id=group_id)


def remove(db: Store, membership: Mapping[str, Any]) -> bool:
    """End a membership; return whether it still was one.

    :param membership: as it was found.
    :raises OutcomeUnknown: as :func:`add`.
    """
    key = {name: membership[name] for name in ('user_id', 'group_id')}
    seen = membership['incarnation']
    gone = db.cas_settled(DELETE, SETTLE, deleted(seen), **key, seen=seen)
    db.run(DELETE_MEMBER, **_member(membership))
    return bool(gone)


def of_user(db: Store, user_id: str) -> list[str]:
    """Return the ids of the groups that a user is in for good."""
    return ask_of_user(db, user_id)()


def ask_of_user(db: Store, user_id: str) -> Callable[[], list[str]]:
    """Ask for a user's groups; return a function that waits for them."""
    rows = db.ask_all(LIST_BY_USER, MEMBERSHIP, user_id=user_id)
    return lambda: [row['group_id'] for row in rows()]


def of_group(db: Store, group_id: str) -> list[str]:
    """Return the ids of the users that are in a group for good."""
    listed = db.rows(
        LIST_BY_GROUP, MEMBER, group_id=group_id, shards=ALL_SHARDS
    )
    users = dict.fromkeys(row['user_id'] for row in listed)
    keys = ({'user_id': user_id, 'group_id': group_id} for user_id in users)
    found = db.many(GET, MEMBERSHIP, keys)
    return [row['user_id'] for rows in found for row in rows]


def remove_user(
    db: Store,
    user_id: str,
    provided: Callable[[], bool] = lambda: True,
) -> None:
    """End all memberships of a user.

    :param provided: asked when they were read and none has been ended, if
        there are any; whether to end them.
    """
    lasting = db.rows(LIST_BY_USER, MEMBERSHIP, user_id=user_id)
    expire = asserted(db, user_id)
    if not (lasting or expire) or not provided():
        return
    for row in lasting:
        remove(db, row)
    for row in expire:
        remove_expiring(db, row)


def remove_asserted(db: Store, user_id: str, idp_id: str) -> None:
    """End what an identity provider asserts of a user."""
    for row in asserted(db, user_id):
        if row['idp_id'] == idp_id:
            remove_expiring(db, row)


def remove_group(db: Store, group_id: str) -> None:
    """End all memberships in a group."""
    for user_id in of_group(db, group_id):
        found = find(db, user_id, group_id)
        if found is not None:
            remove(db, found)


def asserted(db: Store, user_id: str) -> list[dict[str, Any]]:
    """Return a user's expiring memberships, also those that have expired.

    To a log-in these are known: one that is renewed is no change.
    """
    return db.rows(LIST_EXPIRING, EXPIRING, user_id=user_id)


def expiring(db: Store, user_id: str) -> list[dict[str, Any]]:
    """Return a user's expiring memberships that have not expired.

    Each with ``expires_at``, by what its identity provider allows now: to
    allow less counts at once, and to delete the provider ends them.
    """
    return ask_expiring(db, user_id)()


def ask_expiring(
    db: Store, user_id: str
) -> Callable[[], list[dict[str, Any]]]:
    """Ask for :func:`expiring`; return a function that waits for it."""
    rows = db.ask_all(LIST_EXPIRING, EXPIRING, user_id=user_id)
    return lambda: _not_expired(rows())


def _not_expired(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    now = clock.utcnow()
    lives = {idp_id: _life(idp_id) for idp_id in {r['idp_id'] for r in rows}}
    found = [
        row | {'expires_at': row['last_verified'] + life}
        for row in rows
        if (life := lives[row['idp_id']]) is not None
    ]
    return [row for row in found if row['expires_at'] > now]


def renew(db: Store, user_id: str, group_id: str, idp_id: str) -> None:
    """Write an expiring membership, for its whole life again."""
    now = clock.utcnow()
    values = {
        'user_id': user_id,
        'group_id': group_id,
        'idp_id': idp_id,
        'last_verified': now,
    }
    life = _life(idp_id)
    # Without its identity provider it counts for nothing.
    end = now + _MARGIN if life is None else now + life + _MARGIN
    db.run(INSERT_EXPIRING, ttl=clock.ttl_until(end), **EXPIRING.dump(values))


def _life(idp_id: str) -> datetime.timedelta | None:
    """Return for how long an identity provider's word is taken.

    None if there is no such provider.
    """
    federation = provider_api.ProviderAPIs.federation_api
    try:
        minutes = federation.get_idp(idp_id)['authorization_ttl']
    except exception.IdentityProviderNotFound:
        return None
    return datetime.timedelta(
        minutes=minutes or CONF.federation.default_authorization_ttl
    )


def remove_expiring(db: Store, membership: Mapping[str, Any]) -> None:
    """End an expiring membership, as it was found."""
    names = ('user_id', 'group_id', 'idp_id', 'written_at')
    db.run(DELETE_EXPIRING, **{name: membership[name] for name in names})
