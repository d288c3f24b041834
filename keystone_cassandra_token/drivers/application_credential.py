# SPDX-License-Identifier: Apache-2.0
"""``keystone.application_credential`` on Cassandra.

``application_credential`` is the source of truth and never changes; it has the
roles and the access rules in it, so that one read authenticates.  One that
expires has a TTL, and so has all that belongs to it.  ``access_rule`` holds
the rules that a user's application credentials share.  ``*_by_user`` hold ids,
``application_credential_claim`` keeps a user's names apart and
``access_rule_claim`` a user's rules.

``tables.named`` says in which order they are written,
and what a crash leaves.

Unlike with the SQL driver an id is used once, and an expired application
credential goes by itself.  A rule that is deleted while an application
credential is made with it stays in that one, which so is no less restricted.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from keystone import exception
from keystone.application_credential.backends import base
from keystone.common import password_hashing
from keystone.common.driver_hints import Hints
from keystone.i18n import _
from oslo_utils import timeutils

from keystone_cassandra_token.compat import extras, lengths, listing
from keystone_cassandra_token.compat.conflicts import conflict
from keystone_cassandra_token.db import clock, parts
from keystone_cassandra_token.db.consistency import Operation
from keystone_cassandra_token.db.rows import (
    Row,
    boolean,
    json_text,
    micros,
    text,
    text_list,
)
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.drivers.base import Driver
from keystone_cassandra_token.tables.derived import DerivedTables
from keystone_cassandra_token.tables.entity import Entity
from keystone_cassandra_token.tables.index import Index, Indexes
from keystone_cassandra_token.tables.named import STAMPS, Named
from keystone_cassandra_token.tables.unique import Claims, ClaimSpec, NameTaken

Credential = dict[str, Any]

#: What makes two rules of a user the same.
_RULE = ('service', 'path', 'method')

CREDENTIAL = Row(
    id=text(64),
    name=text(255, required=True),
    secret_hash=text(255, required=True, secret=True),
    description=text,
    user_id=text(64, required=True),
    project_id=text(64),
    system=text(64),
    expires_at=micros,
    unrestricted=boolean,
)
CREDENTIALS_BY_USER = Index(
    'application_credential_by_user',
    'user_id',
    sharded=False,
    versioned=True,
)


def _name(db: Store, stored: Mapping[str, Any]) -> dict[str, Any]:
    comparison = db.conf.cassandra.name_comparison
    return {
        'user_id': stored['user_id'],
        'folded_name': listing.fold(stored['name'], comparison),
    }


CREDENTIALS = Named(
    Entity(
        'application_credential',
        CREDENTIAL | STAMPS | Row(roles=text_list, access_rules=json_text),
        Indexes(CREDENTIALS_BY_USER),
        expiring=True,
        sought_elsewhere=True,
    ),
    ClaimSpec(
        Claims('application_credential_claim', 'user_id', 'folded_name'),
        lambda db, stored: [_name(db, stored)],
    ),
)
CREDENTIAL_DERIVED = DerivedTables.of(CREDENTIALS, 'name')

ACCESS_RULE = Row(
    id=text(64),
    user_id=text(64),
    service=text(64),
    path=text(128),
    method=text(16),
)
RULES_BY_USER = Index(
    'access_rule_by_user', 'user_id', sharded=False, versioned=True
)
ACCESS_RULES = Named(
    Entity(
        'access_rule',
        ACCESS_RULE | STAMPS,
        Indexes(RULES_BY_USER),
        told=['id', 'user_id'],
        sought_elsewhere=True,
    ),
    ClaimSpec(
        # A rule that exists twice does no harm: one datacenter agrees.
        Claims(
            'access_rule_claim',
            'user_id',
            *_RULE,
            operation=Operation.LWT_LOCAL,
        ),
        lambda _db, rule: [{name: rule[name] for name in ('user_id', *_RULE)}],
    ),
)
ACCESS_RULE_DERIVED = DerivedTables.of(ACCESS_RULES, *_RULE)


class ApplicationCredential(Driver, base.ApplicationCredentialDriverBase):
    """Application credentials in Cassandra."""

    def authenticate(
        self, application_credential_id: str, secret: str
    ) -> None:
        stored = CREDENTIALS.entity.find_anywhere(
            self.db, application_credential_id
        )
        if (
            stored is None
            or not password_hashing.check_password(
                secret, stored['secret_hash']
            )
            or (
                stored['expires_at'] is not None
                and clock.utcnow() >= stored['expires_at']
            )
        ):
            raise AssertionError(
                _('Invalid application credential ID or secret')
            )

    def create_application_credential(
        self,
        application_credential: Mapping[str, Any],
        roles: Iterable[Mapping[str, Any]],
        access_rules: Collection[Mapping[str, Any]] | None = None,
    ) -> Credential:
        stored = CREDENTIALS.entity.new(_to_row(application_credential, roles))
        lengths.check(
            application_credential, CREDENTIAL, 'application_credential'
        )
        with conflict('application_credential', stored):
            self._create(
                stored, application_credential['secret'], access_rules or ()
            )
        return _to_ref(stored)

    def get_application_credential(
        self, application_credential_id: str
    ) -> Credential:
        stored = CREDENTIALS.entity.find_anywhere(
            self.db, application_credential_id
        )
        if stored is None:
            raise exception.ApplicationCredentialNotFound(
                application_credential_id=application_credential_id
            )
        return _to_ref(stored)

    def list_application_credentials_for_user(
        self, user_id: str, hints: Hints
    ) -> list[Credential]:
        found = self._of_user(user_id)
        # By a name: so a log-in finds it.
        for entry in hints.filters:
            if (entry['name'], entry['comparator']) == ('name', 'equals'):
                found += self._elsewhere(user_id, entry['value'], found)
        found = listing.filter_by_hints(
            map(_to_ref, found),
            hints,
            CREDENTIAL.attributes,
            self.conf.cassandra.name_comparison,
        )
        return listing.limit(found, hints)

    def delete_application_credential(
        self, application_credential_id: str
    ) -> None:
        stored = CREDENTIALS.entity.find(self.db, application_credential_id)
        if stored is None or not self._delete(stored):
            raise exception.ApplicationCredentialNotFound(
                application_credential_id=application_credential_id
            )

    def delete_application_credentials_for_user(self, user_id: str) -> None:
        self._delete_all(self._of_user(user_id))

    def delete_application_credentials_for_user_on_project(
        self, user_id: str, project_id: str
    ) -> None:
        self._delete_all(
            stored
            for stored in self._of_user(user_id)
            if stored['project_id'] == project_id
        )

    def get_access_rule(
        self, access_rule_id: str, user_id: str | None = None
    ) -> dict[str, Any]:
        stored = ACCESS_RULES.entity.find_anywhere(self.db, access_rule_id)
        return _rule_to_ref(_of_whom(stored, access_rule_id, user_id))

    def list_access_rules_for_user(
        self, user_id: str, hints: Hints
    ) -> list[dict[str, Any]]:
        found = listing.filter_by_hints(
            ACCESS_RULES.entity.find_by(self.db, RULES_BY_USER, user_id),
            hints,
            ('user_id', *_RULE),
            'sensitive',  # none of them is a name
        )
        return [_rule_to_ref(rule) for rule in listing.limit(found, hints)]

    def delete_access_rule(
        self, access_rule_id: str, user_id: str | None = None
    ) -> None:
        stored = self._get_rule(access_rule_id, user_id)
        if any(
            rule['id'] == access_rule_id
            for user in self._of_user(stored['user_id'])
            for rule in user['access_rules'] or ()
        ):
            raise exception.ForbiddenNotSecurity(
                'May not delete access rule in use'
            )
        ACCESS_RULES.remove(self.db, stored['id'])

    def delete_access_rules_for_user(self, user_id: str) -> None:
        found = ACCESS_RULES.entity.find_by(self.db, RULES_BY_USER, user_id)
        ids = [stored['id'] for stored in found]
        parts.each(self.db, ACCESS_RULES.remove, ids)

    def _create(
        self,
        stored: Credential,
        secret: str,
        access_rules: Collection[Mapping[str, Any]],
    ) -> None:
        """Create one, with those of its rules that the user has not yet.

        :raises NameTaken: if it or its name is there already.
        """
        if len(set(stored['roles'])) < len(stored['roles']):
            raise NameTaken(stored['id'])  # in SQL it and a role are a key
        # First whatever can be refused, so that no rule is made for nothing;
        # as with SQL the name before the rules.
        CREDENTIALS.check_free(self.db, _name(self.db, stored))
        rules = self._known_rules(stored['user_id'], access_rules)
        stored['access_rules'] = (
            parts.each(
                self.db,
                lambda db, rule: _rule(db, stored['user_id'], rule),
                rules,
            )
            or None
        )
        if _repeats(stored['access_rules'] or ()):
            raise NameTaken(stored['id'])
        stored['secret_hash'] = password_hashing.hash_password(secret)
        CREDENTIALS.create(self.db, stored, self._ttl(stored))

    def _elsewhere(
        self, user_id: str, name: Any, known: Iterable[Credential]
    ) -> list[Credential]:
        """Return the one of a name that is only just made elsewhere."""
        if not isinstance(name, str):
            return []
        key = _name(self.db, {'user_id': user_id, 'name': name})
        if any(_name(self.db, each) == key for each in known):
            return []
        found = CREDENTIALS.seek(self.db, key)
        return [found] if found else []

    def _of_user(self, user_id: str) -> list[Credential]:
        return CREDENTIALS.entity.find_by(
            self.db, CREDENTIALS_BY_USER, user_id
        )

    def _ttl(self, stored: Mapping[str, Any]) -> int | None:
        """Return the seconds for which it stays; None is for ever."""
        if stored['expires_at'] is None:
            return None
        return clock.ttl_until(
            max(stored['expires_at'], clock.utcnow()),
            self.conf.cassandra.application_credential_retention,
        )

    def _delete(self, stored: Mapping[str, Any]) -> bool:
        """Delete one; return whether it was still there."""
        return CREDENTIALS.remove(self.db, stored['id']) is not None

    def _get_rule(self, rule_id: str, user_id: str | None) -> dict[str, Any]:
        stored = ACCESS_RULES.entity.find(self.db, rule_id)
        return _of_whom(stored, rule_id, user_id)

    def _known_rules(
        self, user_id: str, rules: Collection[Mapping[str, Any]]
    ) -> list[Mapping[str, Any]]:
        """Return the rules that have these ids, or what is yet to be made.

        :raises keystone.exception.AccessRuleNotFound: if one is another's.
        :raises keystone.exception.ValidationError: if a new one lacks a part.
        """
        found = ACCESS_RULES.entity.find_all(
            self.db, (rule['id'] for rule in rules)
        )
        by_id = {known['id']: known for known in found}
        for rule in rules:
            known = by_id.get(rule['id'])
            if known is None:
                for name in _RULE:
                    if name not in rule:  # Keystone's schema lets it through
                        raise exception.ValidationError(
                            attribute=name, target='access_rule'
                        )
                lengths.check(rule, ACCESS_RULE, 'access_rule')
            elif known['user_id'] != user_id:
                raise exception.AccessRuleNotFound(access_rule_id=rule['id'])
        return [by_id.get(rule['id'], rule) for rule in rules]

    def _delete_all(self, found: Iterable[Mapping[str, Any]]) -> None:
        ids = [stored['id'] for stored in found]
        parts.each(self.db, CREDENTIALS.remove, ids)


def _rule(db: Store, user_id: str, rule: Mapping[str, Any]) -> dict[str, Any]:
    """Return a user's rule; made if the user has none that is equal."""
    if 'incarnation' in rule:
        return _rule_to_ref(rule)
    made = ACCESS_RULES.entity.new(
        {name: rule[name] for name in ('id', *_RULE)} | {'user_id': user_id}
    )
    try:
        ACCESS_RULES.create(db, made)
    except NameTaken as taken:
        # The user has it already, by another id.
        return _rule_to_ref(made | {'id': taken.owner})
    return _rule_to_ref(made)


