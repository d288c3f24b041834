# SPDX-License-Identifier: Apache-2.0
"""Every statement of the package is one that Cassandra understands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import cassandra
import cassandra.protocol
import pytest
from oslo_config import cfg

from keystone_cassandra_token.db import cql
from keystone_cassandra_token.db.connection import Connection
from keystone_cassandra_token.schema import ddl
from tests import statements

#: The driver has two classes of this name, without a common base.
REFUSALS = (
    cassandra.RequestValidationException,
    cassandra.protocol.RequestValidationException,
)


@pytest.fixture
def connection(conf: cfg.ConfigOpts) -> Iterator[Connection]:
    with ddl.connected(conf) as connection:
        yield connection


def refused(
    connection: Connection, given: Mapping[str, cql.Statement]
) -> dict[str, str]:
    """Return what the node says of statements that it cannot prepare."""
    said = {}
    for name, statement in given.items():
        try:
            prepared = connection.prepare(statement)
        except REFUSALS as error:
            said[name] = str(error)
        else:
            columns = {column.name for column in prepared.column_metadata}
            assert columns == statement.binds, name
    return said


def test_every_statement_is_understood(connection: Connection) -> None:
    found = statements.collected()
    assert len(found) > 750
    assert refused(connection, found) == {}


@pytest.mark.parametrize(
    'text',
    [
        'SELECT nme FROM project WHERE id = :id',
        'SELECT name FROM projct WHERE id = :id',
        'SELECT name FROM project WHERE id == :id',
        'SELECT name FROM project WHERE name = :name',
    ],
)
def test_a_typo_is_told_with_the_statements_name(
    connection: Connection, text: str
) -> None:
    assert refused(connection, {'projects.GET': cql.read(text)}).keys() == {
        'projects.GET'
    }
