# SPDX-License-Identifier: Apache-2.0
"""Users: the rows that the drivers of identities and shadow users share.

``user`` is the source of truth: one row has names, passwords, options and
federated identities, so that one read authenticates.  A user's
names are claims: of a local user in its domain, of a non-local one in its
domain, and of each federated identity (idp_id, protocol_id, unique_id).
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from keystone import exception
from keystone.common import driver_hints
from keystone.conf import CONF
from keystone.identity.backends import base
from keystone.identity.backends import resource_options as options
from oslo_utils import timeutils

from keystone_cassandra_token.compat import (
    extras,
    lengths,
    listing,
    resource_options,
)
from keystone_cassandra_token.db import clock
from keystone_cassandra_token.db.consistency import Operation
from keystone_cassandra_token.db.rows import (
    Row,
    boolean,
    iso_date,
    json_map,
    json_text,
    micros,
    text,
)
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.drivers.identity import (
    identities,
    memberships,
    passwords,
)
from keystone_cassandra_token.tables.derived import DerivedTables
from keystone_cassandra_token.tables.entity import Entity
from keystone_cassandra_token.tables.index import Index, Indexes
from keystone_cassandra_token.tables.named import STAMPS, Named
from keystone_cassandra_token.tables.unique import Claims, ClaimSpec

Stored = dict[str, Any]

_OPTIONS = options.USER_OPTIONS_REGISTRY

#: What Keystone names of a user, but for its name and its password.
_REF = Row(
    id=text(64),
    domain_id=text(64, required=True),
    enabled=boolean,
    default_project_id=text(64),
    options=json_map,
    extra=json_map,
)
NAME = Row(name=text(255))
USER = _REF | Row(
    'lock_epoch',
    local_name=NAME.columns['name'],
    nonlocal_name=NAME.columns['name'],
    created_at=micros,
    last_active_on=iso_date,
    passwords=json_text,
    reset_passwords=json_text,
    chosen_passwords=json_map,
    federated=json_text,
    identities=json_map,
)
BY_DOMAIN = Index('user_by_domain', 'domain_id', versioned=True)
BY_DEFAULT_PROJECT = Index(
    'user_by_default_project', 'default_project_id', versioned=True
)
# So that an identity provider's users are found when it is deleted.
BY_IDP = Index(
    'federated_user_by_idp',
    'idp_id',
    versioned=True,
    values_of=lambda user: {each['idp_id'] for each in identities.of(user)},
)
# Keystone looks for them wherever users are listed by name.
BY_DISPLAY_NAME = Index(
    'federated_user_by_name',
    'display_name',
    sharded=False,
    versioned=True,
    values_of=lambda user: (
        {each['display_name'] for each in identities.of(user)}
        - {None, ''}  # nobody asks for these
    ),
)


class AuthenticatedRef(dict[str, Any]):
    """A user whom the driver of identities has just authenticated.

    Keystone looks such a user up among the shadow users, and creates a
    non-local user where there is none.  Both drivers have the same users: one
    who is not there was deleted meanwhile, and must not come back.

    :ivar authenticated_id: the id of the user here.  Keystone may put
        another one, by which it knows the user, into its copy.
    """

    def __init__(
        self, ref: Mapping[str, Any], authenticated_id: str | None = None
    ) -> None:
        super().__init__(ref)
        self.authenticated_id = authenticated_id or ref['id']

    def copy(self) -> AuthenticatedRef:
        """Return a copy that tells the same; Keystone makes one."""
        return AuthenticatedRef(self, self.authenticated_id)

    @property
    def is_local(self) -> bool:
        """Whether the user is known by its id here."""
        return bool(self['id'] == self.authenticated_id)


def name_key(db: Store, domain_id: str, name: str) -> dict[str, str]:
    """Return the key of a local user's claim."""
    comparison = db.conf.cassandra.name_comparison
    return {
        'domain_id': domain_id,
        'folded_name': listing.fold(name, comparison),
    }


def local_key(db: Store, user: Mapping[str, Any]) -> dict[str, str] | None:
    """Return the key of a user's claim as a local one, None if it is none."""
    if user['local_name'] is None:
        return None
    return name_key(db, user['domain_id'], user['local_name'])


def _local_keys(db: Store, user: Mapping[str, Any]) -> list[dict[str, str]]:
    key = local_key(db, user)
    return [] if key is None else [key]


def _federated_keys(
    _db: Store, user: Mapping[str, Any]
) -> list[dict[str, Any]]:
    return [*map(identities.key, identities.of(user))]


def _nonlocal_keys(
    _db: Store, user: Mapping[str, Any]
) -> list[dict[str, Any]]:
    if user['nonlocal_name'] is None:
        return []
    return [{'domain_id': user['domain_id'], 'name': user['nonlocal_name']}]


