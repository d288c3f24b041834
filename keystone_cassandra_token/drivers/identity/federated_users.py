# SPDX-License-Identifier: Apache-2.0
"""What becomes of users whom an identity provider knows no longer.

What SQL's foreign keys do, and its driver after them: a user loses what the
provider calls it, and who then has no name left is deleted.

::

    who keeps a name:  memberships that the provider asserts -> claim pending
                       -> user -> claim freed
    who keeps none:    memberships -> claim pending -> user -> claim freed

Until its row is changed a user is listed, so whoever repeats this after a
crash finds all who are left.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.drivers.identity import memberships
from keystone_cassandra_token.drivers.identity.users import (
    BY_IDP,
    USERS,
    releasing_federated,
)

Identity = Mapping[str, Any]

#: Users that are listed at once; a provider can have millions.
_AT_ONCE = 100


class _Changed(Exception):
    """Somebody else has changed the user since it was read."""


def forget(db: Store, idp_id: str, protocol_id: str | None = None) -> None:
    """Take from all users what an identity provider calls them.

    :param protocol_id: by this protocol alone; None is by any, and with what
        the provider says of groups.
    """
    for user_id in BY_IDP.ids_after(db, idp_id, None, _AT_ONCE):
        _until_unchanged(_forget, db, user_id, idp_id, protocol_id)


def forget_user(db: Store, user_id: str) -> None:
    """Take from a user what any identity provider calls it."""
    _until_unchanged(_forget_user, db, user_id)


def _until_unchanged(
    step: Callable[..., None], db: Store, user_id: str, *arguments: Any
) -> None:
    attempts = USERS.entity.attempts(user_id)
    while attempts.another():
        with contextlib.suppress(_Changed):
            return step(db, user_id, *arguments)


def _forget_user(db: Store, user_id: str) -> None:
    user = USERS.entity.find(db, user_id)
    if user is not None and user['federated']:
        _take(db, user, user['federated'], [])


def _forget(
    db: Store, user_id: str, idp_id: str, protocol_id: str | None
) -> None:
    user = USERS.entity.find(db, user_id)
    if user is None:
        return
    known = user['federated'] or ()
    goes = [
        identity
        for identity in known
        if identity['idp_id'] == idp_id
        and protocol_id in (None, identity['protocol_id'])
    ]
    stays = [identity for identity in known if identity not in goes]
    if not goes:
        return
    if protocol_id is None:
        memberships.remove_asserted(db, user_id, idp_id)
    names = (user['local_name'], user['nonlocal_name'])
    if stays or names != (None, None):
        _take(db, user, goes, stays)
    else:
        _delete(db, user, goes)


def _take(
    db: Store,
    user: Identity,
    goes: Collection[Identity],
    stays: list[Identity],
) -> None:
    def unless_changed(now: dict[str, Any]) -> dict[str, Any]:
        if now['incarnation'] != user['incarnation']:
            raise _Changed
        return {'federated': stays}

    with releasing_federated(db, user['id'], goes):
        USERS.entity.change(db, user['id'], unless_changed)


def _delete(
    db: Store, user: dict[str, Any], goes: Collection[Identity]
) -> None:
    memberships.remove_user(db, user['id'])
    with releasing_federated(db, user['id'], goes):
        if not USERS.entity.discard(db, user):
            raise _Changed
    # What was added meanwhile: the id is computed, and can come back.
    memberships.remove_user(db, user['id'])
