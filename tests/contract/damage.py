# SPDX-License-Identifier: Apache-2.0
"""Base rows of each kind, made through their drivers, and damage by CQL."""

from __future__ import annotations

import dataclasses
import datetime
import time
import uuid

import keystone.conf

from keystone_cassandra_token.cmd.reconcile import all_derived
from keystone_cassandra_token.db import clock
from keystone_cassandra_token.drivers import (
    application_credential,
    base,
    credential,
    oauth1,
    trust,
)
from keystone_cassandra_token.drivers.assignment import grants, role
from keystone_cassandra_token.drivers.catalog import project_endpoints
from keystone_cassandra_token.drivers.identity import driver as identity
from keystone_cassandra_token.drivers.identity import (
    federation,
    groups,
    id_mapping,
    memberships,
    shadow_users,
    users,
)
from keystone_cassandra_token.drivers.limit import limits
from keystone_cassandra_token.drivers.resource import projects
from keystone_cassandra_token.tables import reconcile

#: Seconds for which a row may be too young.
PATIENCE = 60

ALL_DERIVED = all_derived()
HOUR = datetime.timedelta(hours=1)


def fresh(*names):
    return {name: uuid.uuid4().hex for name in names}


class Maker:
    """Makes one base row after the other; each returns its key.

    What is given stands for what it would make up, so that a base row can be
    made again.
    """

    def trust(self, **given):
        values = {
            **fresh('id', 'trustor_user_id', 'trustee_user_id', 'project_id'),
            'impersonation': True,
            'expires_at': clock.utcnow() + HOUR,
            'remaining_uses': None,
            **given,
        }
        trust.Trust().create_trust(values.pop('id'), values, [])

    def credential(self, **given):
        values = {
            **fresh('id', 'user_id', 'project_id', 'type'),
            'encrypted_blob': 'secret',
            'key_hash': 'hash',
            **given,
        }
        credential.Credential().create_credential(values['id'], values)

    def application_credential(self, **given):
        values = {
            **fresh('id', 'name', 'user_id', 'project_id'),
            'secret': 'secret',
            'expires_at': clock.utcnow() + HOUR,
            **given,
        }
        driver = application_credential.ApplicationCredential()
        driver.create_application_credential(values, [])

    def access_rule(self, **given):
        rule = {
            **fresh('id', 'user_id', 'path'),
            'service': 'compute',
            'method': 'GET',
            **given,
        }
        rules = application_credential.ACCESS_RULES
        rules.create(base.shared(keystone.conf.CONF), rules.entity.new(rule))

    def id_mapping(self, **given):
        values = fresh('public_id', 'domain_id', 'local_id')
        values |= {'entity_type': 'user', **given}
        public_id = values.pop('public_id')
        id_mapping.IDMappings().create_id_mapping(values, public_id)

    def user(self, **given):
        values = {
            **fresh('id', 'name', 'domain_id', 'default_project_id'),
            'enabled': True,
            **given,
        }
        identity.Identity().create_user(values['id'], values)

    def federated_user(self, **given):
        values = fresh('id', 'domain_id', 'unique_id')
        values |= {'idp_id': 'idp', 'protocol_id': 'saml2', **given}
        user = {'domain_id': values['domain_id'], 'enabled': True}
        identity.Identity().create_user(
            values['id'], {'id': values['id'], **user}
        )
        shadow_users.ShadowUsers().create_federated_object(
            {
                'user_id': values['id'],
                'idp_id': values['idp_id'],
                'protocol_id': values['protocol_id'],
                'unique_id': values['unique_id'],
                'display_name': 'shown',
            }
        )

    def nonlocal_user(self, **given):
        shadow_users.ShadowUsers().create_nonlocal_user(
            {**fresh('id', 'name', 'domain_id'), 'enabled': True, **given}
        )

    def group(self, **given):
        values = {**fresh('id', 'name', 'domain_id'), **given}
        identity.Identity().create_group(values['id'], values)

    def project(self, **given):
        values = fresh('id', 'name', 'domain_id', 'parent_id', 'tag') | given
        values |= {'tags': [values.pop('tag')], 'is_domain': False}
        store = identity.Identity().db
        projects.PROJECTS.create(store, projects.PROJECTS.entity.new(values))

    def grant(self, **given):
        values = {**fresh('target_id', 'actor_id', 'role_id'), **given}
        grants.add(identity.Identity().db, **values)

    def registered_limit(self, **given):
        values = {**fresh('id', 'service_id', 'resource_name'), **given}
        store = identity.Identity().db
        new = limits.new_registered({'default_limit': 1, **values})
        limits.REGISTERED_LIMITS.create(store, new)

    def limit(self, **given):
        values = fresh('id', 'project_id', 'domain_id', 'registered_limit_id')
        values |= fresh('service_id', 'resource_name')
        values |= {'resource_limit': 1, **given}
        store = identity.Identity().db
        limits.LIMITS.create(store, limits.LIMITS.entity.new(values))

    def membership(self, **given):
        values = {**fresh('user_id', 'group_id'), **given}
        memberships.MEMBERSHIPS.add(identity.Identity().db, **values)

    def role(self, **given):
        values = {**fresh('id', 'name', 'domain_id'), **given}
        role.Role().create_role(values['id'], values)

    def identity_provider(self, **given):
        values = fresh('id', 'domain_id', 'remote_id') | given
        values |= {'enabled': True, 'remote_ids': [values.pop('remote_id')]}
        federation.Federation().create_idp(values['id'], values)

    def request_token(self, **given):
        values = fresh('id', 'consumer_id', 'request_secret') | given
        new = dict.fromkeys(oauth1.REQUEST.columns) | values
        store = identity.Identity().db
        store.run_each(*oauth1.REQUEST_INDEXES.inserts(new))
        assert store.cas(oauth1.INSERT, **oauth1.REQUEST.dump(new))

    def access_token(self, **given):
        values = fresh('id', 'authorizing_user_id', 'consumer_id')
        values |= fresh('access_secret', 'project_id', 'role_ids') | given
        store = identity.Identity().db
        oauth1.ACCESS_TOKENS.create(store, oauth1.ACCESS_TOKENS.new(values))

    def project_endpoint(self, **given):
        values = {**fresh('project_id', 'endpoint_id'), **given}
        store = identity.Identity().db
        project_endpoints.ENDPOINTS_OF.add(store, **values)

    def project_endpoint_group(self, **given):
        values = {**fresh('project_id', 'endpoint_group_id'), **given}
        store = identity.Identity().db
        project_endpoints.GROUPS_OF.add(store, **values)


