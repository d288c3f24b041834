# SPDX-License-Identifier: Apache-2.0
"""Kinds: what repair reads of truths, and of nothing else."""

from __future__ import annotations

from keystone_cassandra_token.db.rows import Row
from keystone_cassandra_token.drivers import credential
from keystone_cassandra_token.drivers.resource import projects
from keystone_cassandra_token.tables.derived import Kind
from keystone_cassandra_token.tables.entity import Entity
from keystone_cassandra_token.tables.index import Index, Indexes


def test_it_reads_what_decides_what_follows() -> None:
    kind = Kind.of(credential.CREDENTIALS)
    assert set(kind.row.columns) == {
        *('id', 'incarnation', 'user_id', 'project_id', 'type')
    }
    assert [link.table for link in kind.links] == [
        *('credential_by_user', 'credential_by_project', 'credential_by_type')
    ]
    assert not kind.names


def test_a_name_is_a_claim() -> None:
    kind = Kind.of(projects.PROJECTS, 'name', 'tags')
    assert 'tag' not in kind.row.columns  # an index lists by each of its tags
    (names,) = kind.names
    assert names.claims is projects.PROJECTS.claims


def test_what_is_kept_together_is_one_partition() -> None:
    things = Entity(
        'thing',
        Row('id', 'incarnation', 'name'),
        Indexes(Index('thing_by_name', 'name')),
        together=True,
    )
    kind = Kind.of(things)
    assert kind.all.cql.endswith(' FROM thing WHERE bucket = 0')
    assert kind.find.cql.endswith(' WHERE bucket = 0 AND id = :id')
    assert not kind.all.full_scan


def test_a_row_without_its_birth_column_is_none() -> None:
    kind = Kind.of(credential.CREDENTIALS)
    assert not kind.is_born(None)
    there = dict.fromkeys(('id', *credential.CREDENTIALS.required), 'x')
    for name in credential.CREDENTIALS.required:
        assert not kind.is_born(there | {name: None})
    assert kind.is_born(there)
