# SPDX-License-Identifier: Apache-2.0
"""Removal of federated identities when their provider is deleted.

As with SQL's foreign keys, a user loses its federated identities (idp_id,
protocol_id, unique_id) of the provider.  A user without any other name is
deleted.

::

    another name is left:  memberships that the provider asserts
                           -> claim pending -> user -> claim freed
    no name is left:       memberships -> claim pending -> user -> claim freed

A user is listed until its row has changed, so the same call after a crash
finds all users that are left.
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
    """The user was changed since it was read."""


def forget(db: Store, idp_id: str, protocol_id: str | None = None) -> None:
    """Remove the federated identities of a provider from all users.

    :param protocol_id: only those of this protocol; None is all of them, and
        the memberships that the provider asserts.
    """
    for user_id in BY_IDP.ids_after(db, idp_id, None, _AT_ONCE):
        _until_unchanged(_forget, db, user_id, idp_id, protocol_id)


def forget_user(db: Store, user_id: str) -> None:
    """Remove all federated identities of a user."""
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