@dataclasses.dataclass(frozen=True)
class Case:
    """A kind, and the base rows of it that one method of a maker makes.

    :ivar given: what makes a base row again, if it is the same.
    :ivar without: tables where these base rows have no row.
    :ivar fixed: what all of them have.
    """

    table: str
    maker: str
    given: tuple[str, ...]
    without: tuple[str, ...] = ()
    fixed: tuple[tuple[str, object], ...] = ()

    @property
    def derived(self):
        return ALL_DERIVED[self.table]

    @property
    def index_tables(self):
        return [
            table
            for table in self.derived.tables
            if table.name not in self.without
        ]

    @property
    def claim_specs(self):
        return [
            spec
            for spec in self.derived.claim_specs
            if spec.claims.table not in self.without
        ]

    @property
    def tables(self):
        return tables_of(self.derived)

    def make(self, **given):
        """Make a base row; return its key."""
        values = fresh(*self.given) | dict(self.fixed) | given
        getattr(Maker(), self.maker)(**values)
        return {name: values[name] for name in self.derived.key}

    def make_again(self):
        """Make a base row; return its key, and what makes it once more."""
        values = fresh(*self.given)
        if self.table == 'trust':
            values['expires_at'] = clock.utcnow() + HOUR
        return self.make(**values), lambda: self.make(**values)

    def __str__(self):
        return self.maker


