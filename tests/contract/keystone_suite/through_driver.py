# SPDX-License-Identifier: Apache-2.0
"""Users as Keystone's tests look at them: as rows of its SQL model.

Some of Keystone's tests set what no call sets, the day of a last activity
say, and look at what no call shows, by ``session.get(model.User, id)``.  The
sessions here do that on our rows; all else is the tests' own.
"""

from __future__ import annotations

import contextlib
import datetime
import types
from collections.abc import Iterator
from typing import Any

from keystone.common import sql
from keystone.identity.backends import sql_model

from keystone_cassandra_token import clock, users
from keystone_cassandra_token.drivers import identity, shadow_users
from keystone_cassandra_token.users import USERS


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
            types.SimpleNamespace(**each) for each in stored['federated'] or ()
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
        return users.presented(self._stored)

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
    """A session that knows users from Cassandra, and saves them."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.seen: list[UserRef] = []

    def get(self, model: Any, key: Any) -> Any:
        if model is not sql_model.User:
            return self._inner.get(model, key)
        stored = USERS.entity.find(identity.Identity().db, key)
        if stored is None:
            return None
        self.seen.append(UserRef(stored))
        return self.seen[-1]

    def add(self, entity: Any) -> None:
        if isinstance(entity, sql_model.User):
            _create(entity)
        else:
            self._inner.add(entity)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Sql:
    """``keystone.common.sql``, but for these sessions."""

    @staticmethod
    @contextlib.contextmanager
    def session_for_read() -> Iterator[Session]:
        with sql.session_for_read() as inner:
            yield Session(inner)

    @staticmethod
    @contextlib.contextmanager
    def session_for_write() -> Iterator[Session]:
        with sql.session_for_write() as inner:
            session = Session(inner)
            yield session
            for user in session.seen:
                user.save()

    def __getattr__(self, name: str) -> Any:
        return getattr(sql, name)


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