# Ids of users with these names are computed from them, so two datacenters
# that create one at the same time compute the same id.
FEDERATED_NAMES = ClaimSpec(
    Claims(
        'federated_claim', *identities.FEDERATED, operation=Operation.LWT_LOCAL
    ),
    _federated_keys,
)
NONLOCAL_NAMES = ClaimSpec(
    Claims(
        'nonlocal_claim', 'domain_id', 'name', operation=Operation.LWT_LOCAL
    ),
    _nonlocal_keys,
)
USERS = Named(
    Entity(
        'user',
        USER | STAMPS,
        Indexes(BY_DOMAIN, BY_DEFAULT_PROJECT, BY_IDP, BY_DISPLAY_NAME),
        guarded=[
            'domain_id',
            'local_name',
            'passwords',
            'reset_passwords',
            'federated',
            'identities',
        ],
        private=['lock_epoch', 'last_active_on'],
        ids_come_back=True,
        sought_elsewhere=True,
    ),
    ClaimSpec(
        Claims('user_claim', 'folded_name', 'domain_id', part='folded_name'),
        _local_keys,
    ),
    FEDERATED_NAMES,
    NONLOCAL_NAMES,
)
USER_DERIVED = DerivedTables.of(
    USERS, 'local_name', 'nonlocal_name', 'federated', 'identities'
)


def get(db: Store, user_id: str) -> Stored:
    """Return a user.

    :raises keystone.exception.UserNotFound: if there is none.
    """
    return _existing(USERS.entity.find(db, user_id), user_id)


def get_anywhere(db: Store, user_id: str) -> Stored:
    """Return a user, as :func:`get`; one too that is only just made elsewhere.

    :raises keystone.exception.UserNotFound: if there is none.
    """
    return _existing(USERS.entity.find_anywhere(db, user_id), user_id)


def _existing(user: Stored | None, user_id: str) -> Stored:
    if user is None:
        raise exception.UserNotFound(user_id=user_id)
    return user


def delete(db: Store, user_id: str) -> None:
    """Delete a user with its names and its memberships.

    :raises keystone.exception.UserNotFound: if there is none.
    """
    if not remove(db, user_id):
        raise exception.UserNotFound(user_id=user_id)


def remove(
    db: Store,
    user_id: str,
    provided: Callable[[Mapping[str, Any]], bool] = lambda user: True,
) -> bool:
    """Delete a user as :func:`delete` does; return whether it was there.

    :param provided: whether what it is now may be deleted.
    """
    former = memberships.of_user(db, user_id)
    removed = USERS.remove(db, user_id, provided)
    if removed is not None:
        memberships.end(db, former)
    # Also if it was gone: a server may have died during the deletion.  A rest
    # would count again for a user whose computed id is used again; one that
    # is there keeps its own.
    memberships.remove_user(
        db, user_id, provided=lambda: USERS.entity.find(db, user_id) is None
    )
    return removed is not None