CASES = [
    Case(
        'trust',
        'trust',
        ('id', 'trustor_user_id', 'trustee_user_id', 'project_id'),
    ),
    Case('credential', 'credential', ('id', 'user_id', 'project_id', 'type')),
    Case(
        'application_credential',
        'application_credential',
        ('id', 'user_id', 'name'),
    ),
    Case('access_rule', 'access_rule', ('id', 'user_id', 'path')),
    Case('id_mapping', 'id_mapping', ('public_id', 'domain_id', 'local_id')),
    Case(
        'user',
        'user',
        ('id', 'domain_id', 'name', 'default_project_id'),
        without=(
            'federated_user_by_idp',
            'federated_user_by_name',
            'federated_claim',
            'nonlocal_claim',
        ),
    ),
    Case(
        'user',
        'federated_user',
        ('id', 'domain_id', 'unique_id'),
        without=('user_by_default_project', 'user_claim', 'nonlocal_claim'),
    ),
    Case(
        'user',
        'nonlocal_user',
        ('id', 'domain_id', 'name'),
        without=(
            'user_by_default_project',
            'federated_user_by_idp',
            'federated_user_by_name',
            'user_claim',
            'federated_claim',
        ),
    ),
    Case('group', 'group', ('id', 'domain_id', 'name')),
    Case(
        'project', 'project', ('id', 'domain_id', 'parent_id', 'name', 'tag')
    ),
    Case(
        'grant_by_target',
        'grant',
        ('target_id', 'actor_id', 'role_id'),
        fixed=(('type', 'UserProject'), ('inherited', False)),
    ),
    Case(
        'registered_limit',
        'registered_limit',
        ('id', 'service_id', 'resource_name'),
    ),
    Case(
        'limit',
        'limit',
        ('id', 'project_id', 'domain_id', 'registered_limit_id'),
    ),
    Case('membership_by_user', 'membership', ('user_id', 'group_id')),
    Case('role', 'role', ('id', 'name', 'domain_id')),
    Case('identity_provider', 'identity_provider', ('id', 'remote_id')),
    Case('request_token', 'request_token', ('id', 'consumer_id')),
    Case(
        'access_token',
        'access_token',
        ('id', 'authorizing_user_id', 'consumer_id'),
    ),
    Case(
        'project_endpoint', 'project_endpoint', ('project_id', 'endpoint_id')
    ),
    Case(
        'project_endpoint_group',
        'project_endpoint_group',
        ('project_id', 'endpoint_group_id'),
    ),
]
#: Entities with names on which all datacenters agree, by how they are made.
NAMED = {
    'user': users.USERS,
    'group': groups.GROUPS,
    'project': projects.PROJECTS,
    'role': role.ROLES,
    'application_credential': application_credential.CREDENTIALS,
    'registered_limit': limits.REGISTERED_LIMITS,
    'limit': limits.LIMITS,
    'identity_provider': federation.IDPS,
}

INDEX_TABLES = [(case, table) for case in CASES for table in case.index_tables]
CLAIM_SPECS = [(case, spec) for case in CASES for spec in case.claim_specs]


def case_of(maker):
    (found,) = (case for case in CASES if case.maker == maker)
    return found


def tables_of(derived):
    return [
        derived.base_table,
        *(table.name for table in derived.tables),
        *(spec.claims.table for spec in derived.claim_specs),
    ]


