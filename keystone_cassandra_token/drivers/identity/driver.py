# SPDX-License-Identifier: Apache-2.0
"""``keystone.identity`` on Cassandra.

``user`` and ``group`` are the source of truth, with ``*_by_domain`` and
``user_by_default_project`` as indexes and a claim for each name
(``tables.named`` says in which order they are written
and what a crash leaves); memberships are in
``drivers.identity.memberships``.

Wrong passwords are in ``drivers.identity.lockout``.

Unlike with the SQL driver no order of groups and of members is promised, and
a failed attempt that nobody waited for can be counted a moment late.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Collection, Mapping
from typing import Any

from keystone import exception
from keystone.common import driver_hints, password_hashing
from keystone.conf import CONF
from keystone.i18n import _
from keystone.identity.backends import base
from keystone.identity.backends import resource_options as options
from oslo_config import cfg

from keystone_cassandra_token.compat import listing, pages
from keystone_cassandra_token.compat.conflicts import conflict
from keystone_cassandra_token.db import clock, remembered
from keystone_cassandra_token.db.cql import read, scan
from keystone_cassandra_token.db.request import Future
from keystone_cassandra_token.drivers.base import Driver, log_in_begins
from keystone_cassandra_token.drivers.identity import (
    groups,
    identities,
    lockout,
    memberships,
    passwords,
    users,
)
from keystone_cassandra_token.drivers.identity.groups import GROUP, GROUPS
from keystone_cassandra_token.drivers.identity.memberships import MEMBERSHIPS
from keystone_cassandra_token.drivers.identity.users import USERS
from keystone_cassandra_token.tables.entity_reads import AT_ONCE
from keystone_cassandra_token.tables.recent import ReadAheadCache

Entity = dict[str, Any]

_USER_FILTERS = ('id', 'name', 'domain_id', 'enabled', 'default_project_id')
_GROUP_FILTERS = GROUP.attributes

# An administrator of the cloud lists users and groups of all domains.
LIST_USERS = scan(f'SELECT {USERS.entity.row} FROM user')
LIST_GROUPS = scan(f'SELECT {GROUPS.entity.row} FROM group')

# A log-in has read the rest already.
KNOWN = USERS.entity.row.part(
    [*USERS.entity.required, 'born', 'federated', 'identities']
)
GET_KNOWN = read(f'SELECT {KNOWN} FROM user WHERE id = :id')


# Those who log in again and again are services, with few groups.
_GROUPS_OF = ReadAheadCache(2048)


class Identity(Driver, base.IdentityDriverBase):
    """Users, groups and memberships in Cassandra."""

    def __init__(self, conf: cfg.ConfigOpts | None = None) -> None:
        super().__init__()
        # Of the domain, where this is a domain's own driver.
        self.conf = conf

    @property
    def is_sql(self) -> bool:
        # To Keystone: deleting a domain deletes its users and groups here.
        return True

    def authenticate(self, user_id: str, password: str) -> Entity:
        asked = [each(self.db, user_id) for each in log_in_begins]
        user = USERS.entity.find_anywhere(self.db, user_id)
        if user is None:
            raise AssertionError(_('Invalid user / password'))
        failures = lockout.failed_at(self.db, user)
        if any(each.result() for each in asked):
            remembered.forget()
            user = USERS.entity.find_anywhere(self.db, user_id)
            if user is None:
                raise AssertionError(_('Invalid user / password'))
        if lockout.is_locked(self.db, user, failures):
            raise exception.AccountLocked(user_id=user_id)
        present = users.password(user)
        if not password_hashing.check_password(
            password, present and present['hash']
        ):
            lockout.count(self.db, user)
            raise AssertionError(_('Invalid user / password'))
        if not users.is_enabled(user):
            raise exception.UserDisabled(user_id=user_id)
        if users.password_is_expired(user):
            raise exception.PasswordExpired(user_id=user_id)
        if failures:
            lockout.reset(self.db, user)
        return users.AuthenticatedRef(users.to_ref(user))

    def create_user(self, user_id: str, user: Mapping[str, Any]) -> Entity:
        stored = USERS.entity.new(
            {
                'id': user_id,
                'created_at': clock.utcnow(),
                'lock_epoch': lockout.new_epoch(),
                'federated': [],
                **users.to_row(user),
            }
        )
        if 'password' in user:
            # As with SQL, options count from the next password on.
            stored['passwords'] = users.with_password(
                stored | {'options': {}}, _hashed(user['password'])
            )
        with conflict('user', user):
            USERS.create(self.db, stored)
        return users.to_ref(stored)

    @driver_hints.truncated  # type: ignore[untyped-decorator]
    def list_users(self, hints: driver_hints.Hints) -> list[Entity]:
        by_expiry = users.by_password_expiry(hints)
        candidates, in_order = pages.candidates(
            self.db, hints, USERS, users.BY_DOMAIN, LIST_USERS
        )
        passes = self._predicate_from_hints(hints, _USER_FILTERS)
        page = listing.page(
            hints,
            (
                user
                for user in candidates
                if by_expiry(user) and passes(users.filterable(user))
            ),
            in_order,
        )
        return [users.to_ref(user) for user in page]

    def unset_default_project_id(self, project_id: str) -> None:
        for user in USERS.entity.find_by(
            self.db, users.BY_DEFAULT_PROJECT, project_id
        ):
            USERS.entity.change(
                self.db,
                user['id'],
                lambda now: (
                    {'default_project_id': None}
                    if now['default_project_id'] == project_id
                    else {}
                ),
            )

    def list_users_in_group(
        self, group_id: str, hints: driver_hints.Hints
    ) -> list[Entity]:
        self._group(group_id)
        members = [
            row['user_id'] for row in MEMBERSHIPS.having(self.db, group_id)
        ]
        by_expiry = users.by_password_expiry(hints)
        passes = self._predicate_from_hints(hints, _USER_FILTERS)
        return listing.limit(
            [
                users.to_ref(user)
                for user in USERS.entity.find_all(self.db, members)
                if by_expiry(user) and passes(users.filterable(user))
            ],
            hints,
        )

    def get_user(self, user_id: str) -> Entity:
        return users.to_ref(users.get_anywhere(self.db, user_id))

    def update_user(self, user_id: str, user: Mapping[str, Any]) -> Entity:
        given = users.to_row(user)
        given.pop('id', None)
        # Once, however often the change is tried.
        hashed = _hashed(user['password']) if 'password' in user else None

        def changes(now: Entity) -> Entity:
            made = users.renamed(now, given)
            enabled = made.get('enabled', users.is_enabled(now))
            made |= users.enabling(enabled)
            if 'enabled' not in given and enabled == now['enabled']:
                # Somebody else may disable the user at this moment.
                del made['enabled']
            if enabled:
                # As with SQL, any update of an enabled user.
                made['lock_epoch'] = lockout.new_epoch()
            if 'password' in user:
                options_then = (now['options'] or {}) | made['options']
                found = users.with_password(
                    now | {'options': options_then}, hashed
                )
                made |= passwords.resetting(now, found)
            return made

        with conflict('user', user):
            changed = USERS.change(self.db, user_id, changes)
        if changed is None:
            raise exception.UserNotFound(user_id=user_id)
        return users.to_ref(changed, with_extra=True)

    def change_password(self, user_id: str, new_password: str) -> None:
        # Keystone has just checked the former password: that is over if an
        # administrator sets one meanwhile.
        known = passwords.reset_id(users.get(self.db, user_id))
        hashed = _hashed(new_password)

        def changes(user: Entity) -> Entity:
            if passwords.reset_id(user) != known:
                raise AssertionError(_('Invalid user / password'))
            _check_change(user, new_password)
            return passwords.choosing(
                user, users.with_password(user, hashed, self_service=True)
            )

        if USERS.entity.change(self.db, user_id, changes) is None:
            raise exception.UserNotFound(user_id=user_id)

    def add_user_to_group(self, user_id: str, group_id: str) -> None:
        self._check_both(user_id, group_id)
        MEMBERSHIPS.add(self.db, user_id=user_id, group_id=group_id)
        try:
            self._check_both(user_id, group_id)
        except exception.NotFound:
            # Who deleted one meanwhile may have looked too early for this.
            MEMBERSHIPS.remove(self.db, user_id=user_id, group_id=group_id)
            raise

    def check_user_in_group(self, user_id: str, group_id: str) -> None:
        self._check_both(user_id, group_id)
        key = {'user_id': user_id, 'group_id': group_id}
        if MEMBERSHIPS.find(self.db, **key) is None and not any(
            row['group_id'] == group_id
            for row in memberships.expiring(self.db, user_id)
        ):
            raise _not_in_group(user_id, group_id)

    def remove_user_from_group(self, user_id: str, group_id: str) -> None:
        if not MEMBERSHIPS.remove(self.db, user_id=user_id, group_id=group_id):
            self._check_both(user_id, group_id)
            raise _not_in_group(user_id, group_id)

    def delete_user(self, user_id: str) -> None:
        users.delete(self.db, user_id)

    def get_user_by_name(self, user_name: str, domain_id: str) -> Entity:
        key = users.name_key(self.db, domain_id, user_name)
        user = USERS.find_anywhere(self.db, key)
        if user is None:
            raise exception.UserNotFound(user_id=user_name)
        return users.to_ref(user)

    def reset_last_active(self) -> None:
        for user in USERS.entity.scanned(self.db, LIST_USERS):
            if user['last_active_on'] is None:
                USERS.entity.change(
                    self.db,
                    user['id'],
                    {'last_active_on': clock.utcnow().date()},
                )

    def create_group(self, group_id: str, group: Mapping[str, Any]) -> Entity:
        stored = GROUPS.entity.new({'id': group_id, **groups.to_row(group)})
        with conflict('group', group):
            GROUPS.create(self.db, stored)
        return groups.to_ref(stored)

    @driver_hints.truncated  # type: ignore[untyped-decorator]
    def list_groups(self, hints: driver_hints.Hints) -> list[Entity]:
        candidates, in_order = pages.candidates(
            self.db, hints, GROUPS, groups.BY_DOMAIN, LIST_GROUPS
        )
        passes = self._predicate_from_hints(hints, _GROUP_FILTERS)
        return listing.page(
            hints,
            filter(passes, map(groups.to_ref, candidates)),
            in_order,
        )

    def list_groups_for_user(
        self, user_id: str, hints: driver_hints.Hints
    ) -> list[Entity]:
        # At once, since each log-in waits for them; also the groups that
        # the user had last time, and these first: they take longest.
        likely = _GROUPS_OF.get(user_id)
        meanwhile = likely and GROUPS.entity.find_all_async(self.db, likely)
        of_user = MEMBERSHIPS.of_async(self.db, user_id)
        user = self._known_async(user_id, anywhere=True).result()
        lasting = [row['group_id'] for row in of_user.result()]
        expiring = {}
        if identities.of(user):  # or no identity provider asserts anything
            expiring = {
                row['group_id']: row['expires_at']
                for row in memberships.expiring(self.db, user_id)
            }
        wanted = dict.fromkeys((*lasting, *expiring))
        known = {
            group['id']: group
            for group in (meanwhile.result() if meanwhile else ())
        }
        rest = [each for each in wanted if each not in known]
        if rest:
            for group in GROUPS.entity.find_all(self.db, rest):
                known[group['id']] = group
        _GROUPS_OF.set(user_id, list(wanted)[:AT_ONCE] or None)
        by_id = {
            each: groups.to_ref(known[each])
            for each in wanted
            if each in known
        }
        passes = self._predicate_from_hints(hints, _GROUP_FILTERS)
        found = [by_id[each] for each in lasting if each in by_id] + [
            by_id[each] | {'membership_expires_at': expires_at}
            for each, expires_at in expiring.items()
            if each in by_id
        ]
        return listing.limit(list(filter(passes, found)), hints)

    def get_group(self, group_id: str) -> Entity:
        group = GROUPS.entity.find_anywhere(self.db, group_id)
        if group is None:
            raise exception.GroupNotFound(group_id=group_id)
        return groups.to_ref(group)

    def get_group_by_name(self, group_name: str, domain_id: str) -> Entity:
        key = groups.key(self.db, domain_id, group_name)
        group = GROUPS.find_anywhere(self.db, key)
        if group is None:
            raise exception.GroupNotFound(group_id=group_name)
        return groups.to_ref(group)

    def update_group(self, group_id: str, group: Mapping[str, Any]) -> Entity:
        changes = groups.to_row(group)
        changes.pop('id', None)
        with conflict('group', group):
            changed = GROUPS.change(self.db, group_id, lambda _now: changes)
        if changed is None:
            raise exception.GroupNotFound(group_id=group_id)
        return groups.to_ref(changed)

    def delete_group(self, group_id: str) -> None:
        if GROUPS.remove(self.db, group_id) is None:
            raise exception.GroupNotFound(group_id=group_id)
        MEMBERSHIPS.remove_having(self.db, group_id)

    def _known_async(
        self, user_id: str, anywhere: bool = False
    ) -> Future[Entity]:
        """Ask for what a log-in has not read.

        :param anywhere: also of a user who is only just made elsewhere.
        """

        def existing(user: Entity | None) -> Entity:
            if user is None and anywhere:
                user = USERS.entity.seek(self.db, user_id)
            if user is None or not USERS.entity.exists(user):
                raise exception.UserNotFound(user_id=user_id)
            return user

        return self.db.one_async(GET_KNOWN, KNOWN, id=user_id).then(existing)

    def _check_both(self, user_id: str, group_id: str) -> None:
        """Check that a user and a group are there; ask for them at once."""
        user = self._known_async(user_id)
        self._group(group_id)
        user.result()

    def _group(self, group_id: str) -> Entity:
        group = GROUPS.entity.find(self.db, group_id)
        if group is None:
            raise exception.GroupNotFound(group_id=group_id)
        return group

    def _predicate_from_hints(
        self, hints: driver_hints.Hints, attributes: Collection[str]
    ) -> Callable[[Entity], bool]:
        return listing.predicate_from_hints(
            hints, attributes, self.db.conf.cassandra.name_comparison
        )


def _hashed(password: str | None) -> str | None:
    if password is None:
        return None
    hashed: str = password_hashing.hash_password(password)
    return hashed


def _check_change(user: Mapping[str, Any], new_password: str) -> None:
    """Check that a user may choose this password now."""
    if users.has_option(user, options.LOCK_PASSWORD_OPT):
        raise exception.PasswordSelfServiceDisabled()
    compliance = CONF.security_compliance
    present = users.password(user)
    if present and present['self_service']:
        age = datetime.timedelta(days=compliance.minimum_password_age)
        end = clock.from_micros(present['created_at']) + age
        left = end - clock.utcnow()
        if left > datetime.timedelta(0):
            raise exception.PasswordAgeValidationError(
                min_age_days=compliance.minimum_password_age,
                days_left=left.days,
            )
    count = compliance.unique_last_password_count
    for former in passwords.of(user)[-count:] if count else ():
        if password_hashing.check_password(new_password, former['hash']):
            raise exception.PasswordHistoryValidationError(unique_count=count)


def _not_in_group(user_id: str, group_id: str) -> exception.NotFound:
    return exception.NotFound(
        _("User '%(user_id)s' not found in group '%(group_id)s'")
        % {'user_id': user_id, 'group_id': group_id}
    )