def _repeats(rules: Collection[Mapping[str, Any]]) -> bool:
    return len({rule['id'] for rule in rules}) < len(rules)


def _to_row(
    given: Mapping[str, Any], roles: Iterable[Mapping[str, Any]]
) -> Credential:
    """Return the values of the columns, but for secret and rules."""
    expires_at: datetime.datetime | None = given.get('expires_at')
    return {name: given.get(name) for name in CREDENTIAL.attributes} | {
        'expires_at': expires_at and timeutils.normalize_time(expires_at),
        'roles': [role['id'] for role in roles],
    }


def _to_ref(stored: Mapping[str, Any]) -> Credential:
    """Return an application credential as the SQL driver returns it."""
    shown = extras.to_ref(stored, CREDENTIAL)
    shown['roles'] = [{'id': role} for role in stored['roles'] or ()]
    if stored['access_rules']:
        shown['access_rules'] = stored['access_rules']
    return shown


def _of_whom(
    rule: dict[str, Any] | None, rule_id: str, user_id: str | None
) -> dict[str, Any]:
    """Return a rule that is there, and of a user if one is given."""
    if rule is None or user_id not in (None, rule['user_id']):
        raise exception.AccessRuleNotFound(access_rule_id=rule_id)
    return rule


def _rule_to_ref(stored: Mapping[str, Any]) -> dict[str, Any]:
    return {name: stored[name] for name in ('id', *_RULE)}