def to_row(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the columns that a user names, but for passwords.

    :raises: as :func:`extras.to_row`.
    :raises TypeError, ValueError: for a value that an option refuses.
    """
    lengths.check(given, NAME, 'user')
    apart = ('name', 'password', 'password_expires_at')
    rest = {name: given[name] for name in given if name not in apart}
    found = extras.to_row(rest, _REF, 'user')
    if 'name' in given:
        found['local_name'] = given['name']
    if 'enabled' in given:
        found |= enabling(given['enabled'])
    return found | {'options': resource_options.to_row(_OPTIONS, given)}


def renamed(
    user: Mapping[str, Any], changes: Mapping[str, Any]
) -> dict[str, Any]:
    """Return changes of a user whose name may be a display name."""
    made = dict(changes)
    federated_as = identities.of(user)
    if federated_as and 'local_name' in made:
        first, *rest = federated_as
        shown = first | {'display_name': made.pop('local_name')}
        made |= identities.setting(user, [shown, *rest])
    return made


def federated(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a federated identity as it is stored.

    :raises: as :func:`lengths.check`.
    """
    lengths.check(given, identities.IDENTITY, 'federated_user')
    return {name: given.get(name) for name in identities.IDENTITY.attributes}


def filterable(user: Mapping[str, Any]) -> Stored:
    """Return what the SQL driver's filters look at."""
    return {
        'id': user['id'],
        'name': user['local_name'],
        'domain_id': user['domain_id'],
        'enabled': user['enabled'],
        'default_project_id': user['default_project_id'],
    }


def by_password_expiry(
    hints: driver_hints.Hints,
) -> Callable[[Mapping[str, Any]], bool]:
    """Return whether a user passes the filters on a password's expiry.

    They are removed from the hints.  As with SQL, former passwords count.
    """
    filters = [
        entry
        for entry in hints.filters
        if entry['name'] == 'password_expires_at'
    ]
    for entry in filters:
        hints.filters.remove(entry)
    # From the API the times come with a time zone.
    wanted = [
        (entry['comparator'], timeutils.normalize_time(entry['value']))
        for entry in filters
    ]

    def passes(user: Mapping[str, Any]) -> bool:
        times = [
            clock.from_micros(each['expires_at'])
            for each in passwords.of(user)
            if each['expires_at'] is not None
        ]
        return all(
            any(compare(time, value) for time in times)
            for compare, value in wanted
        )

    return passes


def has_option(user: Mapping[str, Any], option: Any) -> bool:
    """Return whether an option is set to true."""
    return (user['options'] or {}).get(option.option_id) is True


def name(user: Mapping[str, Any]) -> str | None:
    """Return the name of a user."""
    for found in (user['local_name'], user['nonlocal_name']):
        if found is not None:
            return str(found)
    for identity in identities.of(user):
        shown: str | None = identity['display_name']
        return shown
    return None


def password(user: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the present password: hash, times and who set it, or None."""
    found = passwords.of(user)
    return found[-1] if found else None


def password_expires_at(
    user: Mapping[str, Any],
) -> datetime.datetime | None:
    """Return when the present password expires, None for never."""
    present = password(user)
    if present is None or present['expires_at'] is None:
        return None
    return clock.from_micros(present['expires_at'])


def password_is_expired(user: Mapping[str, Any]) -> bool:
    """Return whether the present password has expired."""
    expires_at = password_expires_at(user)
    return (
        expires_at is not None
        and not has_option(user, options.IGNORE_PASSWORD_EXPIRY_OPT)
        and clock.utcnow() >= expires_at
    )


def is_enabled(user: Mapping[str, Any]) -> bool | None:
    """Return whether a user is enabled, and not inactive for too long."""
    enabled: bool | None = user['enabled']
    days = CONF.security_compliance.disable_user_account_days_inactive
    if not enabled or not days:
        return enabled
    last = user['last_active_on']
    if last is None and user['created_at'] is not None:
        last = user['created_at'].date()
    return (
        last is None
        or has_option(user, options.IGNORE_USER_INACTIVITY_OPT)
        or (clock.utcnow().date() - last).days < days
    )


def to_ref(user: Mapping[str, Any], with_extra: bool = False) -> Stored:
    """Return a user as the SQL drivers return it.

    :param with_extra: also the extra attributes by themselves, as an update
        does for older clients.
    """
    own = user['extra'] or {}
    shown = {
        **own,
        'id': user['id'],
        'name': name(user),
        'domain_id': user['domain_id'],
        'enabled': is_enabled(user),
        'password_expires_at': password_expires_at(user),
        'options': resource_options.to_ref(_OPTIONS, user['options']),
    }
    if user['default_project_id'] is not None:
        shown['default_project_id'] = user['default_project_id']
    if with_extra:
        shown['extra'] = dict(own)
    filtered: Stored = base.filter_user(shown)
    return filtered


def enabling(enabled: bool | None) -> dict[str, Any]:
    """Return the columns that go along when a user is enabled, or not.

    As the SQL model: who is enabled gets another period without activity.
    """
    days = CONF.security_compliance.disable_user_account_days_inactive
    if enabled and days:
        return {'enabled': enabled, 'last_active_on': clock.utcnow().date()}
    return {'enabled': enabled}


def with_password(
    user: Mapping[str, Any], hashed: str | None, self_service: bool = False
) -> list[dict[str, Any]]:
    """Return a user's passwords with a new one, as the SQL model keeps them.

    Each says of which reset it is, see :mod:`.passwords`.

    :param hashed: None makes a password that nothing matches.
    :param self_service: whether the user chose it.
    """
    compliance = CONF.security_compliance
    now = clock.utcnow()
    kept = passwords.of(user)[-(compliance.unique_last_password_count or 1) :]
    ended = clock.to_micros(now)
    former = [
        each | {'expires_at': min(each['expires_at'] or ended, ended)}
        for each in kept
    ]
    expires_at = None
    if compliance.password_expires_days and not has_option(
        user, options.IGNORE_PASSWORD_EXPIRY_OPT
    ):
        days = datetime.timedelta(days=compliance.password_expires_days)
        expires_at = clock.to_micros((now + days).replace(microsecond=0))
    if (
        not self_service
        and compliance.change_password_upon_first_use
        and not has_option(user, options.IGNORE_CHANGE_PASSWORD_OPT)
    ):
        expires_at = ended
    new = {
        'hash': hashed,
        'created_at': ended,
        'expires_at': expires_at,
        'self_service': self_service,
        'reset_id': passwords.reset_id(user)
        if self_service
        else uuid.uuid4().hex,
    }
    return [*former, new]
