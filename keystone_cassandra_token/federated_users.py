# SPDX-License-Identifier: Apache-2.0
"""What becomes of users when their identity provider is deleted.

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
from collections.abc import Collection, Mapping
from typing import Any

from keystone_cassandra_token import memberships
from keystone_cassandra_token.entity import contended
from keystone_cassandra_token.store import Store
from keystone_cassandra_token.uniqueness import Key
from keystone_cassandra_token.users import (
    BY_IDP,
    FEDERATED,
    FEDERATED_NAMES,
    USERS,
)

Identity = Mapping[str, Any]

_ATTEMPTS = 16
#: Users that are listed at once; a provider can have millions.
_AT_ONCE = 100


class _Changed(Exception):
    """Somebody else has changed the user since it was read."""


def forget(db: Store, idp_id: str, protocol_id: str | None = None) -> None:
    """Take from all users what an identity provider calls them.

    :param protocol_id: by this protocol alone; None is by any, and with what
        the provider says of groups.
    """
    for user_id in BY_IDP.ids_behind(db, idp_id, None, _AT_ONCE):
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(_Changed):
                _forget(db, user_id, idp_id, protocol_id)
                break
        else:
            raise contended()


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

    with _released(db, user, goes):
        USERS.entity.change(db, user['id'], unless_changed)


def _delete(
    db: Store, user: dict[str, Any], goes: Collection[Identity]
) -> None:
    memberships.remove_user(db, user['id'])
    with _released(db, user, goes):
        if not USERS.entity.discard(db, user):
            raise _Changed
    # What was added meanwhile: the id is computed, and can come back.
    memberships.remove_user(db, user['id'])


def _released(
    db: Store, user: Identity, goes: Collection[Identity]
) -> contextlib.AbstractContextManager[None]:
    def known_so(user_id: str, key: Key) -> bool:
        now = USERS.entity.find(db, user_id, USERS.get_everywhere)
        known = (now and now['federated']) or ()
        return any(_key(identity) == key for identity in known)

    return FEDERATED_NAMES.all_released(
        db, user['id'], map(_key, goes), exists=known_so
    )


def _key(identity: Identity) -> dict[str, Any]:
    return {name: identity[name] for name in FEDERATED}
