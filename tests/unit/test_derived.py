# SPDX-License-Identifier: Apache-2.0
"""Derived tables: what reconcile reads of base rows, and nothing else."""

from __future__ import annotations

import uuid

from keystone_cassandra_token.db import clock
from keystone_cassandra_token.db.rows import Row
from keystone_cassandra_token.drivers import credential
from keystone_cassandra_token.drivers.resource import projects
from keystone_cassandra_token.tables.derived import DerivedTables
from keystone_cassandra_token.tables.entity import Entity
from keystone_cassandra_token.tables.index import Index, Indexes


def test_it_reads_what_decides_what_follows() -> None:
    derived = DerivedTables.of(credential.CREDENTIALS)
    assert set(derived.row.columns) == {
        *('id', 'incarnation', 'born'),
        *('user_id', 'project_id', 'type'),
    }
    assert [table.name for table in derived.tables] == [
        *('credential_by_user', 'credential_by_project', 'credential_by_type')
    ]
    assert not derived.claim_specs


def test_a_name_is_a_claim() -> None:
    derived = DerivedTables.of(projects.PROJECTS, 'name', 'tags')
    # An index lists by each of its tags.
    assert 'tag' not in derived.row.columns
    (spec,) = derived.claim_specs
    assert spec.claims is projects.PROJECTS.claims


def test_what_is_kept_together_is_one_partition() -> None:
    things = Entity(
        'thing',
        Row('id', 'incarnation', 'name'),
        Indexes(Index('thing_by_name', 'name')),
        single_partition=True,
    )
    derived = DerivedTables.of(things)
    assert derived.all.cql.endswith(' FROM thing WHERE bucket = 0')
    assert derived.find.cql.endswith(' WHERE bucket = 0 AND id = :id')
    assert not derived.all.full_scan


def test_a_row_without_its_birth_column_is_none() -> None:
    derived = DerivedTables.of(credential.CREDENTIALS)
    assert not derived.exists(None)
    there = dict.fromkeys(('id', *credential.CREDENTIALS.required), 'x')
    there['incarnation'] = there['born'] = clock.incarnation()
    for name in credential.CREDENTIALS.required:
        assert not derived.exists(there | {name: None})
    assert derived.exists(there)


def test_only_what_is_born_is_there() -> None:
    derived = DerivedTables.of(credential.CREDENTIALS)
    there = dict.fromkeys(('id', *credential.CREDENTIALS.required), 'x')
    there['incarnation'] = there['born'] = clock.incarnation()
    assert not derived.exists(there | {'born': None})
    # But for what servers of older versions have made.
    former = uuid.uuid1(0x4B4355 << 24)
    assert derived.exists(there | {'incarnation': former, 'born': None})