class Tables:
    """Tables as they are on the node, without the store's statements."""

    def __init__(self, store, keyspace):
        self.store = store
        self.keyspace = keyspace
        self._session = store.sessions.get().session

    def execute(self, text, *values):
        return self._session.execute(text, values, timeout=60)

    def rows(self, table):
        """Return all rows but those of fences."""
        found = self.execute(f'SELECT * FROM {self.keyspace}."{table}"')
        return [tuple(row.values()) for row in found if not _is_fence(row)]

    def contents(self, derived):
        return {
            table: sorted(map(str, self.rows(table)))
            for table in tables_of(derived)
        }

    def insert(self, table, row, using=''):
        names, markers = ', '.join(row), ', '.join(['%s'] * len(row))
        self.execute(
            f'INSERT INTO {self.keyspace}."{table}" ({names})'
            f' VALUES ({markers}){using}',
            *row.values(),
        )

    def delete(self, table, key, using=''):
        if 'bucket' in self._primary_key(table):  # where all are together
            key = {'bucket': 0, **key}
        where = ' AND '.join(f'{name} = %s' for name in key)
        self.execute(
            f'DELETE FROM {self.keyspace}."{table}"{using} WHERE {where}',
            *key.values(),
        )

    def empty(self):
        """Delete all rows; with a few of them this is faster than TRUNCATE."""
        there = {}
        for table in {
            table
            for derived in ALL_DERIVED.values()
            for table in tables_of(derived)
        }:
            key = ', '.join(self._primary_key(table))
            there[table] = self._session.execute_async(
                f'SELECT {key} FROM {self.keyspace}."{table}"', timeout=60
            )
        for table, found in there.items():
            for key in found.result():
                self.delete(table, key)

    def _primary_key(self, table):
        keyspace = self._session.cluster.metadata.keyspaces[self.keyspace]
        return [each.name for each in keyspace.tables[table].primary_key]

    def base_row(self, derived, key):
        return self.store.one(derived.find_everywhere, derived.row, **key)

    def places(self, derived, table, key):
        """Return the rows that a base row should have."""
        return list(table.rows(self.base_row(derived, key)))

    def place(self, derived, table, key):
        (found,) = self.places(derived, table, key)
        return found

    def row(self, table, place):
        found = self.store.one(table.find, table.row, **table.key(place))
        return found and {name: found[name] for name in table.row.columns}

    def name(self, derived, spec, key):
        """Return the key of the claim that a base row should have."""
        (found,) = spec.keys(self.store, self.base_row(derived, key))
        return found

    def claim(self, spec, name):
        return self.store.one(spec.claims.get, spec.claims.row, **name)

    def make_claim(self, spec, name, state, **more):
        """Leave the claim of an owner that is nowhere; return the owner."""
        owner = uuid.uuid4().hex
        values = {
            'owner': owner,
            'state': state,
            'claimed_at': clock.to_micros(clock.utcnow()),
            **more,
        }
        self.insert(spec.claims.table, {**name, **values})
        return values['owner']


def _is_fence(row):
    """Return whether a row only keeps a creation from being made late."""
    said = {name for name, value in row.items() if value is not None}
    return said <= {'bucket', 'id', 'incarnation'} and 'incarnation' in said


def fix(store, derived, apply=True, problems=None):
    """Run; return what was found, by table: the counts that are not 0."""
    said = [] if problems is None else problems
    work = reconcile.Reconciler(store, apply=apply, problem=said.append)
    work.run(derived)
    assert problems is not None or not said
    assert work.counts.keys() == set(tables_of(derived))
    found = {
        table: {
            name: count
            for name, count in dataclasses.asdict(counts).items()
            if count and name != 'rows'
        }
        for table, counts in work.counts.items()
    }
    return {table: counts for table, counts in found.items() if counts}


def at_rest(store, derived):
    """Run until nothing is too young to be looked at; return as :func:`fix`.

    What was written just now has a timestamp that the clock may not have
    passed yet.
    """
    end = time.monotonic() + PATIENCE
    while True:
        found = fix(store, derived)
        is_young = any('young' in counts for counts in found.values())
        if not is_young or time.monotonic() > end:
            return found
