# SPDX-License-Identifier: Apache-2.0
"""Removal of federated identities when their provider is deleted.

As with SQL's foreign keys, a user loses its federated identities (idp_id,
protocol_id, unique_id) of the provider.  A user without any other name is
deleted.  A user is listed until its row has changed, so the same call after a
crash finds all users that are left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.drivers.identity import (
    identities,
    memberships,
    users,
)
from keystone_cassandra_token.drivers.identity.users import BY_IDP, USERS

Identity = Mapping[str, Any]

#: Users that are listed at once; a provider can have millions.
_AT_ONCE = 100


class _Nameless(Exception):
    """The user would be left without any name."""


def forget(db: Store, idp_id: str, protocol_id: str | None = None) -> None:
    """Remove the federated identities of a provider from all users.

    :param protocol_id: only those of this protocol; None is all of them, and
        the memberships that the provider asserts.
    """

    def goes(identity: Identity) -> bool:
        return identity['idp_id'] == idp_id and (
            protocol_id in (None, identity['protocol_id'])
        )

    for user_id in BY_IDP.ids_after(db, idp_id, None, _AT_ONCE):
        if protocol_id is None:
            memberships.remove_asserted(db, user_id, idp_id)
        _forget(db, user_id, goes)


def forget_user(db: Store, user_id: str) -> None:
    """Remove all federated identities of a user."""
    user = USERS.entity.find(db, user_id)
    if user is not None and identities.of(user):
        USERS.change(db, user_id, lambda user: identities.setting(user, ()))


def _forget(db: Store, user_id: str, goes: Callable[[Identity], bool]) -> None:
    def stripped(user: dict[str, Any]) -> dict[str, Any]:
        if _is_nameless(user, goes):
            raise _Nameless
        return identities.setting(user, _staying(user, goes))

    attempts = USERS.entity.attempts(user_id)
    while attempts.another():
        try:
            USERS.change(db, user_id, stripped)
        except _Nameless:
            if not users.remove(
                db, user_id, lambda user: _is_nameless(user, goes)
            ):
                continue  # it has another name by now, or is gone
        return


def _staying(
    user: Mapping[str, Any], goes: Callable[[Identity], bool]
) -> list[Identity]:
    return [each for each in identities.of(user) if not goes(each)]


def _is_nameless(
    user: Mapping[str, Any], goes: Callable[[Identity], bool]
) -> bool:
    """Return whether a user has no name but for identities that go."""
    names = (user['local_name'], user['nonlocal_name'])
    return names == (None, None) and not _staying(user, goes)
