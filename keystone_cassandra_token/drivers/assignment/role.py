# SPDX-License-Identifier: Apache-2.0
"""``keystone.role`` on Cassandra.

``role`` is the source of truth, with all roles in one partition, and
``role_claim`` keeps their names apart; ``tables.named`` says in which
order the two are written and what a crash leaves.  ``implied_role`` has the
rules by which one role implies another, in one partition too.

A rule is valid while both of its roles exist; readers check that.  It is
removed after its role, and who makes one while a role of it is deleted is
refused (``tables.association``).  A rule that a crash leaves, or that another
datacenter makes before it has heard of the deletion, is not shown, and is
removed before a role with that id is created again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from keystone import exception
from keystone.assignment.role_backends import base
from keystone.assignment.role_backends import resource_options as options
from keystone.common import driver_hints

from keystone_cassandra_token.compat import (
    extras,
    lengths,
    listing,
    resource_options,
)
from keystone_cassandra_token.compat.conflicts import conflict, duplicate
from keystone_cassandra_token.db.cql import Statement, read
from keystone_cassandra_token.db.rows import Row, json_map, text
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.drivers.base import Driver
from keystone_cassandra_token.tables.association import Association
from keystone_cassandra_token.tables.derived import DerivedTables
from keystone_cassandra_token.tables.entity import Entity
from keystone_cassandra_token.tables.index import Indexes
from keystone_cassandra_token.tables.named import STAMPS, Named
from keystone_cassandra_token.tables.unique import Claims, ClaimSpec

_OPTIONS = options.ROLE_OPTIONS_REGISTRY

ROLE = Row(
    id=text(64),
    name=text(255, required=True),
    domain_id=text(64, required=True),
    description=text(255),
    options=json_map,
    extra=json_map,
)


def _keys(db: Store, role: Mapping[str, Any]) -> list[dict[str, str]]:
    comparison = db.conf.cassandra.name_comparison
    return [
        {
            'folded_name': listing.fold(role['name'], comparison),
            'domain_id': role['domain_id'],
        }
    ]


ROLES = Named(
    Entity(
        'role',
        ROLE | STAMPS,
        Indexes(),
        guarded=['name', 'domain_id'],
        everywhere=True,
        sought_elsewhere=True,
        single_partition=True,
    ),
    ClaimSpec(Claims('role_claim', 'folded_name', 'domain_id'), _keys),
)
ROLE_DERIVED = DerivedTables.of(ROLES, 'name', 'domain_id')
#: So many roles are read all at once.
FEW = 100
LIST_FEW = read(
    f'SELECT {ROLES.entity.row} FROM role WHERE bucket = 0 LIMIT {FEW + 1}'
)
#: What tells whether a role is there.
THERE = ROLES.entity.row.part(['id', *ROLES.entity.required, 'born'])
LIST_THERE = read(f'SELECT {THERE} FROM role WHERE bucket = 0')

RULES = Association(
    'implied_role',
    Row(prior_role_id=text(64), implied_role_id=text(64)),
    everywhere=True,
    single_partition=True,
)

Entry = dict[str, Any]


class Role(Driver, base.RoleDriverBase):
    """Roles and their inference rules in Cassandra."""

    #: Whether there were too many to read all, when they were read last.
    _are_many = False

    def create_role(
        self, role_id: str, role: Mapping[str, Any]
    ) -> dict[str, Any]:
        given = _to_row({'name': None, 'domain_id': None, **role})
        stored = ROLES.entity.new({'id': role_id, **given})
        self._forget_rules(stored['id'])
        with conflict('role', role):
            ROLES.create(self.db, stored)
        return _to_ref(stored)

    @driver_hints.truncated  # type: ignore[untyped-decorator]
    def list_roles(self, hints: driver_hints.Hints) -> list[dict[str, Any]]:
        for entry in hints.filters:
            if entry['name'] == 'domain_id' and entry['value'] is None:
                # The filter is applied and removed here: no caller sees it.
                entry['value'] = base.NULL_DOMAIN_ID
        found = listing.filter_by_hints(
            ROLES.entity.all(self.db),
            hints,
            ROLE.attributes,
            self.conf.cassandra.name_comparison,
        )
        return list(map(_to_ref, listing.limit(found, hints)))

    def list_roles_from_ids(self, role_ids: list[str]) -> list[dict[str, Any]]:
        found = ROLES.entity.find_all(self.db, dict.fromkeys(role_ids))
        return list(map(_to_ref, found))

    def get_role(self, role_id: str) -> dict[str, Any]:
        known = self.db.known(LIST_FEW, ROLES.entity.row)
        role = _by_id(known or ()).get(role_id)
        if role is None:
            role = ROLES.entity.find_anywhere(self.db, role_id)
        if role is None:
            raise exception.RoleNotFound(role_id=role_id)
        return _to_ref(role)

    def update_role(
        self, role_id: str, role: Mapping[str, Any]
    ) -> dict[str, Any]:
        given = {name: role[name] for name in role if name != 'id'}
        with conflict('role', role):
            # As with SQL, what is wrong with them counts once there is one.
            changed = ROLES.change(
                self.db, role_id, lambda _now: _to_row(given)
            )
        if changed is None:
            raise exception.RoleNotFound(role_id=role_id)
        return _to_ref(changed)

    def delete_role(self, role_id: str) -> None:
        if ROLES.remove(self.db, role_id) is None:
            raise exception.RoleNotFound(role_id=role_id)
        self._forget_rules(role_id)

    def get_implied_role(
        self, prior_role_id: str, implied_role_id: str
    ) -> dict[str, str]:
        return RULES.key(self._rule(prior_role_id, implied_role_id))

    def create_implied_role(
        self, prior_role_id: str, implied_role_id: str
    ) -> dict[str, str]:
        key = {
            'prior_role_id': prior_role_id,
            'implied_role_id': implied_role_id,
        }
        lengths.check(key, RULES.row, 'implied_role')

        def check() -> None:
            roles = {prior_role_id, implied_role_id}
            if len(ROLES.entity.find_all(self.db, roles)) < len(roles):
                # What SQL makes of a foreign key without its row; Keystone
                # has looked for the roles before.
                raise lengths.not_stored('implied_role')

        if not RULES.add_checked(self.db, check, **key):
            raise duplicate('implied_role')
        return key

    def delete_implied_role(
        self, prior_role_id: str, implied_role_id: str
    ) -> None:
        rule = self._rule(prior_role_id, implied_role_id)
        if not RULES.discard(self.db, rule):
            raise exception.ImpliedRoleNotFound(**RULES.key(rule))

    def list_role_inference_rules(self) -> list[dict[str, str]]:
        return list(map(RULES.key, self._rules(RULES.get_all)))

    def list_implied_roles(self, prior_role_id: str) -> list[dict[str, str]]:
        # Each log-in and each validation asks for this, of several roles, and
        # for each of the roles then: two reads, at once, are for all of it.
        asked = self.db.rows_async(RULES.get_all, RULES.row)
        roles = self._few()
        rules = [
            RULES.key(rule)
            for rule in asked.result()
            if rule['prior_role_id'] == prior_role_id
        ]
        wanted = set().union(*(rule.values() for rule in rules))
        if roles is None:
            found = ROLES.entity.find_all(self.db, sorted(wanted))
            roles = {role['id']: role for role in found}
        return [rule for rule in rules if roles.keys() >= {*rule.values()}]

    def _few(self) -> dict[str, Entry] | None:
        """Return all roles by id; None if there are too many to read all."""
        if self._are_many:
            return None
        found = self.db.rows(LIST_FEW, ROLES.entity.row)
        self._are_many = len(found) > FEW
        return None if self._are_many else _by_id(found)

    def _rules(self, statement: Statement, **key: str) -> list[dict[str, Any]]:
        """Return the rules that a read finds and whose roles are there."""
        rules = self.db.rows_async(statement, RULES.row, **key)
        roles = self.db.rows_async(LIST_THERE, THERE)
        there = {
            role['id'] for role in filter(ROLES.entity.exists, roles.result())
        }
        return [
            rule
            for rule in rules.result()
            if there.issuperset(RULES.key(rule).values())
        ]

    def _rule(
        self, prior_role_id: str, implied_role_id: str
    ) -> dict[str, Any]:
        key = {
            'prior_role_id': prior_role_id,
            'implied_role_id': implied_role_id,
        }
        found = self._rules(RULES.get, **key)
        if not found:
            raise exception.ImpliedRoleNotFound(**key)
        return found[0]

    def _forget_rules(self, role_id: str) -> None:
        """Remove the rules of a role that is gone."""
        rules = [
            rule
            for rule in self.db.rows(RULES.get_all, RULES.row)
            if role_id in RULES.key(rule).values()
        ]
        # Looked for after its rules: they are no later life's.
        if rules and ROLES.entity.find(self.db, role_id) is None:
            # They are in one partition.
            RULES.discard_all(self.db, rules)


def _by_id(roles: Iterable[Entry]) -> dict[str, Entry]:
    return {role['id']: role for role in filter(ROLES.entity.exists, roles)}


def _to_row(role: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the columns that a role names.

    :raises: as :func:`extras.to_row`.
    :raises TypeError, ValueError: for a value that an option refuses.
    """
    if role.get('domain_id', '') is None:
        role = {**role, 'domain_id': base.NULL_DOMAIN_ID}
    found = extras.to_row(role, ROLE, 'role')
    return found | {'options': resource_options.to_row(_OPTIONS, role)}


def _to_ref(role: Mapping[str, Any]) -> dict[str, Any]:
    """Return a role as the SQL driver returns it."""
    domain_id = role['domain_id']
    return {
        **extras.to_ref(role, ROLE),
        'domain_id': None if domain_id == base.NULL_DOMAIN_ID else domain_id,
        'options': resource_options.to_ref(_OPTIONS, role['options']),
    }
