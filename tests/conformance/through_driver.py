# SPDX-License-Identifier: Apache-2.0
"""Users as Keystone's tests look at them: as rows of its SQL model.

Some of Keystone's tests set what no call sets, the day of a last activity
say, and look at what no call shows, by ``session.get(model.User, id)``.  The
sessions here do that on our rows; all else is the tests' own.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

from keystone.identity.backends import sql_model
from keystone.identity.mapping_backends import sql as mapping_sql

from keystone_cassandra_token.db import clock
from keystone_cassandra_token.drivers.identity import driver as identity
from keystone_cassandra_token.drivers.identity import (
    id_mapping,
    identities,
    memberships,
    shadow_users,
    users,
)
from keystone_cassandra_token.drivers.identity.users import USERS


class PasswordRef:
    """One password, as the model shows it; changes go to the row's."""

    def __init__(self, stored: dict[str, Any]) -> None:
        self._stored = stored

    def _time(name: str) -> Any:  # noqa: N805
        def get(self: PasswordRef) -> datetime.datetime | None:
            value = self._stored[name]
            return None if value is None else clock.from_micros(value)

        def put(self: PasswordRef, value: datetime.datetime | None) -> None:
            self._stored[name] = value and clock.to_micros(value)

        return property(get, put)

    created_at = created_at_int = _created_at = _time('created_at')
    expires_at = expires_at_int = _expires_at = _time('expires_at')


class UserRef:
    """A user, as the model shows it."""

    def __init__(self, stored: dict[str, Any]) -> None:
        self._stored = stored
        passwords = [PasswordRef(each) for each in stored['passwords'] or ()]
        self.id = stored['id']
        self.last_active_at = stored['last_active_on']
        self.local_user = None
        if stored['local_name'] is not None or passwords:
            self.local_user = types.SimpleNamespace(passwords=passwords)
        self.password_ref = passwords[-1] if passwords else None
        present = users.password(stored)
        self.password = present and present['hash']
        self.federated_users = [
            types.SimpleNamespace(**each) for each in identities.of(stored)
        ]
        self._resource_option_mapper = {
            name: types.SimpleNamespace(option_value=value)
            for name, value in (stored['options'] or {}).items()
            if value is not None
        }

    @property
    def enabled(self) -> bool | None:
        return users.is_enabled(self._stored)

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    def to_dict(self) -> dict[str, Any]:
        return users.to_ref(self._stored)

    def _get_password_expires_at(
        self, created_at: datetime.datetime
    ) -> datetime.datetime | None:
        return sql_model.User()._get_password_expires_at(created_at)

    def save(self) -> None:
        changed = USERS.entity.change(
            identity.Identity().db,
            self.id,
            {
                'last_active_on': self.last_active_at,
                'passwords': self._stored['passwords'],
            },
        )
        assert changed is not None


class Session:
    """A session that knows the models that the tests look at."""

    def __init__(self) -> None:
        self._seen: list[UserRef] = []

    def get(self, model: Any, key: Any) -> Any:
        if model is not sql_model.User:
            raise NotImplementedError(model)
        stored = USERS.entity.find(identity.Identity().db, key)
        if stored is None:
            return None
        self._seen.append(UserRef(stored))
        return self._seen[-1]

    def query(self, model: Any) -> Query:
        return Query(_READERS[model])

    def add(self, entity: Any) -> None:
        if isinstance(entity, sql_model.User):
            _create(entity)
        elif isinstance(entity, sql_model.ExpiringUserGroupMembership):
            memberships.renew(
                identity.Identity().db,
                entity.user_id,
                entity.group_id,
                entity.idp_id,
            )
        elif entity not in self._seen:
            raise NotImplementedError(type(entity))

    def save(self) -> None:
        for user in self._seen:
            user.save()


@contextlib.contextmanager
def session() -> Iterator[Session]:
    """Stand for ``session_for_read`` and ``session_for_write``."""
    opened = Session()
    yield opened
    opened.save()


class Query:
    """A query of a model: ``all``, ``count``, and ``filter_by`` once."""

    def __init__(self, read: Callable[..., list[Any]]) -> None:
        self._read = read

    def filter_by(self, **values: str) -> Query:
        return Query(functools.partial(self._read, **values))

    def all(self) -> list[Any]:
        return self._read()

    def count(self) -> int:
        return len(self._read())


def _federated(user_id: str = '', **of: str) -> list[Any]:
    """Return federated objects: of one user, or of a provider or protocol."""
    db = shadow_users.ShadowUsers().db
    stored = (
        [USERS.entity.find(db, user_id)]
        if user_id
        else USERS.entity.scanned(db, shadow_users.LIST)
    )
    return [
        each
        for user in stored
        if user
        for each in identities.of(user)
        if of.items() <= each.items()
    ]


def _mappings() -> list[Any]:
    db = id_mapping.IDMappings().db
    return [
        types.SimpleNamespace(to_dict=lambda mapping=mapping: mapping)
        for mapping in db.iterate(id_mapping.LIST, id_mapping.MAPPING)
    ]


_READERS: dict[Any, Callable[..., list[Any]]] = {
    sql_model.FederatedUser: _federated,
    sql_model.UserGroupMembership: lambda user_id: memberships.MEMBERSHIPS.of(
        identity.Identity().db, user_id
    ),
    sql_model.ExpiringUserGroupMembership: (
        lambda user_id: memberships.asserted(identity.Identity().db, user_id)
    ),
    mapping_sql.IDMapping: _mappings,
}


def _create(user: sql_model.User) -> None:
    """Create the user that a test has put together."""
    local = user.local_user
    passwords = [
        {
            'hash': each.password_hash,
            'created_at': clock.to_micros(each.created_at),
            'expires_at': each.expires_at and clock.to_micros(each.expires_at),
            'self_service': bool(each.self_service),
        }
        for each in (local.passwords if local else ())
    ]
    stored = USERS.entity.new(
        {
            'id': user.id,
            'domain_id': user.domain_id,
            'enabled': user._enabled,
            'default_project_id': user.default_project_id,
            'local_name': local and local.name,
            'lock_epoch': 0,
            'created_at': user.created_at,
            'last_active_on': user.last_active_at,
            'passwords': passwords,
            'options': user._resource_options,
            'extra': user.extra,
        }
    )
    shadows = shadow_users.ShadowUsers()
    USERS.create(shadows.db, stored)
    for each in user.federated_users:
        shadows.create_federated_object(
            {
                'user_id': user.id,
                'idp_id': each.idp_id,
                'protocol_id': each.protocol_id,
                'unique_id': each.unique_id,
                'display_name': each.display_name,
            }
        )


def get_user(_driver: Any, _session: Any, user_id: str) -> UserRef:
    """What the tests call the SQL driver's ``_get_user``."""
    return UserRef(users.get(identity.Identity().db, user_id))


def get_federated_user(driver: Any, *key: str) -> UserRef:
    """What the tests call the SQL driver's ``_get_federated_user``."""
    shown = driver.get_federated_user(*key)
    return UserRef(users.get(driver.db, shown['id']))
