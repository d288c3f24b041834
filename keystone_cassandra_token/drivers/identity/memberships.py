# SPDX-License-Identifier: Apache-2.0
"""Who is in which group.

``membership_by_user`` is the source of truth, since each log-in asks for a
user's groups; ``membership_by_group`` holds ids.  ``tables.association`` says
in which order the two are written.  ``expiring_membership`` has those that an
identity provider asserts: a log-in writes them again with a TTL, and a
removal carries the timestamp of what it read, so it never hides what was
written since and always wins over what it saw.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from typing import Any

from keystone import exception
from keystone.common import provider_api
from keystone.conf import CONF

from keystone_cassandra_token.db import changes, clock, parts
from keystone_cassandra_token.db.cql import escalated_read, read, write
from keystone_cassandra_token.db.request import Future
from keystone_cassandra_token.db.rows import Row, micros
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.tables.association import Association

MEMBERSHIPS = Association(
    'membership_by_user',
    Row('user_id', 'group_id'),
    listed='membership_by_group',
)
MEMBERSHIP_DERIVED = MEMBERSHIPS.derived()

EXPIRING = Row('user_id', 'group_id', 'idp_id', last_verified=micros)
#: A row stays this much longer than its membership, should its identity
#: provider be given a longer life meanwhile.
_MARGIN = datetime.timedelta(days=1)

#: Memberships that end: those that last, and those that expire.
Ended = tuple[list[dict[str, Any]], list[dict[str, Any]]]

LIST_EXPIRING = read(
    f'SELECT {EXPIRING}, WRITETIME(last_verified) AS written_at'
    ' FROM expiring_membership WHERE user_id = :user_id'
)
LIST_EXPIRING_EVERYWHERE = escalated_read(LIST_EXPIRING.cql)
INSERT_EXPIRING = write(
    f'INSERT INTO expiring_membership ({EXPIRING}) VALUES ({EXPIRING.markers})'
).expiring()
DELETE_EXPIRING = write(
    'DELETE FROM expiring_membership USING TIMESTAMP :written_at'
    ' WHERE user_id = :user_id AND group_id = :group_id AND idp_id = :idp_id'
)


def of_user(db: Store, user_id: str) -> Ended:
    """Return all memberships of a user as they are now, to be ended."""
    return MEMBERSHIPS.of(db, user_id), asserted(db, user_id)


def end(db: Store, found: Ended) -> None:
    """End memberships as they were found; those made since are others."""
    lasting, expire = found
    MEMBERSHIPS.discard_all(db, lasting)
    parts.each(db, remove_expiring, expire)


def remove_user(
    db: Store,
    user_id: str,
    provided: Callable[[], bool] = lambda: True,
) -> None:
    """End all memberships of a user.

    :param provided: asked when they were read and none has been ended, if
        there are any; whether to end them.
    """
    found = of_user(db, user_id)
    if any(found) and provided():
        end(db, found)


def remove_asserted(db: Store, user_id: str, idp_id: str) -> None:
    """End what an identity provider asserts of a user."""
    for row in asserted(db, user_id):
        if row['idp_id'] == idp_id:
            remove_expiring(db, row)


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
    return expiring_async(db, user_id).result()


def expiring_async(db: Store, user_id: str) -> Future[list[dict[str, Any]]]:
    """Ask for :func:`expiring`."""
    rows = db.rows_async(LIST_EXPIRING, EXPIRING, user_id=user_id)
    return rows.then(lambda found: _not_expired(found))


def _not_expired(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    now = clock.utcnow()
    idp_ids = {row['idp_id'] for row in rows}
    lives = {idp_id: lifetime(idp_id) for idp_id in idp_ids}
    found = [
        row | {'expires_at': row['last_verified'] + life}
        for row in rows
        if (life := lives[row['idp_id']]) is not None
    ]
    return [row for row in found if row['expires_at'] > now]


changes.FETCH['expiring_membership'] = lambda db, keys: db.many(
    LIST_EXPIRING_EVERYWHERE, EXPIRING, keys
)


def renew(db: Store, user_id: str, group_id: str, idp_id: str) -> None:
    """Write an expiring membership, for its whole life again."""
    now = clock.utcnow()
    values = {
        'user_id': user_id,
        'group_id': group_id,
        'idp_id': idp_id,
        'last_verified': now,
    }
    known = any(
        (row['group_id'], row['idp_id']) == (group_id, idp_id)
        for row in db.rows(LIST_EXPIRING, EXPIRING, user_id=user_id)
    )
    life = lifetime(idp_id)
    # Without its identity provider it counts for nothing.
    end = now + _MARGIN if life is None else now + life + _MARGIN
    db.run(INSERT_EXPIRING, ttl=clock.ttl_until(end), **EXPIRING.dump(values))
    if not known:  # else nothing is another for it
        changes.tell(db, 'expiring_membership', {'user_id': user_id})


def lifetime(idp_id: str) -> datetime.timedelta | None:
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
    user_id = membership['user_id']
    changes.tell(db, 'expiring_membership', {'user_id': user_id})
